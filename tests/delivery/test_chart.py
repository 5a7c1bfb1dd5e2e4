"""The chart renders to what Kubernetes takes, with every example and whatever can be asked for."""

from __future__ import annotations

import json
import re
import runpy
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ndoo.config import Settings
from support import kubernetes
from support.chart import EXAMPLES, ROOT, Chart, HelmRefused, Manifests, helm, merged
from support.chart_values import COMBINATIONS, EVERYTHING, LEAST, rendered
from support.prometheus import promtool

EXAMPLE_NAMES = sorted(path.stem.removeprefix("values-") for path in EXAMPLES.glob("values-*.yaml"))
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

writing = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "chart.py")))


def test_there_is_an_example_for_each_purpose() -> None:
    assert EXAMPLE_NAMES == ["dev", "mtls", "production"]


@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_lint(chart: Chart, example: str) -> None:
    values = EXAMPLES / f"values-{example}.yaml"
    told = helm("lint", "--strict", chart.path, "--values", values)
    assert "0 chart(s) failed" in told
    assert "[WARNING]" not in told


@pytest.mark.parametrize("version", kubernetes.VERSIONS)
@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_kubernetes_takes_every_example(chart: Chart, example: str, version: str) -> None:
    manifests = chart.example(example)
    assert manifests.objects
    assert [fault for each in manifests.objects for fault in kubernetes.faults(each, version)] == []


@pytest.mark.parametrize("name", COMBINATIONS)
def test_kubernetes_takes_whatever_is_asked_for(chart: Chart, name: str) -> None:
    manifests = rendered(chart, name)
    for version in (kubernetes.VERSIONS[0], kubernetes.VERSIONS[-1]):
        assert [
            fault for each in manifests.objects for fault in kubernetes.faults(each, version)
        ] == []
    _names_are_names(manifests)


def test_the_longest_names_are_names(chart: Chart) -> None:
    for name in ("x" * 53, "x-" * 26 + "x", "x" * 40 + "---x", "true"):
        _names_are_names(chart.render(EVERYTHING, name=name))


@pytest.mark.parametrize("name", ["1blue", "blue.green"])
def test_a_release_after_which_no_service_can_be_called_is_refused(chart: Chart, name: str) -> None:
    with pytest.raises(HelmRefused, match="fullnameOverride"):
        chart.render(LEAST, name=name)
    _names_are_names(chart.render(merged(LEAST, COMBINATIONS["names"]), name=name))


def _names_are_names(manifests: Manifests) -> None:
    """The limits of names and labels, which no schema tells."""
    for each in manifests.objects:
        metadata = each["metadata"]
        form = SERVICE if each["kind"] == "Service" else NAME
        assert form.fullmatch(metadata["name"]), f"{each['kind']} {metadata['name']}"
        for label, value in metadata.get("labels", {}).items():
            assert LABEL.fullmatch(value), f"{each['kind']} {metadata['name']}: {label}"
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests.objects]
    assert len(names) == len(set(names))


def test_two_releases_of_a_namespace_share_nothing(chart: Chart) -> None:
    values = merged(LEAST, COMBINATIONS["watched"], COMBINATIONS["snapshots"])
    names = [
        {
            (each["kind"], each["metadata"]["name"])
            for each in chart.render(values, name=name).objects
        }
        for name in ("blue", "green")
    ]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_what_an_example_renders_to_is_what_was_looked_at(chart: Chart, example: str) -> None:
    rendered = writing.golden(chart.example(example).text)
    path = EXAMPLES / f"values-{example}.yaml"
    assert rendered == writing.golden_of(path).read_text("utf-8"), "see it, then 'make chart'"


def test_what_is_generated_is_up_to_date() -> None:
    for path, text in writing.generated().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run 'make chart'"


def test_every_value_is_documented_and_in_the_schema() -> None:
    values = yaml.safe_load((ROOT / "helm" / "ndoo" / "values.yaml").read_text("utf-8"))
    schema = json.loads((ROOT / "helm" / "ndoo" / "values.schema.json").read_text("utf-8"))
    told = {path for path, _, _ in writing.documented()}
    assert [path for path in _paths(values, told) if path not in told] == []
    _same_keys(values, schema, schema, "")


