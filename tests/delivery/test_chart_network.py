"""Who reaches the pods of the chart and whom they reach: ports, probes, Services and policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from ndoo.config import Settings, split_address
from ndoo.feed import url
from support.chart import Chart, Manifests, merged
from support.chart_values import COMBINATIONS, EVERYTHING, LEAST, rendered

READINESS = "ndoo.v1.OptOutCheck"
LIVENESS = ""
REDIS_PORT = 6379


class Hole(NamedTuple):
    """What a rule of a NetworkPolicy lets through: to or from a peer (None: anybody)."""

    port: int
    protocol: str
    peer: str | None


@pytest.fixture(params=COMBINATIONS)
def manifests(request: pytest.FixtureRequest, chart: Chart) -> Manifests:
    return rendered(chart, request.param)


def listening(manifests: Manifests) -> dict[str, int]:
    """The ports at which the server will listen with the settings that it is given, by name."""
    settings = Settings.from_env(manifests.environment(manifests.server))
    places = {"grpc": settings.listen, "metrics": settings.http_listen}
    if settings.health_listen:
        places["health"] = settings.health_listen
    hosts = {split_address(each)[0] for each in places.values()}
    assert hosts <= {"0.0.0.0", "::"}, "a pod is reached at an address that nobody knows before"
    return {name: split_address(each)[1] for name, each in places.items()}


def named(manifests: Manifests) -> dict[str, int]:
    """The ports of the containers."""
    (container,) = manifests.server.containers
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_every_port_that_is_listened_at_is_named_once(manifests: Manifests) -> None:
    (container,) = manifests.server.containers
    assert len(container["ports"]) == len(named(manifests)) == len(set(named(manifests).values()))
    assert named(manifests) == listening(manifests)


def test_probes_ask_a_port_that_answers_them(manifests: Manifests) -> None:
    """Kubernetes' probes of gRPC speak no TLS, and take a number in place of a name."""
    (container,) = manifests.server.containers
    settings = Settings.from_env(manifests.environment(manifests.server))
    ports = listening(manifests)
    plaintext = {ports["health"]} if settings.tls_certificate else {ports["health"], ports["grpc"]}
    for probe, service in (
        ("startupProbe", LIVENESS), ("livenessProbe", LIVENESS), ("readinessProbe", READINESS),
    ):  # fmt: skip
        asked = container[probe]["grpc"]
        assert asked["port"] in plaintext, probe
        assert asked.get("service", "") == service, probe


def test_services_lead_to_the_replicas_and_only_when_these_answer(manifests: Manifests) -> None:
    headless, cluster = sorted(
        manifests.of("Service"), key=lambda each: each["spec"].get("clusterIP") != "None"
    )
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["metadata"]["name"].endswith("-headless")
    assert "clusterIP" not in cluster["spec"]
    for service in (headless, cluster):
        spec = service["spec"]
        assert spec.get("type", "ClusterIP") == "ClusterIP"
        assert not spec.get("publishNotReadyAddresses")
        assert spec["selector"].items() <= manifests.server.labels.items()
        for port in spec["ports"]:
            assert port["name"] == port["targetPort"], "a name is the same everywhere"
            assert port["port"] == named(manifests)[port["targetPort"]]
        assert "grpc" in {port["name"] for port in spec["ports"]}


def test_every_pod_has_one_policy_unless_there_are_to_be_none(chart: Chart) -> None:
    for name in COMBINATIONS:
        manifests = rendered(chart, name)
        policies = 0 if name == "no-policy-of-the-network" else 1
        for pod in manifests.pods():
            assert len(_policies_of(manifests, pod.labels)) == policies, f"{name}: {pod}"


def test_only_what_is_meant_comes_in(manifests: Manifests) -> None:
    ports = listening(manifests)
    for policy in _policies_of(manifests, manifests.server.labels):
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        holes = set(_holes(manifests, policy["ingress"], "from"))
        assert {hole.protocol for hole in holes} == {"TCP"}
        open_to_all = {hole.port for hole in holes if hole.peer is None}
        assert open_to_all == {ports["health"]}, "the kubelet has no address that a peer could name"
        watched = {ports["metrics"]} & {hole.port for hole in holes}
        assert {hole.port for hole in holes} == {ports["health"], ports["grpc"], *watched}
        assert watched or not manifests.of("ServiceMonitor")


def test_nothing_comes_in_to_jobs(chart: Chart) -> None:
    manifests = rendered(chart, "snapshots")
    (job,) = (pod for pod in manifests.pods() if pod.kind == "CronJob")
    (policy,) = _policies_of(manifests, job.labels)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("ingress")


