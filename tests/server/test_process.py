"""The service as a process: started, asked, killed, stopped; nothing recorded is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import queue
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest

from ndoo import nhs_number
from ndoo.register.changes import Change, Kind
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import House, MakeHouse
from support.people import KEYS
from support.places import Place, RedisHarm
from support.redis_server import RedisServer

Serve = Callable[..., "Process"]


@dataclass
class Process:
    """One `ndoo serve`, listening."""

    popen: subprocess.Popen[str]
    grpc: str
    http: str

    def verdict(self, person: int, at_least_as_fresh: str = "") -> int:
        with grpc.insecure_channel(self.grpc) as channel:
            request = check_pb2.CheckRequest(
                nhs_number=number(person), at_least_as_fresh=at_least_as_fresh
            )
            return check_pb2_grpc.OptOutCheckStub(channel).Check(request, timeout=30).verdict

    def register(self) -> check_pb2.GetRegisterResponse:
        with grpc.insecure_channel(self.grpc) as channel:
            stub = check_pb2_grpc.OptOutCheckStub(channel)
            return stub.GetRegister(check_pb2.GetRegisterRequest(), timeout=30)


def number(person: int) -> str:
    return f"{int(nhs_number.numbers_of([KEYS[person]])[0]):010d}"


@pytest.fixture
def serve(place: Place, serve_feed: Serve) -> Serve:
    return partial(serve_feed, place.url)


@pytest.fixture
def serve_feed() -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start(feed: str, *flags: str, http: str = "127.0.0.1:0") -> Process:
        command = [
            sys.executable,
            "-m",
            "ndoo",
            "serve",
            "--feed",
            feed,
            "--http-listen",
            http,
        ]
        popen = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *flags], stdout=subprocess.PIPE, text=True
        )
        started.append(popen)
        for line in popen.stdout:
            event = json.loads(line)
            if event["event"] == "listening":
                return Process(popen, event["grpc"], event["http"])
        raise AssertionError("the service ended before it listened")

    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


def test_it_answers_once_it_listens(place: Place, serve: Serve) -> None:
    place.loaded(1, 2)
    service = serve()
    assert service.verdict(1) == check_pb2.VERDICT_OPTED_OUT
    assert service.verdict(3) == check_pb2.VERDICT_CLEARED
    with urllib.request.urlopen(f"http://{service.http}/readyz", timeout=30) as response:
        assert response.status == 200


def test_a_killed_service_comes_back_with_every_recorded_change(place: Place, serve: Serve) -> None:
    publisher = place.loaded(1)
    service = serve()
    token = publisher.append([Change(Kind.OPT_OUT, key=KEYS[2])]).token
    assert service.verdict(2, token) == check_pb2.VERDICT_OPTED_OUT
    service.popen.send_signal(signal.SIGKILL)
    service.popen.wait()
    token = publisher.append([Change(Kind.OPT_OUT, key=KEYS[3])]).token
    again = serve()
    for person in (1, 2, 3):
        assert again.verdict(person, token) == check_pb2.VERDICT_OPTED_OUT
    assert again.verdict(4, token) == check_pb2.VERDICT_CLEARED


def test_sigterm_lets_a_running_stream_finish_and_exits_with_0(place: Place, serve: Serve) -> None:
    place.loaded(1, 2)
    service = serve()
    requests: queue.SimpleQueue[check_pb2.StreamCheckRequest | None] = queue.SimpleQueue()
    message = check_pb2.StreamCheckRequest(nhs_numbers=[int(number(1)), int(number(3))])
    with grpc.insecure_channel(service.grpc) as channel:
        stub = check_pb2_grpc.OptOutCheckStub(channel)
        stream = stub.StreamCheck(iter(requests.get, None))
        requests.put(message)
        assert next(stream).chunk.cleared == b"\x02"
        service.popen.send_signal(signal.SIGTERM)
        assert json.loads(service.popen.stdout.readline())["event"] == "stopping"
        requests.put(message)
        assert next(stream).chunk.offset == 2
        requests.put(None)
        assert next(stream).summary.counts.received == 4
        assert list(stream) == []
    assert json.loads(service.popen.stdout.readline())["event"] == "stopped"
    assert service.popen.wait() == 0


def test_a_second_sigterm_ends_the_grace_in_order(place: Place, serve: Serve) -> None:
    place.loaded(1)
    service = serve("--grace-s", "3600")
    requests: queue.SimpleQueue[check_pb2.StreamCheckRequest | None] = queue.SimpleQueue()
    requests.put(check_pb2.StreamCheckRequest(nhs_numbers=[int(number(3))]))
    host, _, port = service.http.rpartition(":")
    with (
        grpc.insecure_channel(service.grpc) as channel,
        socket.create_connection((host, int(port))),  # which says nothing, and holds up nobody
    ):
        stream = check_pb2_grpc.OptOutCheckStub(channel).StreamCheck(iter(requests.get, None))
        assert next(stream).chunk.cleared == b"\x01"
        service.popen.send_signal(signal.SIGTERM)
        assert json.loads(service.popen.stdout.readline())["event"] == "stopping"
        service.popen.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        events = [json.loads(line)["event"] for line in service.popen.stdout]
        assert events[-1] == "stopped"
        assert service.popen.wait(timeout=60) == 0
        requests.put(None)


def test_a_port_in_use_is_told_in_one_sentence(place: Place, serve: Serve) -> None:
    place.loaded(1)
    service = serve()
    command = [sys.executable, "-m", "ndoo", "serve", "--feed", place.url, "--listen"]
    for flags in (
        [service.grpc, "--http-listen", "127.0.0.1:0"],
        ["127.0.0.1:0", "--http-listen", service.http],
    ):
        second = subprocess.run(
            [*command, *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 1
        last = second.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: Cannot listen on")
        assert "Traceback" not in second.stderr


def test_an_empty_feed_is_waited_for(place: Place, serve: Serve) -> None:
    """It listens, answers nothing, and begins to answer when a register is loaded."""
    service = serve()
    with pytest.raises(grpc.RpcError) as caught:
        service.verdict(1)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    place.loaded(1)
    phases = (json.loads(line) for line in service.popen.stdout)
    assert any(event.get("phase") == "LIVE" for event in phases)
    assert service.verdict(1) == check_pb2.VERDICT_OPTED_OUT


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """What a service comes to that ends by itself."""
    command = [sys.executable, "-m", "ndoo", "serve", "--listen", "127.0.0.1:0"]
    return subprocess.run(
        [*command, "--http-listen", "127.0.0.1:0", *flags],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def end(service: Process) -> None:
    service.popen.send_signal(signal.SIGTERM)
    service.popen.communicate(timeout=60)
    assert service.popen.returncode == 0


@pytest.mark.parametrize("gone", ["refused", "silent"])
def test_it_starts_from_its_state_while_the_feed_is_gone(
    start_redis: Callable[..., RedisServer], serve_feed: Serve, tmp_path: Path, gone: str
) -> None:
    server = start_redis()
    state = ("--state-dir", str(tmp_path / "state"))
    with contextlib.ExitStack() as stack:
        place = Place(server.url, RedisHarm(stack.enter_context(server.client())), stack)
        token = place.loaded(1).append([Change(Kind.OPT_OUT, key=KEYS[2])]).token
        service = serve_feed(server.url, *state)
        assert service.verdict(2, token) == check_pb2.VERDICT_OPTED_OUT
    known = service.register()
    end(service)
    server.kill() if gone == "refused" else server.freeze()
    again = serve_feed(server.url, *state)
    told = again.register()
    assert told.revision.token == known.revision.token == token
    assert told.phase in {check_pb2.PHASE_LOADING, check_pb2.PHASE_CATCHING_UP}
    as_of, before = told.revision.as_of.ToDatetime(), known.revision.as_of.ToDatetime()
    assert before <= as_of < dt.datetime.now(dt.UTC).replace(tzinfo=None)
    for person in (1, 2):
        assert again.verdict(person, token) == check_pb2.VERDICT_OPTED_OUT
    assert again.verdict(3, token) == check_pb2.VERDICT_CLEARED
    again.popen.kill()
    too_old = serve_feed(server.url, *state, "--staleness-max-s", "0.001")
    with pytest.raises(grpc.RpcError) as caught:
        too_old.verdict(3)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert too_old.register().phase == check_pb2.PHASE_STALE


def test_two_services_do_not_share_a_state_directory(
    place: Place, serve: Serve, tmp_path: Path
) -> None:
    place.loaded(1)
    state = ("--state-dir", str(tmp_path / "state"))
    serve(*state)
    second = run("--feed", place.url, *state)
    assert second.returncode == 1
    assert "NDOO_STATE_DIR" in second.stderr.strip().splitlines()[-1]
    assert "Traceback" not in second.stderr


def test_a_state_directory_that_cannot_be_used_is_told_of_and_harms_nothing(
    place: Place, serve: Serve, tmp_path: Path
) -> None:
    place.loaded(1)
    (tmp_path / "file").touch()
    service = serve("--state-dir", str(tmp_path / "file" / "state"))
    assert service.verdict(1) == check_pb2.VERDICT_OPTED_OUT
    assert service.verdict(3) == check_pb2.VERDICT_CLEARED
    with urllib.request.urlopen(f"http://{service.http}/metrics", timeout=30) as response:
        text = response.read().decode()
    (unreadable,) = re.findall(r'ndoo_state_refused_total{reason="STATE_UNREADABLE"} (\d)', text)
    assert unreadable == "1"


def test_suspended_nobody_is_cleared_until_answers_are_resumed(place: Place, serve: Serve) -> None:
    """Over two replicas: both stop, and start again at a revision that includes all between."""
    publisher = place.loaded(1)
    services = [serve(), serve()]
    assert {service.verdict(3) for service in services} == {check_pb2.VERDICT_CLEARED}
    publisher.append([Change(Kind.SUSPEND)])
    for service in services:
        phases = (json.loads(line) for line in service.popen.stdout)
        assert any(event.get("suspended") for event in phases)
        with pytest.raises(grpc.RpcError) as caught:
            service.verdict(3)
        assert "suspended" in caught.value.details()
    superseded = Change(Kind.SUPERSEDE, key=KEYS[1], new_key=KEYS[4])
    token = publisher.append([superseded, Change(Kind.RESUME)]).token
    for service in services:
        phases = (json.loads(line) for line in service.popen.stdout)
        assert any(event.get("suspended") is False for event in phases)
        for person in (1, 4):
            assert service.verdict(person, token) == check_pb2.VERDICT_OPTED_OUT
        assert service.verdict(3, token) == check_pb2.VERDICT_CLEARED


STARTS_WITH = """
import signal
from ndoo.cli.main import main
from ndoo.server.server import Server

