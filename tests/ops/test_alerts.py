"""The rules: well formed, about metrics that exist, each shown to fire and explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndoo.ops.metrics import Metrics
from ndoo.ops.reasons import CODES, FEED_REFUSALS, REFUSALS, RESYNCS, STATE_REFUSALS
from ndoo.ops.watch import Sign
from ndoo.register.replica import Phase, Replica
from support.prometheus import promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "ops" / "prometheus"
ALERTS, RECORDING = FOLDER / "alerts.yaml", FOLDER / "recording.yaml"
CASES = sorted((FOLDER / "tests").glob("*.yaml"))
PAGES = [ROOT / "docs" / name for name in ("runbook.md", "slo.md")]
KNOWN = {
    "reason": {
        *REFUSALS,
        *RESYNCS,
        *FEED_REFUSALS,
        *STATE_REFUSALS,
        *(sign.value for sign in Sign),
    },
    "grpc_code": set(CODES),
    "phase": {phase.name.lower() for phase in Phase},
}


def alerts() -> dict[str, str]:
    """What stands in the file of each alert, by name."""
    _, *parts = ALERTS.read_text("utf-8").split("- alert: ")
    return {part.partition("\n")[0]: part for part in parts}


def sections() -> dict[str, str]:
    """The text below each heading of the runbook that is the name of an alert."""
    _, *parts = PAGES[0].read_text("utf-8").split("\n### ")
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def samples() -> set[str]:
    """The names of all samples that a server shows."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    registry = Metrics(Replica(1.0), "test").registry
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in suffixes.get(family.type, [""])
    }


def test_there_are_rules() -> None:
    assert len(alerts()) > 40
    assert len(CASES) > 5
    checked = promtool("check", "rules", RECORDING, ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout
    checked = promtool("check", "config", FOLDER / "prometheus.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_each_fires_when_it_should(cases: Path) -> None:
    tested = promtool("test", "rules", cases)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_has_a_case_of_firing_and_one_of_not_firing() -> None:
    firing: dict[str, set[bool]] = {name: set() for name in alerts()}
    for name, is_quiet in expectations():
        firing[name].add(is_quiet)
    assert {name for name, seen in firing.items() if seen != {True, False}} == set()


def expectations() -> Iterator[tuple[str, bool]]:
    """The alert of each expectation in the cases, and whether it is not to fire."""
    form = (
        r'expr: ALERTS{alertname="(\w+)",alertstate="firing"}\n +eval_time: \w+\n +(exp_samples:.*)'
    )
    for path in CASES:
        text = path.read_text("utf-8")
        found = re.findall(form, text)
        assert len(found) == text.count("expr: ") > 0, f"another form in {path.name}"
        yield from ((name, samples == "exp_samples: []") for name, samples in found)


def test_replicas_are_compared_by_what_one_query_reads() -> None:
    """A scrape stored between two rules would make replicas that agree seem to differ."""
    _, _, rest = RECORDING.read_text("utf-8").partition("record: generation:ndoo_opt_outs:spread")
    rule = rest.partition("\n\n")[0]
    assert rule.count("ndoo_opt_outs") == rule.count("ndoo_revision_seq") == 2
    assert re.findall(r"\w+:\w+:\w+", rule) == []


def test_figures_are_recorded_before_the_cases_look_at_alerts() -> None:
    """promtool takes groups that are not named before all others, in no order."""
    rules = RECORDING.read_text("utf-8") + ALERTS.read_text("utf-8")
    groups = re.findall(r"^  - name: ([\w-]+)$", rules, re.MULTILINE)
    for path in CASES:
        (order,) = re.findall(r"group_eval_order:.*\n([^]]+\])", path.read_text("utf-8"))
        assert re.findall(r"[\w-]+", order) == groups, path.name


@pytest.mark.parametrize("name", alerts())
def test_each_says_what_to_do(name: str) -> None:
    rule = alerts()[name]
    (severity,) = re.findall(r"labels: \{severity: (critical|warning)\}", rule)
    assert re.search(r"^ +summary: .{20,}$", rule, re.MULTILINE)
    assert re.search(r"^ +description: .{40,}$", rule, re.MULTILINE)
    assert f"runbook_url: docs/runbook.md#{name.lower()}\n" in rule
    assert sections()[name].startswith(severity.capitalize())


def test_the_runbook_tells_of_no_alert_that_there_is_not() -> None:
    assert list(sections()) == list(alerts())


@pytest.mark.parametrize("path", [ALERTS, RECORDING, *PAGES], ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    """A misspelt one makes an alert that never fires."""
    recorded = set(re.findall(r"record: (\S+)", RECORDING.read_text("utf-8")))
    named = re.findall(r"[A-Za-z_:][\w:]*", path.read_text("utf-8"))
    shown = {name for name in named if re.match(r"(ndoo|grpc_server|process)_\w+$", name)}
    figures = {name for name in named if re.fullmatch(r"\w+:\w+:\w+", name)}
    assert shown | figures
    assert shown - samples() == set()
    assert figures - recorded == set()


def test_every_label_that_is_asked_for_exists() -> None:
    rules = RECORDING.read_text("utf-8") + ALERTS.read_text("utf-8")
    asked = re.findall(r'\b(reason|grpc_code|phase)=~?"([^"]+)"', rules)
    assert len(asked) > 20
    for label, pattern in asked:
        for each in pattern.split("|"):
            assert any(re.fullmatch(each, value) for value in KNOWN[label]), f"{label} {each}"
