"""Every panel of the dashboard shows something, in a Prometheus that scraped a real service."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ndoo.client import Tls
from ndoo.publish.open import open_publisher
from support.certificates import Authority
from support.prometheus import Prometheus, promtool

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "ops" / "grafana" / "ndoo.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
MOVES = {
    "Numbers a second, by verdict", "Numbers a second, by method", "Calls a second, by method",
    "Calls that failed, by status", "Calls not answered, by reason", "Check",
    "Bulk messages, by method", "Changes a second, by kind", "From recorded to in force",
    "Time to publish", "Numbers a second, by client", "Left of the day's budget",
    "Certificates expire in", "Audit records a second",
}  # fmt: skip
"""Panels about what the traffic does: their data must not be all zero."""

CLIENTS = """
[clients.cohort-builder]
certificate_names = ["DNS:cohort.example"]
rpcs = ["Check", "BatchCheck", "StreamCheck", "CheckSet", "GetRegister"]
purposes = ["research"]
numbers_per_second = "unlimited"
numbers_per_day = 1_000_000_000

[clients.cohort-builder.signals]
near_share_max = 1.0
askings_max = 1e9
"""

traffic = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "traffic.py")))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A service that is asked and fed while it is scraped, and who scraped it."""
    path = tmp_path_factory.mktemp("dashboard")
    authority = Authority(path)
    own = authority.issue("cohort", names="DNS:cohort.example")
    tls = Tls(ca=authority.cert, certificate=own.cert, key=own.key)
    feed = f"dir:{path / 'feed'}"
    with contextlib.ExitStack() as ending:
        publisher = ending.enter_context(contextlib.closing(open_publisher(feed)))
        traffic.load(publisher)
        grpc, http = ending.enter_context(_serving(feed, path, authority))
        (path / "prometheus").mkdir()
        prometheus = Prometheus(path / "prometheus", [http])
        ending.callback(prometheus.close)
        prometheus.wait_for_scrape()
        with traffic.Traffic(grpc, tls=tls, purpose="research") as asking:
            for change in itertools.islice(traffic.changes(), 6):
                asking.ask()
                publisher.append([change])
        prometheus.wait_for("sum(ndoo_changes_applied_total) == 6")
        prometheus.wait_for_scrape()
        yield SimpleNamespace(prometheus=prometheus, http=http)


@contextlib.contextmanager
def _serving(feed: str, path: Path, authority: Authority) -> Iterator[tuple[str, str]]:
    """`ndoo serve` with everything on that there is: its gRPC and HTTP addresses."""
    (path / "clients.toml").write_text(CLIENTS, "utf-8")
    own = authority.issue("service")
    command = [
        sys.executable, "-m", "ndoo", "serve", "--feed", feed, "--listen", "127.0.0.1:0",
        "--http-listen", "127.0.0.1:0", "--state-dir", str(path / "state"),
        "--audit", str(path / "audit"), "--tls-certificate", own.cert, "--tls-key", own.key,
        "--tls-client-ca", authority.cert, "--clients", path / "clients.toml",
        "--budgets", f"dir:{path / 'budgets'}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            events = map(json.loads, process.stdout)
            listening = next(event for event in events if event["event"] == "listening")
            yield listening["grpc"], listening["http"]
        finally:
            process.kill()


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_every_query_finds_data(served: SimpleNamespace, title: str, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    values = [sample.value for sample in served.prometheus.query(expression)]
    known = [value for value in values if not math.isnan(value)]
    assert known, expression
    assert title not in MOVES or max(known) > 0, expression


def test_what_a_server_shows_is_as_promtool_wants_it(served: SimpleNamespace) -> None:
    with urllib.request.urlopen(f"http://{served.http}/metrics", timeout=30) as response:
        text = response.read().decode()
    assert 'ndoo_chunk_seconds_count{rpc="CheckSet"}' in text
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert promtool("check", "metrics", stdin="a_total no number\n").returncode != 0


def test_no_series_holds_a_number_of_a_person(served: SimpleNamespace) -> None:
    for sample in served.prometheus.query('{__name__=~".+"}'):
        told = [value for label, value in sample.labels.items() if label != "generation"]
        assert not re.search(r"\d{6}", " ".join(told)), sample.labels


def test_all_panels_are_of_the_chosen_replicas_and_data_source() -> None:
    assert {panel["title"] for panel in PANELS} > MOVES
    for expression in (expression for _, expression in QUERIES):
        assert len(re.findall(r"\b(?:ndoo|grpc_server|process)_\w+", expression)) == (
            expression.count('{instance=~"$instance"')
        ), expression
    for panel in PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert sources == [{"type": "prometheus", "uid": "${datasource}"}] * len(sources)


def test_panels_lie_beside_each_other_and_freshness_comes_first() -> None:
    panels: list[dict[str, Any]] = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in panels)
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    assert {"Phase", "Age of the register"} <= {panel["title"] for panel in PANELS[:3]}
