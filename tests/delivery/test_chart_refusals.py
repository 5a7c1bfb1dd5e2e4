"""What must not be installed is refused, with a sentence that says what mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from support.chart import ROOT, Chart, HelmRefused, at, merged
from support.chart_values import COMBINATIONS, EVERYTHING, LEAST, Values

DEFAULTS = yaml.safe_load((ROOT / "helm" / "ndoo" / "values.yaml").read_text("utf-8"))
SENTENCE = re.compile(r"execution error at \(ndoo/templates/\S+\): ([A-Z\w].*\.)\n")
SECRET = "correct-horse"

LOOSENED = (
    "securityContext.runAsUser", "podSecurityContext.runAsNonRoot", "runAsUser", "privileged",
    "containerSecurityContext.readOnlyRootFilesystem", "readOnlyRootFilesystem", "capabilities",
    "hostNetwork", "serviceAccount.automount", "automountServiceAccountToken", "enableServiceLinks",
    "serviceAccountName", "env", "extraEnv", "command", "args", "extraVolumes", "extraContainers",
    "sidecars", "initContainers", "image.runAsUser", "snapshots.securityContext.privileged",
)  # fmt: skip
"""Where other charts let one loosen how pods are locked down: none of it is known here."""

CONTRADICTIONS: Mapping[str, tuple[Values, str]] = {
    "no image": ({"image": {"repository": ""}}, "image.repository"),
    "no feed": ({"feed": {"url": ""}}, "feed.url"),
    "a feed in a directory": ({"feed": {"url": "dir:/feed"}}, "name a Redis"),
    "a feed of another kind": ({"feed": {"url": "http://redis.example"}}, "redis://"),
    "a feed with options": (at("feed.url", "redis://a.example/0?password_file=/x"), "leave them"),
    "a password in the URL": (
        at("feed.url", f"redis://ndoo-reader:{SECRET}@redis.example/0"), "passwordSecret",
    ),
    "no password": (at("feed.passwordSecret.name", ""), "feed.passwordSecret.name"),
    "authorities without TLS": (at("feed.caSecret.name", "ca"), "begin it with rediss"),
    "a certificate without TLS": (at("feed.certificateSecret.name", "own"), "rediss"),
    "Sentinel's user of a server": (at("feed.sentinelUser", "ndoo"), "empty them"),
    "Sentinel's user without a password": (
        {"feed": {"url": "redis+sentinel://ndoo-reader@a.example/main", "sentinelUser": "ndoo"}},
        "sentinelPasswordSecret",
    ),
    "plaintext unsaid": ({"plaintext": False}, "plaintext to true"),
    "plaintext and a certificate": (at("tls.certificateSecret.name", "tls"), "contradict"),
    "plaintext and cert-manager": (at("tls.certManager.enabled", True), "contradict"),
    "plaintext and callers' authorities": (at("tls.clientCaSecret.name", "ca"), "contradict"),
    "callers' authorities alone": (
        {"plaintext": False, **at("tls.clientCaSecret.name", "ca")}, "tls.certificateSecret.name",
    ),
    "no issuer": (
        {"plaintext": False, **at("tls.certManager.enabled", True)}, "issuerRef.name",
    ),
    "clients twice": ({"clients": {"secretName": "a", "configMapName": "b"}}, "one of"),
    "budgets of nobody": (
        {"budgets": COMBINATIONS["budgets"]["budgets"]}, "clients.secretName",
    ),
    "budgets nowhere": (at("budgets.failOpen", True), "budgets.url"),
    "budgets with a password": (
        merged(
            COMBINATIONS["budgets"], at("budgets.url", f"redis://a:{SECRET}@redis.example/0"),
        ),
        "budgets.passwordSecret",
    ),
    "signing by nobody": (at("signing.privateKeySecret.name", "private"), "snapshots.enabled"),
    "signatures that nobody demands": (
        merged(COMBINATIONS["snapshots"], at("signing.privateKeySecret.name", "private")),
        "publicKeySecret",
    ),
    "snapshots that nobody would take": (
        merged(COMBINATIONS["snapshots"], COMBINATIONS["signed"]), "privateKeySecret",
    ),
    "snapshots of nobody": (at("snapshots.enabled", True), "snapshots.passwordSecret.name"),
    "a writer without a job": (at("snapshots.user", "ndoo-loader"), "snapshots.enabled"),
    "audit nowhere": (at("audit.required", True), "audit.destination"),
    "audit without a volume": (at("audit.destination", "volume"), "audit.volume"),
    "a volume without audit": (
        at("audit.volume.persistentVolumeClaim.claimName", "audit"), "audit.destination",
    ),
    "traces nowhere": (at("traces.enabled", True), "OTEL_EXPORTER_OTLP_ENDPOINT"),
    "traces with credentials": (
        merged(
            COMBINATIONS["traces"],
            at("traces.env.OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}"),
        ),
        "credentials",
    ),
    "traces with a password": (
        {"traces": {
            "enabled": True,
            "env": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://a:{SECRET}@collector.example:4317"},
        }},
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "traces to no port": (
        merged(
            COMBINATIONS["traces"],
            at("traces.env.OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example"),
        ),
        "HOST:PORT",
    ),
    "traces to two places": (
        merged(
            COMBINATIONS["traces"],
            at("traces.env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://a:{SECRET}@b.example:99"),
        ),
        "leave it out",
    ),
    "messages too small": (at("settings.messageBytesMax", 4096), "messageBytesMax"),
    "fewer replicas than the fewest": (
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}, "maxReplicas",
    ),
    "scaled by nothing": ({"autoscaling": {"enabled": True, "cpuPercent": 0}}, "cpuPercent"),
    "scraped by nobody": (at("serviceMonitor.enabled", True), "networkPolicy.scrapers"),
    "a route of no gateway": (at("grpcRoute.enabled", True), "parentRefs"),
}  # fmt: skip

WRONG: Mapping[str, Values] = {
    "no limit of memory": {"resources": {"limits": {"memory": None}}},
    "no limits": {"resources": {"limits": None}},
    "no requests": {"resources": {"requests": None}},
    "no resources": {"resources": None},
    "a limit of nothing": {"resources": {"limits": {"memory": 0}}},
    "a job without limits": {"snapshots": {"resources": {"limits": None}}},
    "no replicas": {"replicaCount": 0},
    "a share of a replica": {"replicaCount": 1.5},
    "a word for a number": {"replicaCount": "2"},
    "a word for a flag": {"plaintext": "true"},
    "no policy of the network, by accident": {"networkPolicy": None},
    "no plaintext, by accident": {"plaintext": None},
    "a peer of another kind": at("networkPolicy.callers", [{"everybody": {}}]),
    "an empty peer": at("networkPolicy.callers", [{}]),
    "too long a grace": at("settings.graceS", 3601),
    "no age of a register": at("settings.stalenessMaxS", 0),
    "a share above one": at("settings.jumpMax", 1.5),
    "half a number": at("settings.streamsMax", 1.5),
    "a level that is none": at("settings.logLevel", "verbose"),
    "a prefix with a blank": at("settings.prefix", "a b"),
    "a prefix with a second line": at("settings.prefix", "a\n"),
    "another digest": at("image.digest", "md5:0"),
    "a user who would become another": merged(
        COMBINATIONS["snapshots"], at("snapshots.user", "loader$x"),
    ),
    "a tag in the repository": at("image.repository", "registry.example:5000/ndoo:0.1.0"),
    "a digest in the repository": at("image.repository", "registry.example/ndoo@sha256:0"),
    "pods without a profile": {
        "podAnnotations": {"container.apparmor.security.beta.kubernetes.io/ndoo": "unconfined"},
    },
    "a tag with a blank": at("image.tag", "a b"),
    "another address": {"listenAddress": "127.0.0.1"},
    "another destination": at("audit.destination", "/dev/null"),
    "the disk of the node": {
        "audit": {"destination": "volume", "volume": {"hostPath": {"path": "/"}}},
    },
    "a variable of another kind": at("traces.env.NDOO_FEED", "redis://other.example"),
    "a variable of the loader": at("traces.env.LD_PRELOAD", "/tmp/x.so"),
    "a name that is none": at("feed.passwordSecret.name", "a/b"),
    "a key out of its folder": at("clients.key", "../../x"),
}  # fmt: skip


def refused(chart: Chart, values: Values) -> str:
    with pytest.raises(HelmRefused) as refusal:
        chart.render(values)
    return str(refusal.value)


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_what_does_not_go_together_is_refused_with_a_sentence(chart: Chart, what: str) -> None:
    values, mend = CONTRADICTIONS[what]
    told = refused(chart, merged(LEAST, values))
    (sentence,) = SENTENCE.findall(told)
    assert mend in sentence
    assert ": " in sentence, "a cause and a mend"
    assert SECRET not in told


@pytest.mark.parametrize("what", WRONG)
def test_what_a_value_cannot_be_is_refused(chart: Chart, what: str) -> None:
    told = refused(chart, merged(LEAST, WRONG[what]))
    assert "values don't meet the specifications" in told or SENTENCE.search(told)


@pytest.mark.parametrize("path", LOOSENED)
def test_what_locks_pods_down_cannot_be_loosened(chart: Chart, path: str) -> None:
    assert "additional properties" in refused(chart, merged(LEAST, at(path, True)))


def _closed(values: Any, path: str = "") -> Iterator[str]:
    """Every map of the values whose keys are the chart's own."""
    free = {"commonLabels", "podAnnotations", "nodeSelector", "affinity", "labels", "env", "volume"}
    if not isinstance(values, Mapping):
        return
    yield path
    for key, value in values.items():
        if key not in free:
            yield from _closed(value, f"{path}{key}.")


