"""Up and down: health, reflection, probes, the order of stopping."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from ndoo.config import split_address
from ndoo.errors import InputError
from ndoo.ops.http import HttpEndpoint
from ndoo.server import health
from ndoo.server.access import OpenDoor
from ndoo.server.caller import Caller
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import NUMBERS, House, MakeHouse
from support.answers import refused

SERVICE = "ndoo.v1.OptOutCheck"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NUMBER = int(NUMBERS[0])


async def health_of(house: House, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(house.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def until_health(house: House, wanted: int) -> None:
    stub = health_pb2_grpc.HealthStub(house.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    async for update in watch:
        if update.status == wanted:
            watch.cancel()
            return


async def test_liveness_does_not_wait_for_a_register(make_house: MakeHouse) -> None:
    house = await make_house()
    assert await health_of(house, "") == SERVING
    assert await health_of(house, SERVICE) == NOT_SERVING


async def test_readiness_follows_the_register(make_house: MakeHouse) -> None:
    house = await make_house()
    house.publish({NUMBER})
    await until_health(house, SERVING)
    house.publish({NUMBER}, suspended=True)
    await until_health(house, NOT_SERVING)
    house.publish({NUMBER})
    await until_health(house, SERVING)
    house.publish({NUMBER}, as_of=time.time() - 90_000)
    await until_health(house, NOT_SERVING)
    assert await health_of(house, "") == SERVING


async def test_running_calls_finish_before_the_server_stops(house: House) -> None:
    call = house.stub.StreamCheck()
    request = check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER])
    await call.write(request)
    await call.read()
    stopping = asyncio.create_task(house.server.stop())
    await until_health_gone(house)
    await call.write(request)
    assert (await call.read()).chunk.count == 1
    await call.done_writing()
    assert (await call.read()).summary.counts.received == 2
    await stopping


async def test_new_calls_are_refused_while_stopping(house: House) -> None:
    call = house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER]))
    await call.read()
    stopping = asyncio.create_task(house.server.stop())
    await until_health_gone(house)
    async with grpc.aio.insecure_channel(house.address) as fresh:
        for channel in (fresh, house.channel):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Check")(b"", timeout=30)
            got = refused(caught.value)
            assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert got.retry_s > 0
    assert not house.server.is_ready()
    assert house.server.has_started()
    call.cancel()
    await stopping


async def test_the_grace_can_be_ended(make_house: MakeHouse) -> None:
    house = await make_house(grace_s=3600)
    house.publish({NUMBER})
    call = house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER]))
    await call.read()
    stopping = asyncio.create_task(house.server.stop())
    await until_health_gone(house)
    house.server.hurry()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await stopping


class Waiting(OpenDoor):
    """Lets everybody in, and has everybody wait for room without end."""

    client, marks = "", ()

    def __init__(self) -> None:
        self.waited = asyncio.Event()

    def admit(self, rpc: str, caller: Caller) -> Waiting:
        return self

    def enter(self) -> None:
        pass

    take_place = release = enter

    async def spend(self, numbers: int) -> None:
        self.waited.set()
        await asyncio.get_running_loop().create_future()


async def test_a_stream_that_waits_for_its_rate_is_told_to_retry(make_house: MakeHouse) -> None:
    door = Waiting()
    house = await make_house(door=door, grace_s=0.05)
    house.publish({NUMBER})
    call = house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER]))
    await door.waited.wait()
    stopping = asyncio.create_task(house.server.stop())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await stopping


@pytest.mark.parametrize("idle", [True, False])
async def test_a_stream_that_outlives_the_grace_is_told_to_retry(
    make_house: MakeHouse, idle: bool
) -> None:
    house = await make_house(grace_s=0.05)
    house.publish({NUMBER})
    answered, over = threading.Event(), threading.Event()
    ending = asyncio.create_task(asyncio.to_thread(stream_on, house, idle, answered, over))
    await asyncio.to_thread(answered.wait)
    await house.server.stop()
    over.set()
    kinds, error = await ending
    assert set(kinds) == {"chunk"}, "no summary of half a stream"
    got = refused(error)
    assert got.code == grpc.StatusCode.UNAVAILABLE
    if idle:  # with requests still on their way the connection may be gone before the details
        assert got.reason == "SHUTTING_DOWN"
        assert got.retry_s > 0


def stream_on(
    house: House, idle: bool, answered: threading.Event, over: threading.Event
) -> tuple[list[str], grpc.RpcError]:
    """Stream until the server ends it: what came, and how it ended.

    With the blocking client, because the other one reports a write after the end as its own fault.
    """

    def requests() -> Iterator[check_pb2.StreamCheckRequest]:
        yield check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER])
        answered.wait()
        while not over.is_set():
            if idle:
                over.wait()
            yield check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER])

    kinds = []
    with grpc.insecure_channel(house.address) as channel:
        try:
            for response in check_pb2_grpc.OptOutCheckStub(channel).StreamCheck(requests()):
                kinds.append(response.WhichOneof("message"))
                answered.set()
        except grpc.RpcError as error:
            return kinds, error
    raise AssertionError("the stream ended as if it were whole")


async def test_a_port_in_use_is_one_clear_sentence(make_house: MakeHouse) -> None:
    house = await make_house()
    with pytest.raises(InputError, match="Cannot listen on"):
        await make_house(listen=house.address)


async def test_a_stock_client_with_reflection_alone(house: House) -> None:
    """Descriptors from the server, messages made from them: no file of this project is needed."""
    pool = descriptor_pool.DescriptorPool()
    for file in await reflected_files(house.channel, SERVICE):
        pool.Add(file)
    methods = pool.FindServiceByName(SERVICE).methods_by_name
    assert list(methods) == ["Check", "BatchCheck", "StreamCheck", "CheckSet", "GetRegister"]

    def classes(name: str) -> tuple[type, type]:
        method = methods[name]
        return tuple(
            message_factory.GetMessageClass(kind)
            for kind in (method.input_type, method.output_type)
        )

    async def unary(name: str, **fields: object) -> object:
        request, response = classes(name)
        call = house.channel.unary_unary(
            f"/{SERVICE}/{name}", request.SerializeToString, response.FromString
        )
        return await call(request(**fields))

    opted_out, cleared = NUMBER, int(NUMBERS[1])
    assert (await unary("Check", nhs_number=f"{opted_out:010d}")).verdict == 2
    assert (await unary("Check", nhs_number=f"{cleared:010d}")).verdict == 1
    assert (await unary("Check", nhs_number="999")).verdict == 3
    batch = await unary("BatchCheck", nhs_numbers=[opted_out, cleared, 999])
    assert (batch.cleared, batch.invalid) == (b"\x02", b"\x04")
    assert (await unary("GetRegister")).opt_outs == len(house.opted_out)
    request, response = classes("StreamCheck")
    stream = house.channel.stream_stream(
        f"/{SERVICE}/StreamCheck", request.SerializeToString, response.FromString
    )
    got = [
        answer async for answer in stream(iter([request(nhs_numbers=[opted_out, cleared, 999])]))
    ]
    assert (got[0].chunk.cleared, got[0].chunk.invalid) == (b"\x02", b"\x04")
    assert got[1].summary.counts.received == 3


async def reflected_files(channel: grpc.aio.Channel, symbol: str) -> list[FileDescriptorProto]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    call = stub.ServerReflectionInfo(iter([request]))
    answer = await call.read()
    call.cancel()
    files = [
        FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    return sorted(files, key=lambda file: len(file.dependency))


async def until_health_gone(house: House) -> None:
    """Until the server has begun to stop: NOT_SERVING is the first thing it does."""
    while house.server._health.answers[SERVICE] != health.NOT_SERVING:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def fetch(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def endpoint_of(house: House, listen: str = "127.0.0.1:0") -> HttpEndpoint:
    server = house.server
    return HttpEndpoint(
        listen, house.metrics.registry, has_started=server.has_started, is_ready=server.is_ready
    )


async def test_http_endpoint(make_house: MakeHouse) -> None:
    house = await make_house()
    endpoint = endpoint_of(house)
    try:
        assert await asyncio.to_thread(fetch, endpoint.address, "/livez") == (200, "alive\n")
        for probe in ("/startupz", "/readyz"):
            assert (await asyncio.to_thread(fetch, endpoint.address, probe))[0] == 503
        house.publish({NUMBER})
        assert await asyncio.to_thread(fetch, endpoint.address, "/readyz") == (200, "ready\n")
        assert await asyncio.to_thread(fetch, endpoint.address, "/startupz") == (200, "started\n")
        house.publish({NUMBER}, suspended=True)
        assert (await asyncio.to_thread(fetch, endpoint.address, "/readyz"))[0] == 503
        assert (await asyncio.to_thread(fetch, endpoint.address, "/startupz"))[0] == 200
        house.publish({NUMBER})
        assert (await asyncio.to_thread(fetch, endpoint.address, "/other"))[0] == 404
        status, text = await asyncio.to_thread(fetch, endpoint.address, "/metrics")
        assert status == 200
        for line in (
            "ndoo_opt_outs 1.0",
            'ndoo_phase{phase="live"} 1.0',
            'ndoo_phase{phase="stale"} 0.0',
            "ndoo_revision_seq 0.0",
            'ndoo_numbers_total{rpc="StreamCheck",verdict="cleared"} 0.0',
        ):
            assert line in text.splitlines()
        assert "process_resident_memory_bytes" in text
        with pytest.raises(InputError, match="Cannot listen on"):
            endpoint_of(house, endpoint.address)
    finally:
        endpoint.close()


@pytest.fixture
def endpoint() -> Iterator[HttpEndpoint]:
    def broken() -> bool:
        raise ValueError(f"secret {NUMBER}")

    opened = HttpEndpoint("[::1]:0", CollectorRegistry(), has_started=broken, is_ready=broken)
    yield opened
    opened.close()


def say(endpoint: HttpEndpoint, request: bytes) -> bytes:
    host, port = split_address(endpoint.address)
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /livez HTTP/1.1\r\n\r\n", b"HTTP/1.0 200 "),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.0 501 "),
        (b"%d /livez HTTP/1.1\r\n\r\n" % NUMBER, b"HTTP/1.0 501 "),
        (b"GET /%d HTTP/1.1\r\n\r\n" % NUMBER, b"HTTP/1.0 404 "),
        (b"GET /livez HTTP/2.%d\r\n\r\n" % NUMBER, b"There is "),
        (b"%d\r\n\r\n" % NUMBER, b"There is "),
        (b"GET /readyz HTTP/1.0\r\n\r\n", b""),
    ],
)
def test_no_request_is_repeated_to_anybody(
    endpoint: HttpEndpoint, capfd: pytest.CaptureFixture[str], request_: bytes, status: bytes
) -> None:
    answer = say(endpoint, request_)
    assert answer.startswith(status)
    assert str(NUMBER).encode() not in answer
    assert not answer.startswith(b"HTTP/1.0 200") or answer.endswith(b"\r\n\r\n"), "HEAD: no body"
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_callers_that_hang_up_are_no_events(
    endpoint: HttpEndpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = split_address(endpoint.address)
    for _ in range(20):
        with socket.create_connection((host, port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert say(endpoint, b"GET /livez HTTP/1.0\r\n\r\n").endswith(b"alive\n")
    assert capfd.readouterr().err == ""
