"""What one caller can take from the service, and that the others and the probes get theirs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from pyroaring import BitMap

from ndoo.client import CallFailed, check_stream, get_register, open_channel
from ndoo.config import split_address
from ndoo.ops.http import HttpEndpoint
from ndoo.publish.source import Terms
from ndoo.register.view import View
from ndoo.server.access import Access, OpenDoor
from ndoo.server.caller import Caller
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import KEYS, NUMBERS, House, MakeHouse
from support.answers import Refused, refused
from support.places import Place
from support.service import Service

SERVICE = "ndoo.v1.OptOutCheck"
PATIENCE_S = 60
NUMBER = int(NUMBERS[1])
REQUEST = check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER])
LARGE_SET = check_pb2.CheckSetRequest(keys=BitMap(KEYS.tolist()).serialize())
"""Some bytes, whose answer is over 100 KB: a third of the keys is opted out."""


def sample(house: House, name: str, **labels: str) -> float:
    return house.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


async def until_streams(house: House, count: int) -> None:
    await until(lambda: sample(house, "ndoo_streams_in_flight") == count)


async def is_healthy(house: House) -> bool:
    stub = health_pb2_grpc.HealthStub(house.channel)
    for service in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return False
    return True


async def begun(house: House) -> grpc.aio.StreamStreamCall:
    """A stream with one chunk answered."""
    call = house.stub.StreamCheck()
    await call.write(REQUEST)
    assert (await call.read()).chunk.cleared == b"\x01"
    return call


async def end_of(call: grpc.aio.StreamStreamCall) -> Refused:
    """How the service ends *call*, which must be without a summary."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while (response := await call.read()) is not grpc.aio.EOF:
            assert response.WhichOneof("message") == "chunk", "a result of half a stream"
    return refused(caught.value)


def take_all(call: grpc.Call, taken: list[object]) -> None:
    """With the blocking client, because the other one reports a write after the end as its own
    fault.
    """
    for response in call:
        assert response.WhichOneof("message") == "chunk", "a result of half a stream"
        taken.append(response)


async def test_a_stream_that_sends_nothing_is_ended_and_may_come_back(
    make_house: MakeHouse,
) -> None:
    house = await make_house(stream_idle_s_max=0.1)
    house.publish(set())
    got = await end_of(await begun(house))
    assert (got.code, got.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
    assert got.retry_s > 0
    assert sample(house, "ndoo_refused_total", reason="STREAM_IDLE") == 1
    (await begun(house)).cancel()


def unsent(house: House) -> grpc.aio.StreamUnaryCall:
    """A single call whose message does not come; what came of it would wait in memory."""
    return house.channel.stream_unary(f"/{SERVICE}/BatchCheck")()


async def test_single_messages_that_do_not_come_take_places_and_are_not_waited_for(
    make_house: MakeHouse,
) -> None:
    house = await make_house(streams_max=2, stream_idle_s_max=1.0)
    house.publish(set())
    waiting = [unsent(house) for _ in range(2)]
    await until_streams(house, 2)
    ends = [(unsent(house), "TOO_MANY_STREAMS"), *((each, "STREAM_IDLE") for each in waiting)]
    for call, reason in ends:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert refused(caught.value).reason == reason
    await until_streams(house, 0)


async def test_no_message_is_no_empty_message(house: House) -> None:
    call = unsent(house)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert refused(caught.value).reason == "MALFORMED_MESSAGE"


async def test_a_stop_waits_for_no_message_that_does_not_come(make_house: MakeHouse) -> None:
    house = await make_house(grace_s=0.0)
    house.publish(set())
    call = unsent(house)
    labels = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "BatchCheck"}
    await call.wait_for_connection()
    await until(lambda: sample(house, "grpc_server_started_total", **labels) == 1)
    await house.server.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert refused(caught.value).reason == "SHUTTING_DOWN"


async def test_a_stream_that_goes_on_for_too_long_is_ended_between_messages(
    make_house: MakeHouse,
) -> None:
    house = await make_house(stream_s_max=0.3)
    house.publish(set())
    taken: list[check_pb2.StreamCheckResponse] = []
    with grpc.insecure_channel(house.address) as channel:
        call = check_pb2_grpc.OptOutCheckStub(channel).StreamCheck(itertools.repeat(REQUEST))
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(take_all, call, taken)
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.ABORTED, "STREAM_TOO_LONG")
    assert got.retry_s is None, "the same again would take as long"
    assert sample(house, "ndoo_numbers_total", rpc="StreamCheck", verdict="cleared") == len(taken)


def test_the_client_of_the_project_is_told(directory_place: Place) -> None:
    directory_place.loaded(1)
    service = Service(directory_place.url, "--stream-idle-s-max", "0.2")

    def chunks() -> Iterator[np.ndarray]:
        for streams in (1, 0):  # it dawdles until the service has had enough
            yield NUMBERS[:1]
            while get_register(channel).activity.streams != streams:
                pass

    try:
        with open_channel(service.address) as channel, pytest.raises(CallFailed) as caught:
            list(check_stream(channel, chunks()))
    finally:
        service.kill()
    assert caught.value.reason == "STREAM_IDLE"
    assert caught.value.retry_delay_s