@pytest.mark.parametrize("path", list(_closed(merged(DEFAULTS, EVERYTHING))))
def test_keys_that_nobody_knows_are_refused_wherever_they_stand(chart: Chart, path: str) -> None:
    told = refused(chart, merged(EVERYTHING, at(f"{path}mispelt", "1")))
    assert "additional properties 'mispelt' not allowed" in told


@pytest.mark.parametrize("labels", ["commonLabels", "podAnnotations", "serviceMonitor.labels"])
def test_what_the_chart_sets_is_not_set_twice(chart: Chart, labels: str) -> None:
    """A key that is there twice makes the API server refuse the whole, after the upgrade began."""
    for key in ("app.kubernetes.io/name", "app.kubernetes.io/component", "checksum/settings"):
        try:
            manifests = chart.render(merged(EVERYTHING, at(labels, {key: "x"})))
        except HelmRefused as refusal:
            assert SENTENCE.search(str(refusal)) or "don't meet" in str(refusal)  # noqa: PT017
        else:
            assert manifests.objects  # reading them refuses a key that is there twice
            selector = manifests.one("Deployment")["spec"]["selector"]["matchLabels"]
            assert selector["app.kubernetes.io/name"] == "ndoo"
            assert selector.items() <= manifests.server.labels.items()


def test_every_sentence_of_the_chart_is_tested() -> None:
    text = (ROOT / "helm" / "ndoo" / "templates" / "_validate.tpl").read_text("utf-8")
    sentences = len(re.findall(r"\bfail \(?(?:printf )?\"", text))
    assert len(CONTRADICTIONS) >= sentences - 3, "more sentences than contradictions"