start = Server.start

async def start_with(server):
    {happening}
    return await start(server)

Server.start = start_with
main()
"""


@pytest.mark.parametrize(
    ("happening", "code", "last"),
    [
        ("signal.raise_signal(signal.SIGINT)", 0, '"event": "stopped"'),
        ("signal.raise_signal(signal.SIGTERM)", 0, '"event": "stopped"'),
        ("raise ValueError", 1, "This is a fault in ndoo: ValueError"),
    ],
)
def test_whatever_happens_while_it_starts_it_ends(
    tmp_path: Path, happening: str, code: int, last: str
) -> None:
    flags = ["--feed", f"dir:{tmp_path}", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    ran = subprocess.run(
        [sys.executable, "-c", STARTS_WITH.format(happening=happening), "serve", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, "Traceback" in ran.stdout) == (code, False)
    assert last in ran.stdout.splitlines()[-1]


FREEZES = """
import os, signal, sys
import grpc
from ndoo.v1 import check_pb2, check_pb2_grpc

def requests():
    yield check_pb2.StreamCheckRequest(nhs_numbers=[0])
    signal.pause()

with grpc.insecure_channel(sys.argv[1]) as channel:
    for _ in check_pb2_grpc.OptOutCheckStub(channel).StreamCheck(requests()):
        os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_a_caller_that_vanished_gives_its_place_back(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndoo.server.server.KEEPALIVE_MS", 600)
    house = await make_house()
    house.publish(set())
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", FREEZES, house.address)
    try:
        await until_streams(house, 1)
        await until_streams(house, 0)
    finally:
        caller.kill()
        await caller.wait()


async def until_streams(house: House, count: int) -> None:
    while house.metrics.registry.get_sample_value("ndoo_streams_in_flight") != count:
        await asyncio.sleep(0)