def _paths(values: Mapping[str, Any], told: set[str], before: str = "") -> list[str]:
    """The paths of all values that a comment has to stand above: not below one that has it."""
    paths: list[str] = []
    for key, value in values.items():
        path = f"{before}{key}"
        deeper = isinstance(value, Mapping) and value and path not in told
        paths += _paths(value, told, f"{path}.") if deeper else [path]
    return paths


def _same_keys(values: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str) -> None:
    """Every map of the values is closed, and says what may stand in it."""
    if reference := schema.get("$ref"):
        schema = root["definitions"][reference.rpartition("/")[2]]
    if not isinstance(values, Mapping) or "properties" not in schema:
        return
    assert schema["additionalProperties"] is False, path
    assert values.keys() <= schema["properties"].keys(), path
    for key, value in values.items():
        _same_keys(value, schema["properties"][key], root, f"{path}.{key}")


def test_the_defaults_that_the_chart_repeats_are_those_of_the_server() -> None:
    values = yaml.safe_load((ROOT / "helm" / "ndoo" / "values.yaml").read_text("utf-8"))
    defaults = {writing.value_name(each): each.default for each in writing.tunables()}
    assert values["settings"] == {name: defaults[name] for name in values["settings"]}
    bytes_max = Settings.__dataclass_fields__["audit_bytes_max"].default
    assert values["audit"]["bytesMax"] == bytes_max


def test_the_rules_of_prometheus_are_those_of_the_repository(chart: Chart) -> None:
    rules = chart.example("production").one("PrometheusRule")["spec"]
    groups = [
        group
        for name in ("recording", "alerts")
        for group in yaml.safe_load((ROOT / "ops" / "prometheus" / f"{name}.yaml").read_text())[
            "groups"
        ]
    ]
    assert sorted(rules["groups"], key=lambda group: group["name"]) == sorted(
        groups, key=lambda group: group["name"]
    )
    checked = promtool("check", "rules", "/dev/stdin", stdin=yaml.safe_dump(rules))
    assert checked.returncode == 0, checked.stderr


def test_the_dashboard_is_that_of_the_repository(chart: Chart) -> None:
    (board,) = (
        each
        for each in chart.example("production").of("ConfigMap")
        if "grafana_dashboard" in each["metadata"]["labels"]
    )
    (text,) = board["data"].values()
    assert text == (ROOT / "ops" / "grafana" / "ndoo.json").read_text("utf-8")


def test_the_package_holds_no_more_than_the_chart(chart: Chart) -> None:
    with tarfile.open(chart.path) as package:
        members = package.getmembers()
    assert all(member.isfile() for member in members), "links and folders"
    folders = {Path(member.name).parts[1] for member in members}
    assert folders <= {
        ".helmignore", "Chart.yaml", "README.md", "values.yaml", "values.schema.json", "templates",
        "files",
    }  # fmt: skip


def test_the_notes_name_what_is_not_protected(chart: Chart) -> None:
    def unprotected(*values: str | Path) -> str:
        told = helm("install", "ndoo", chart.path, "--dry-run=client", *values, stdin=least)
        return told.partition("What is not protected:")[2]

    least = json.dumps(LEAST)
    assert len(unprotected("--values", "-").split("\n- ")) == 7
    production = unprotected("--values", EXAMPLES / "values-production.yaml")
    assert production.strip() == "- Nothing that this chart can protect."
    mtls = EXAMPLES / "values-mtls.yaml", "--set", "budgets.caSecret.name="
    told = unprotected("--values", *mtls, "--set", "budgets.certificateSecret.name=",
                       "--set", "budgets.url=redis://ndoo-budgets@budgets.example/0")  # fmt: skip
    assert "Budgets are in plaintext" in told


def test_the_notes_ask_as_somebody_whom_the_service_knows(chart: Chart) -> None:
    for example, shown in (
        ("dev", ""), ("mtls", " --tls-certificate FILE --tls-key FILE"),
        ("production", " --token-file FILE"),
    ):  # fmt: skip
        values = EXAMPLES / f"values-{example}.yaml"
        told = helm("install", "ndoo", chart.path, "--dry-run=client", "--values", values)
        tls = "" if example == "dev" else " --tls-ca FILE --tls-server-name ndoo"
        assert f"  ndoo status{tls}{shown}\n" in told