@contextlib.contextmanager
def stalled(house: House) -> Iterator[grpc.Call]:
    """A stream whose caller sends for ever and takes nothing."""
    with grpc.insecure_channel(house.address) as channel:
        call = check_pb2_grpc.OptOutCheckStub(channel).CheckSet(itertools.repeat(LARGE_SET))
        yield call
        call.cancel()


@pytest.fixture
async def narrow(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> House:
    """A server with room for one stream, whose caller may be idle for a moment."""
    monkeypatch.setattr("ndoo.server.calls.TELL_S", 0)
    house = await make_house(stream_idle_s_max=0.2, streams_max=1)
    house.publish(set(NUMBERS[::3].tolist()))
    return house


async def until_idle(house: House, times: int) -> None:
    await until(lambda: sample(house, "ndoo_refused_total", reason="STREAM_IDLE") == times)


async def test_a_caller_who_does_not_read_loses_its_place_and_is_told_when_it_does(
    narrow: House,
) -> None:
    with stalled(narrow) as call:
        await until_idle(narrow, 1)
        await until_streams(narrow, 0)
        (await begun(narrow)).cancel()
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(take_all, call, [])
    assert refused(caught.value).reason == "STREAM_IDLE"


async def test_more_than_so_many_who_do_not_read_keep_their_places(narrow: House) -> None:
    """Else there would be no end to what answers that nobody takes may hold."""
    with stalled(narrow):
        await until_idle(narrow, 1)
        await until_streams(narrow, 0)
        with stalled(narrow):
            await until_idle(narrow, 2)
            assert await is_healthy(narrow)  # by when it would be free
            assert (await end_of(narrow.stub.StreamCheck())).reason == "TOO_MANY_STREAMS"
        await until_streams(narrow, 0)
        (await begun(narrow)).cancel()


class Peers(OpenDoor):
    """Lets everybody in, and knows over which connections they came."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def admit(self, rpc: str, caller: Caller) -> Access:
        self.seen.add(caller.peer)
        return super().admit(rpc, caller)


async def test_connections_are_changed_and_no_call_is_cut(make_house: MakeHouse) -> None:
    peers = Peers()
    house = await make_house(connection_age_s=0.2, door=peers)
    house.publish(set())
    call = await begun(house)
    async with asyncio.timeout(PATIENCE_S):
        while len(peers.seen) < 4:
            answer = await house.stub.Check(check_pb2.CheckRequest(nhs_number=f"{NUMBER:010d}"))
            assert answer.verdict == check_pb2.VERDICT_CLEARED
    await call.write(REQUEST)
    assert (await call.read()).chunk.offset == 1
    await call.done_writing()
    assert (await call.read()).summary.counts.received == 2


async def test_headers_are_limited(house: House) -> None:
    request = check_pb2.GetRegisterRequest()
    fits = (("authorization", "Bearer " + "x" * 12_000),)
    await house.stub.GetRegister(request, metadata=fits)
    too_large = (("authorization", "Bearer " + "x" * 20_000),)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.GetRegister(request, metadata=too_large)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Bulk answers that take until this is set: every thread for them gets busy."""
    go_on = threading.Event()
    answer = View.check_many

    def hold(view: View, numbers: np.ndarray) -> object:
        go_on.wait(PATIENCE_S)
        return answer(view, numbers)

    monkeypatch.setattr(View, "check_many", hold)
    yield go_on
    go_on.set()


async def test_probes_and_single_checks_answer_while_everything_is_taken(
    make_house: MakeHouse, held: threading.Event
) -> None:
    house = await make_house(streams_max=8)
    house.publish(set())
    bulk = check_pb2.BatchCheckRequest(nhs_numbers=np.full(20_000, NUMBER, np.uint64))
    waiting = [asyncio.ensure_future(house.stub.BatchCheck(bulk)) for _ in range(8)]
    await until_streams(house, 8)
    check = check_pb2.CheckRequest(nhs_number=f"{NUMBER:010d}")
    flood = [asyncio.ensure_future(house.stub.Check(check)) for _ in range(500)]
    endpoint = HttpEndpoint(
        "127.0.0.1:0", house.metrics.registry,
        has_started=house.server.has_started, is_ready=house.server.is_ready,
    )  # fmt: skip
    try:
        assert await is_healthy(house)
        for probe in ("livez", "startupz", "readyz", "metrics"):
            raw = await asyncio.to_thread(ask, endpoint, f"GET /{probe} HTTP/1.0\r\n\r\n".encode())
            assert raw.startswith(b"HTTP/1.0 200 ")
        verdicts = {(await each).verdict for each in flood}
        assert verdicts == {check_pb2.VERDICT_CLEARED}
        assert not any(each.done() for each in waiting)
    finally:
        held.set()
        endpoint.close()
    assert {(await each).counts.cleared for each in waiting} == {20_000}


async def test_more_calls_than_one_connection_may_make_wait_and_are_answered(
    make_house: MakeHouse,
) -> None:
    """Calls that wait for a revision stay until it comes, however many they are."""
    peers = Peers()
    house = await make_house(door=peers)
    house.publish(set())
    view = house.replica.state.verified
    token = type(view.revision)(view.revision.generation, 1).token
    request = check_pb2.CheckRequest(nhs_number=f"{NUMBER:010d}", at_least_as_fresh=token)
    asked = [asyncio.ensure_future(house.stub.Check(request)) for _ in range(300)]
    begun_ = "grpc_server_started_total"
    labels = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "Check"}
    await until(lambda: sample(house, begun_, **labels) == 256)
    house.opt_out(NUMBER)
    assert {(await each).verdict for each in asked} == {check_pb2.VERDICT_OPTED_OUT}


