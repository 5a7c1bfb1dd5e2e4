"""Each setting of the server has one place in the chart, and arrives as it was given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from ndoo.cli.main import commands
from ndoo.config import Settings
from ndoo.feed import url
from support.chart import EXAMPLES, Chart, HelmRefused, at, merged
from support.chart_values import COMBINATIONS, LEAST, rendered

FIELDS = {field.metadata["env"]: field for field in dataclasses.fields(Settings)}
PLACES: Mapping[str, str] = {
    "NDOO_AUDIT": "audit-in-the-log",
    "NDOO_AUDIT_BYTES_MAX": "audit-on-a-volume",
    "NDOO_AUDIT_REQUIRED": "audit-in-the-log",
    "NDOO_BUDGETS": "budgets",
    "NDOO_BUDGETS_FAIL_OPEN": "budgets",
    "NDOO_CLIENTS": "clients-of-a-secret",
    "NDOO_FEED": "redis-tls",
    "NDOO_HEALTH_LISTEN": "ipv6",
    "NDOO_HTTP_LISTEN": "ipv6",
    "NDOO_LISTEN": "ipv6",
    "NDOO_PLAINTEXT": "tls",
    "NDOO_SNAPSHOT_PUBLIC_KEY": "signed",
    "NDOO_TLS_CERTIFICATE": "tls",
    "NDOO_TLS_CLIENT_CA": "tls-callers",
    "NDOO_TLS_KEY": "tls",
    "NDOO_TRACES": "traces",
}
"""A combination that alters each setting that is not given below `settings`."""

FIXED = {"NDOO_STATE_DIR"}
"""What the chart decides: it is nobody's affair where a pod keeps its files."""


def value_name(env: str) -> str:
    """As it stands below `settings`."""
    first, *others = env.removeprefix("NDOO_").lower().split("_")
    return first + "".join(map(str.title, others))


TUNABLE = {env: field for env, field in FIELDS.items() if env not in PLACES.keys() | FIXED}


def _of(field: dataclasses.Field[Any], which: str) -> Any:
    """Its least or greatest value, or another than the default, as one writes it into values."""
    if field.type != "str":
        return field.metadata[which]
    if "|" in field.metadata["pattern"]:
        words = field.metadata["pattern"].split("|")
        return words[0] if which == "low" else words[-1]
    return {"low": "0", "high": "Opt-Outs_2.0"}[which]


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize("by", ["file", "flag"])
def test_every_setting_arrives_as_it_was_given(chart: Chart, which: str, by: str) -> None:
    """Numbers go through three notations on their way, one of which would write 1e+06."""
    given = {value_name(env): _of(field, which) for env, field in TUNABLE.items()}
    values = LEAST if by == "flag" else merged(LEAST, {"settings": given})
    flags = [f"--set-json=settings={json.dumps(given)}"] if by == "flag" else []
    manifests = chart.render(values, flags=tuple(flags))
    settings = Settings.from_env(manifests.environment(manifests.server))
    for env, field in TUNABLE.items():
        assert getattr(settings, field.name) == given[value_name(env)], env


@pytest.mark.parametrize("env", PLACES)
def test_every_other_setting_has_a_place_of_its_own(chart: Chart, env: str) -> None:
    def at_the_server(name: str) -> Any:
        manifests = rendered(chart, name)
        settings = Settings.from_env(manifests.environment(manifests.server))
        return getattr(settings, FIELDS[env].name)

    assert at_the_server(PLACES[env]) != at_the_server("least")


@pytest.mark.parametrize("env", sorted(PLACES.keys() | FIXED))
def test_and_no_second_one(chart: Chart, env: str) -> None:
    with pytest.raises(HelmRefused, match=f"additional properties '{value_name(env)}' not allowed"):
        chart.render(merged(LEAST, at(f"settings.{value_name(env)}", "1")))


def test_settings_that_nobody_gives_are_the_servers(chart: Chart) -> None:
    """The chart has no defaults of its own, except where pods are no machines of one's own."""
    manifests = rendered(chart, "least")
    given = Settings.from_env(manifests.environment(manifests.server))
    own = Settings.from_env({"NDOO_FEED": given.feed})
    differ = {
        field.metadata["env"]
        for field in FIELDS.values()
        if getattr(given, field.name) != getattr(own, field.name)
    }
    assert differ == {
        "NDOO_HEALTH_LISTEN", "NDOO_HTTP_LISTEN", "NDOO_LISTEN", "NDOO_PLAINTEXT", "NDOO_STATE_DIR",
    }  # fmt: skip


def test_what_runs_takes_all_that_the_chart_gives_it(chart: Chart) -> None:
    """It refuses names that it does not know, what does not go together, and other arguments."""
    every = [rendered(chart, name) for name in COMBINATIONS]
    every += [chart.example(path.stem.partition("-")[2]) for path in EXAMPLES.glob("values-*.yaml")]
    started = [(pod, manifests.environment(pod)) for manifests in every for pod in manifests.pods()]
    for pod, environment in started:
        assert Settings.from_env(environment).feed, pod
        others = {name for name in environment if not name.startswith(("NDOO_", "OTEL_"))}
        assert others <= {"POD_NAME"}, pod
        (container,) = pod.containers
        command, *arguments = container["args"]
        options = {each for option in commands.commands[command].params for each in option.opts}
        assert {each for each in arguments if each.startswith("-")} <= options, pod


def test_jobs_work_on_the_feed_that_replicas_read(chart: Chart) -> None:
    values = {"settings": {"prefix": "other"}, "feed": COMBINATIONS["redis-tls"]["feed"]}
    manifests = chart.render(merged(LEAST, COMBINATIONS["signing"], values))
    (server,), (job,) = (
        [pod for pod in manifests.pods() if pod.kind == kind] for kind in ("Deployment", "CronJob")
    )
    reads, writes = (Settings.from_env(manifests.environment(pod)) for pod in (server, job))
    assert (writes.prefix, writes.snapshot_public_key) == ("other", reads.snapshot_public_key)
    assert url.parse(writes.feed).name == url.parse(reads.feed).name
    assert url.parse(reads.feed).login.user == "ndoo-reader"
    assert url.parse(writes.feed).login.user == "ndoo-loader"
