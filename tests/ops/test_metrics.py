"""Metrics: every series is there from the start, and says what is so."""

from __future__ import annotations

import ast
import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ndoo.errors import InputError
from ndoo.ops import metrics as defined
from ndoo.ops.metrics import Metrics
from ndoo.ops.watch import Sign, Watch
from ndoo.register.changes import Kind
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.sets import BadSet
from ndoo.register.view import Answers, View
from ndoo.revision import Revision
from ndoo.server import status
from support.people import KEYS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SRC = Path(defined.__file__).parents[1]
table = SimpleNamespace(**runpy.run_path(str(SCRIPTS / "metrics_table.py")))
NOW = 1_000_000.0


class House:
    def __init__(self) -> None:
        self.now = NOW
        self.replica = Replica(3600.0)
        self.watch = Watch(100.0, 0.02)
        self.metrics = Metrics(self.replica, "test", lambda: self.now, self.watch)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def house() -> House:
    return House()


def reasons_in(*names: str) -> set[str]:
    """The reasons that stand in the sources *names*, beside the errors that a follower counts."""
    errors = {"HistoryChanged", "SequenceBroken", "SnapshotRefused", "StateRefused", "_refused"}
    found: set[str] = set()
    for path in [path for name in names for path in sorted((SRC / name).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in errors:
                for value in [word.value for word in node.keywords if word.arg == "reason"]:
                    found |= {each.value for each in ast.walk(value) if _is_reason(each)}
                if ast.unparse(node.func) == "_refused" and isinstance(node.args[0], ast.Constant):
                    found.add(f"SNAPSHOT_{node.args[0].value}")
    return found


def _is_reason(node: ast.AST) -> bool:
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and text.isupper() and not text.endswith("_")


def test_every_reason_begins_at_zero(house: House) -> None:
    found = reasons_in("feed", "register")
    assert {"GAP", "TRIMMED", "SNAPSHOT_DIGEST", "SNAPSHOT_SHRUNKEN", "STATE_FUTURE"} <= found
    for reason in found:
        name = (
            "ndoo_state_refused_total" if reason.startswith("STATE_")
            else "ndoo_feed_refused_total" if reason.startswith("SNAPSHOT_")
            else "ndoo_resyncs_total"
        )  # fmt: skip
        assert house.value(name, reason=reason) == 0, reason
    for reason in ("CHANGE_REFUSED", "INTERNAL"):
        assert house.value("ndoo_resyncs_total", reason=reason) == 0
    assert house.value("ndoo_feed_refused_total", reason="CHANGE_REFUSED") == 0
    for sign in Sign:
        assert house.value("ndoo_warning", reason=sign.value) == 0


def test_every_refusal_of_a_call_begins_at_zero(house: House) -> None:
    """Those that stand in the service, and those of the errors of the core that reach it."""
    found = set().union(*(_words_of_reasons(path) for path in (SRC / "server").glob("*.py")))
    assert {"TOO_MANY_REVISIONS", "MALFORMED_MESSAGE", "SET_TOO_LARGE"} <= found
    found |= {BadSet.reason} | {error.reason for error in status._TABLE if error is not InputError}
    for reason in found | {"INTERNAL"}:
        assert house.value("ndoo_refused_total", reason=reason) == 0, reason


def _words_of_reasons(path: Path) -> set[str]:
    return set(re.findall(r'\breason ?= ?"([A-Z_]+)"', path.read_text("utf-8")))


LABELS = {
    "grpc_type", "grpc_service", "grpc_method", "grpc_code", "rpc", "verdict", "reason", "kind",
    "phase", "generation", "version", "python", "certificate", "client", "signal", "le",
}  # fmt: skip


def test_every_metric_says_what_it_is_in_which_unit() -> None:
    for family in table.families():
        assert len(family.documentation.split()) >= 2, family.name
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert re.fullmatch(r"(grpc_server|ndoo)(_[a-z]+)+", family.name)
        is_time = re.match(r"Time |When |Moment |Age |Seconds |How late ", family.documentation)
        assert bool(is_time) == family.name.endswith("_seconds"), family.name
        assert (family.type == "histogram") <= family.name.endswith("_seconds"), family.name


def test_no_label_or_help_can_hold_a_number_of_a_person() -> None:
    for family in table.families():
        for sample in family.samples:
            assert set(sample.labels) <= LABELS, family.name
        told = [family.documentation, *(str(sample.labels) for sample in family.samples)]
        assert not re.search(r"\d{6}", " ".join(told)), family.name


def test_the_page_of_them_is_true() -> None:
    text = table.PAGE.read_text("utf-8")
    assert table.page(text) == text, "run '.venv/bin/python scripts/metrics_table.py'"


def test_clients_that_are_gone_leave_no_series(house: House) -> None:
    house.metrics.on_clients(["clinic", "registry"])
    for client in ("clinic", "registry"):
        assert house.value("ndoo_client_numbers_total", client=client) == 0
        house.metrics.on_budget(client, 10)
        house.metrics.on_signal(client, "SEQUENTIAL", True)
    house.metrics.on_clients(["registry"])
    of_clients = {
        sample.labels["client"]
        for family in house.metrics.registry.collect()
        for sample in family.samples
        if "client" in sample.labels
    }
    assert of_clients == {"registry"}
    assert house.value("ndoo_client_signal", client="registry", signal="SEQUENTIAL") == 1


def test_a_bulk_message_is_timed_by_its_method(house: House) -> None:
    answers = Answers(3, b"\1", b"\2", 1, 1)
    for method in ("Check", "StreamCheck"):
        house.metrics.call("any", "service", method).count(answers, 0.004)
        assert house.value("ndoo_numbers_total", rpc=method, verdict="opted_out") == 1
    assert house.value("ndoo_chunk_seconds_count", rpc="StreamCheck") == 1
    assert house.value("ndoo_chunk_seconds_sum", rpc="StreamCheck") == 0.004
    assert house.value("ndoo_chunk_seconds_count", rpc="BatchCheck") == 0


def test_what_is_counted_is_shown(house: House) -> None:
    house.metrics.on_resync("GAP")
    house.metrics.on_state_refused("STATE_FOREIGN")
    house.metrics.on_state_kept(NOW - 5)
    assert house.value("ndoo_resyncs_total", reason="GAP") == 1
    assert house.value("ndoo_state_refused_total", reason="STATE_FOREIGN") == 1
    assert house.value("ndoo_state_as_of_timestamp_seconds") == NOW - 5


@pytest.mark.parametrize(("recorded_at", "lag"), [(NOW - 2.5, 2.5), (NOW + 60, 0.0)])
def test_lag_is_never_negative(house: House, recorded_at: float, lag: float) -> None:
    house.metrics.on_changes({Kind.OPT_OUT: 3}, recorded_at)
    house.metrics.on_published(0.001)
    assert house.value("ndoo_feed_lag_seconds_sum") == lag
    assert house.value("ndoo_feed_lag_seconds_count") == 1
    assert house.value("ndoo_last_change_timestamp_seconds") == recorded_at
    assert house.value("ndoo_changes_applied_total", kind="opt_out") == 3


def test_a_lag_that_is_not_known_is_not_counted(house: House) -> None:
    house.metrics.on_changes({Kind.OPT_OUT: 1}, 0.0)
    house.metrics.on_published(0.001)
    assert house.value("ndoo_feed_lag_seconds_count") == 0
    assert house.value("ndoo_publish_seconds_count") == 1


def test_warnings_are_shown_as_long_as_they_hold(house: House) -> None:
    house.metrics.on_changes({Kind.OPT_OUT: 1}, NOW)
    house.now += 101
    assert house.value("ndoo_warning", reason="FEED_SILENT") == 1
    house.metrics.on_changes({Kind.OPT_OUT: 1}, NOW + 100)
    assert house.value("ndoo_warning", reason="FEED_SILENT") == 0
    house.watch.look(100, house.now)
    house.watch.look(200, house.now)
    assert house.value("ndoo_warning", reason="JUMP") == 1


def test_one_generation_is_named_at_a_time(house: House) -> None:
    assert house.value("ndoo_generation_info", generation="g") is None
    assert house.value("ndoo_as_of_age_seconds") == math.inf
    for generation, other in [("g", "h"), ("h", "g")]:
        view = View.of(np.array(KEYS[:3], np.uint32), Revision(generation, 4))
        house.replica.publish(State(Phase.LIVE, view, NOW))
        assert house.value("ndoo_generation_info", generation=generation) == 1
        assert house.value("ndoo_generation_info", generation=other) is None
        assert (house.value("ndoo_opt_outs"), house.value("ndoo_revision_seq")) == (3, 4)


def test_warnings_stop_no_answers(house: House) -> None:
    view = View.of(np.array(KEYS[:3], np.uint32), Revision("g", 4))
    house.replica.publish(State(Phase.LIVE, view, NOW))
    house.watch.look(3, NOW)
    house.watch.look(300, NOW)
    house.now += 101
    assert house.watch.warnings(house.now) == set(Sign)
    assert house.replica.answering_state(house.now)
    assert house.replica.phase(house.now) is Phase.LIVE
