"""Alerts fire when their fault befalls a real server, seen by a real Prometheus; and only then.

The rules are the real ones but for how long a fault must last: seconds in place of minutes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ops import faults
from ops.deployments import World, shortened
from ops.test_alerts import alerts
from support.prometheus import Prometheus, api

FIRING = {
    "ndoo-apart": """
        NdooReplicasDisagree NdooReplicaBehind NdooSuspended NdooSuspendedInPart
        NdooGenerationsDiffer""",
    "ndoo-away": """
        NdooFeedDisconnected NdooRegisterAging NdooRegisterNearlyStale NdooStale
        NdooErrorBudgetBurnsSlowly""",
    "ndoo-empty": """
        NdooNotReady NdooNoneAnswers NdooErrorRatio NdooErrorBudgetBurnsFast
        NdooSnapshotRefused""",
    "ndoo-restarted": "NdooRestarts",
    "ndoo-lost": "NdooFeedLost NdooResyncLoop NdooReplicaDown NdooAllReplicasDown",
    "ndoo-signs": """
        NdooFeedSilent NdooRegisterJump NdooSnapshotOld NdooStateRefused NdooStreamsFull
        NdooCheckSlow NdooChangeRefused NdooFeedLag""",
    "ndoo-blocked": "NdooEventLoopStalls NdooEventLoopStuck",
    "ndoo-guarded": """
        NdooAccessRefused NdooQuotaRefusals NdooBudgetSpent NdooEnumerationSignal
        NdooEnumerationStopped NdooBudgetStoreFailing NdooCertificateExpiresSoon
        NdooCertificateExpires NdooCertificateRefused NdooPolicyRefused NdooAuditFailing
        NdooBulkSlow""",
}
SHOWN = [(job, alert) for job, names in FIRING.items() for alert in names.split()]
OTHERS = {
    "NdooAbsent": "has a test of its own below",
    "NdooInternalError": "takes a fault of this software",
}
"""What no fault here brings about, and why. The cases of promtool show all of them."""

OF_THE_MACHINE = "NdooCheckSlow|NdooBulkSlow|NdooEventLoopSt.+|NdooReplicaDown"
"""What a healthy server on a busy machine may be warned of; latency has its error budget, too. A
scrape may take as long as from one to the next: half a second here.
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After all faults, while the healthy deployment still answers."""
    with contextlib.ExitStack() as ending:
        world = World(tmp_path_factory.mktemp("alerts"), ending)
        pool = ending.enter_context(ThreadPoolExecutor())
        stop = threading.Event()
        ending.callback(stop.set)
        traffic = pool.submit(faults.healthy, world, stop)
        harms = (
            faults.apart, faults.away, faults.empty, faults.lost, faults.signs, faults.guarded,
            faults.blocked, faults.restarted,
        )  # fmt: skip
        for harm in [pool.submit(harm, world) for harm in harms]:
            harm.result()
        yield world
        stop.set()
        traffic.result()


@pytest.mark.parametrize(("job", "alert"), SHOWN)
def test_it_fires(world: World, job: str, alert: str) -> None:
    world.wait_until_fired(job, alert)


def test_nothing_fires_where_nothing_is_wrong(world: World) -> None:
    world.prometheus.wait_for('sum(ndoo_numbers_total{job="ndoo-healthy"}) > 100')
    healthy = f'job="ndoo-healthy",slo!="latency",alertname!~"{OF_THE_MACHINE}"'
    fired = f'max_over_time(ALERTS{{alertstate="firing",{healthy}}}[10m])'
    assert world.prometheus.query(fired) == []
    judged = world.prometheus.query('job_slo:error_budget:burn_rate1h{job="ndoo-healthy"}')
    assert {each.labels["slo"] for each in judged} == {"availability", "freshness", "latency"}


def test_every_sentence_is_filled_in(world: World) -> None:
    firing = api(world.prometheus.address, "alerts")["alerts"]
    sentences = [sentence for alert in firing for sentence in alert["annotations"].values()]
    assert len(sentences) > 30
    for sentence in sentences:
        assert "no value" not in sentence
        assert "<error" not in sentence
        assert "{{" not in sentence


def test_no_target_at_all_is_noticed(tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path, {}, shortened(tmp_path))
    try:
        prometheus.wait_for_alert("NdooAbsent")
    finally:
        prometheus.close()


def test_every_alert_is_shown_or_told_why_not() -> None:
    shown = {alert for _, alert in SHOWN}
    assert sorted(shown | set(OTHERS)) == sorted(alerts())
    assert not shown & set(OTHERS)