@pytest.mark.parametrize("name", [name for name in COMBINATIONS if name != "network"])
def test_pods_reach_names_and_redis_and_nothing_else(chart: Chart, name: str) -> None:
    manifests = rendered(chart, name)
    for pod in manifests.pods():
        needed = {(53, "UDP"), (53, "TCP"), *_needed(manifests.environment(pod))}
        for policy in _policies_of(manifests, pod.labels):
            holes = _holes(manifests, policy["egress"], "to")
            assert {(hole.port, hole.protocol) for hole in holes} == needed, pod


def _needed(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """What the settings of a pod have it connect to."""
    for name in ("NDOO_FEED", "NDOO_BUDGETS"):
        if name in environment:
            place = url.parse(environment[name])
            yield from ((address.port, "TCP") for address in place.addresses)
            if place.shape is url.Shape.SENTINEL:
                yield REDIS_PORT, "TCP"
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in environment:
        yield int(environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2]), "TCP"


def _policies_of(manifests: Manifests, labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
    return [
        each["spec"]
        for each in manifests.of("NetworkPolicy")
        if each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]


def _holes(manifests: Manifests, rules: list[Mapping[str, Any]], peers: str) -> Iterator[Hole]:
    for rule in rules:
        assert rule["ports"], "without ports, all of them"
        assert rule.get(peers) != [], "an empty list is everybody"
        for port, peer in itertools.product(rule["ports"], rule.get(peers, [None])):
            number = named(manifests).get(port["port"], port["port"])
            assert isinstance(number, int), f"no port is called {number}"
            yield Hole(number, port.get("protocol", "TCP"), None if peer is None else str(peer))


def test_peers_are_those_of_the_values(chart: Chart) -> None:
    manifests = rendered(chart, "network")
    (policy,) = _policies_of(manifests, manifests.server.labels)
    rules = [*policy["ingress"], *policy["egress"]]
    peers = [rule.get("from", rule.get("to")) for rule in rules]
    anywhere = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert peers == [[{"namespaceSelector": {}}], anywhere, None, anywhere, anywhere]
    (redis,) = (rule["ports"] for rule in rules if rule["ports"][0]["port"] == 6380)
    assert [port["port"] for port in redis] == [6380, 6381]


def test_each_replica_is_scraped_once_and_under_its_own_job(chart: Chart) -> None:
    """The alerts compare the replicas of a job, which begins with ndoo."""
    jobs = set()
    for name in ("blue", "green"):
        manifests = chart.render(EVERYTHING, name=name)
        monitor = manifests.one("ServiceMonitor")["spec"]
        labels = monitor["selector"]["matchLabels"].items()
        (service,) = (
            each for each in manifests.of("Service") if labels <= each["metadata"]["labels"].items()
        )
        (endpoint,) = monitor["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint.get("path", "/metrics") == "/metrics"
        (job,) = endpoint["relabelings"]
        assert job["targetLabel"] == "job"
        jobs.add(job["replacement"])
    assert len(jobs) == 2
    assert all(job.startswith("ndoo") for job in jobs)


def test_routes_and_certificates_lead_to_the_services(chart: Chart) -> None:
    manifests = chart.render(EVERYTHING)
    services = {each["metadata"]["name"] for each in manifests.of("Service")}
    (rule,) = manifests.one("GRPCRoute")["spec"]["rules"]
    assert rule["matches"] == [{"method": {"service": READINESS}}], "nothing but checks"
    (backend,) = rule["backendRefs"]
    assert backend["name"] in services
    assert backend["port"] == listening(manifests)["grpc"]
    certificate = manifests.one("Certificate")["spec"]
    assert {f"{name}.checks.svc" for name in services} <= set(certificate["dnsNames"])
    assert "ndoo.example" in certificate["dnsNames"]
    (tls,) = (
        volume["projected"]["sources"][0]["secret"]["name"]
        for path, (_, volume) in manifests.server.mounts().items()
        if path == "/etc/ndoo/tls"
    )
    assert certificate["secretName"] == tls


def test_a_route_of_plaintext_is_of_plaintext(chart: Chart) -> None:
    for name, protocol in (("least", "kubernetes.io/h2c"), ("tls", "https")):
        for service in rendered(chart, name).of("Service"):
            (port,) = (each for each in service["spec"]["ports"] if each["name"] == "grpc")
            assert port["appProtocol"] == protocol


def test_nobody_may_call_if_nobody_is_named(chart: Chart) -> None:
    values = {"networkPolicy": {"callers": [], "dns": []}}
    manifests = chart.render(merged(LEAST, values))
    (policy,) = _policies_of(manifests, manifests.server.labels)
    holes = set(_holes(manifests, policy["ingress"], "from"))
    assert {hole.port for hole in holes} == {listening(manifests)["health"]}