@contextlib.contextmanager
def connections(address: str, count: int, *, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections, over each of which so much was said."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(split_address(address))))
            opened[-1].settimeout(PATIENCE_S)
            opened[-1].sendall(said)
        yield opened


async def test_connections_that_say_nothing_are_ended(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndoo.server.server.HANDSHAKE_MS", 300)
    house = await make_house()
    house.publish(set())
    with connections(house.address, 200) as silent:
        assert await is_healthy(house)
        for each in silent:
            with contextlib.suppress(ConnectionResetError):
                while await asyncio.to_thread(each.recv, 65_536):
                    pass


async def test_connections_that_come_and_go_leave_nothing(make_house: MakeHouse) -> None:
    house = await make_house()
    house.publish(set())
    await is_healthy(house)
    before = open_files()
    for _ in range(20):
        with connections(house.address, 20, said=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            assert await is_healthy(house)
    await until(lambda: open_files() <= before)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ask(endpoint: HttpEndpoint, request: bytes) -> bytes:
    with connections(endpoint.address, 1, said=request) as (connection,):
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_slow_callers_of_http_keep_no_probe_out_and_do_not_hold_up_the_end() -> None:
    endpoint = HttpEndpoint(
        "127.0.0.1:0", CollectorRegistry(), has_started=lambda: True, is_ready=lambda: True
    )
    before = threading.active_count()
    with connections(endpoint.address, 100, said=b"GET /livez HTTP/1.1\r\nHost: "):
        for probe in (b"livez", b"startupz", b"readyz"):
            answer = ask(endpoint, b"GET /%s HTTP/1.0\r\n\r\n" % probe)
            assert answer.startswith(b"HTTP/1.0 200 ")
        assert threading.active_count() - before <= 16
        endpoint.close()


STALLS = """
import sys, threading
import grpc
from ndoo.v1 import check_pb2, check_pb2_grpc

def requests():
    while True:
        yield check_pb2.CheckSetRequest(keys=keys)

keys, calls = sys.stdin.buffer.read(), []
channel = grpc.insecure_channel(sys.argv[1])
for _ in range(int(sys.argv[2])):
    calls.append(check_pb2_grpc.OptOutCheckStub(channel).CheckSet(requests()))
print("begun", flush=True)
threading.Event().wait()
"""


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def stalling(address: str, count: int) -> Iterator[None]:
    """A process with so many streams of which it reads nothing."""
    command = [sys.executable, "-c", STALLS, address, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            process.stdin.write(LARGE_SET.keys)
            process.stdin.close()
            process.stdout.readline()
            yield
        finally:
            process.kill()


def test_callers_who_do_not_read_hold_no_more_than_their_share(directory_place: Place) -> None:
    """32 of them, for whom answers without end could pile up; others are answered all the while."""
    directory_place.publisher().load(BitMap(KEYS[::3].tolist()), Terms(accept_jump=True))
    service = Service(directory_place.url, "--stream-idle-s-max", "1", "--streams-max", "32")
    try:
        before = rss_mb(service.pid)
        with grpc.insecure_channel(service.address) as channel, stalling(service.address, 32):
            stub = check_pb2_grpc.OptOutCheckStub(channel)
            answered_until(stub, lambda now: now.streams == 32)
            activity = answered_until(stub, lambda now: now.streams == 0)
        assert activity.numbers > 32 * len(KEYS)
        assert rss_mb(service.pid) - before < 60
        service.stop()
    finally:
        service.kill()


def answered_until(
    stub: check_pb2_grpc.OptOutCheckStub, condition: Callable[[check_pb2.Activity], bool]
) -> check_pb2.Activity:
    """The activity that fulfils *condition*, with single checks in between."""
    number = next(n for n in NUMBERS.tolist() if n // 10 % 3 != KEYS[0] % 3)
    check = check_pb2.CheckRequest(nhs_number=f"{number:010d}")
    while True:
        assert stub.Check(check, timeout=PATIENCE_S).verdict == check_pb2.VERDICT_CLEARED
        now = stub.GetRegister(check_pb2.GetRegisterRequest(), timeout=PATIENCE_S).activity
        if condition(now):
            return now
