"""What the chart and its examples say of the server is true of the server."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from ndoo.client import Client, Tls, Verdict
from support import kubernetes
from support.certificates import Authority
from support.chart import EXAMPLES, ROOT, Chart, Manifests, merged, read
from support.chart_values import COMBINATIONS, LEAST
from support.cluster import Started
from support.redis_server import RedisServer

VALKEY = read((EXAMPLES / "valkey.yaml").read_text("utf-8"))
OPTED_OUT, OTHER = 9_990_000_026, 9_990_000_018
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of each user, as somebody may have typed it: with an end of line."""
    folder = tmp_path_factory.mktemp("secrets")
    for user in ("reader", "writer", "loader"):
        (folder / user).write_text(f"{secrets.token_hex(16)}\n")
    return folder


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory, passwords: Path) -> Iterator[RedisServer]:
    """A server that runs as the one of the example would, with its users and a register."""
    folder = tmp_path_factory.mktemp("valkey")
    (script,) = (each["data"]["users.sh"] for each in VALKEY if each["kind"] == "ConfigMap")
    (pod,) = (each for each in VALKEY if each["kind"] == "StatefulSet")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    subprocess.run(
        ["sh", "-c", script], check=True,
        env={"PATH": "/usr/bin:/bin", "SECRETS": str(passwords), "USERS": str(folder)},
    )  # fmt: skip
    options = container["command"][container["command"].index("--dir") + 2 :]
    server = RedisServer(folder, *(each.replace("/users/", f"{folder}/") for each in options))
    try:
        _load(f"redis://ndoo-loader@127.0.0.1:{server.port}/0?password_file={passwords / 'loader'}")
        yield server
    finally:
        server.kill()


def _load(feed: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "ndoo", "load", "-", "--feed", feed], check=True, text=True,
        input=f"{OPTED_OUT}\n", stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _probe(manifests: Manifests, started: Started) -> None:
    """Ask what the kubelet would ask, where it would."""
    (container,) = manifests.server.containers
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container[name]["grpc"]
        with grpc.insecure_channel(f"127.0.0.1:{started.ports[probe['port']]}") as channel:
            asked = health_pb2.HealthCheckRequest(service=probe.get("service", ""))
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30)
        assert answer.status == SERVING, name


def test_the_example_to_try_it_with_runs_beside_the_valkey_of_the_example(
    chart: Chart, valkey: RedisServer, passwords: Path, tmp_path: Path
) -> None:
    manifests = chart.example("dev")
    secret = {path.name: path.read_bytes() for path in passwords.iterdir()}
    there = {"ndoo-valkey": secret}, {"ndoo-valkey:6379": f"127.0.0.1:{valkey.port}"}
    server = Started(manifests, manifests.server, tmp_path / "server", *there)
    server.start()
    _probe(manifests, server)
    with Client(f"127.0.0.1:{server.ports[50551]}") as client:
        assert client.check(OPTED_OUT) is Verdict.OPTED_OUT
        assert client.check(OTHER) is Verdict.CLEARED
    server.stop()
    (job,) = (pod for pod in manifests.pods() if pod.kind == "CronJob")
    assert "Snapshot of 1 opt-outs." in Started(manifests, job, tmp_path / "job", *there).run()


def test_callers_show_certificates_and_probes_need_none(
    chart: Chart, valkey: RedisServer, passwords: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    serving, calling = authority.issue("serving"), authority.issue("calling")
    own = {
        "reader": {"password": (passwords / "reader").read_bytes()},
        "serving": {"tls.crt": serving.cert.read_bytes(), "tls.key": serving.key.read_bytes()},
        "callers-ca": {"ca.crt": authority.cert.read_bytes()},
    }
    manifests = chart.render(merged(LEAST, COMBINATIONS["tls-callers"]))
    hosts = {"redis.example:6379": f"127.0.0.1:{valkey.port}"}
    server = Started(manifests, manifests.server, tmp_path / "server", own, hosts)
    server.start()
    _probe(manifests, server)
    address = f"127.0.0.1:{server.ports[50551]}"
    shown = Tls(ca=authority.cert, certificate=calling.cert, key=calling.key)
    with Client(address, tls=shown) as client:
        assert client.check(OPTED_OUT) is Verdict.OPTED_OUT
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    server.stop()


def test_the_users_of_the_example_are_those_of_the_contract() -> None:
    (script,) = (each["data"]["users.sh"] for each in VALKEY if each["kind"] == "ConfigMap")
    contract = (ROOT / "docs" / "redis-contract.md").read_text("utf-8")
    told = dict(re.findall(r"ACL SETUSER (ndoo-\w+) on >PASSWORD (.*)", contract))
    given = dict(re.findall(r"user (ndoo-\w+) on #\$\(digest \w+\) (.*)", script))
    assert given == told
    assert re.findall(r"digest (\w+)\)", script) == [each.removeprefix("ndoo-") for each in told]


def test_nobody_else_can_do_anything_at_the_valkey_of_the_example(valkey: RedisServer) -> None:
    once = Retry(NoBackoff(), 0)
    nobody = redis.Redis(port=valkey.port, protocol=2, retry=once)
    with nobody, pytest.raises(AuthenticationError):
        nobody.ping()
    login = {"username": "ndoo-probe", "password": "any"}
    with redis.Redis(port=valkey.port, protocol=2, retry=once, **login) as probe:
        assert probe.ping()
        for command in (("GET", "{ndoo}:head"), ("ACL", "LIST"), ("INFO",), ("CONFIG", "GET", "*")):
            with pytest.raises(NoPermissionError):
                probe.execute_command(*command)


@pytest.mark.parametrize("version", kubernetes.VERSIONS)
def test_kubernetes_takes_the_valkey_of_the_example(version: str) -> None:
    assert [fault for each in VALKEY for fault in kubernetes.faults(each, version)] == []


def test_the_valkey_of_the_example_is_locked_down_and_forgets_nothing() -> None:
    (pod,) = Manifests((EXAMPLES / "valkey.yaml").read_text("utf-8")).pods()
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["securityContext"]["runAsNonRoot"] is True
    assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod.containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    server = " ".join(pod.spec["containers"][0]["command"])
    for words in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert words in server
