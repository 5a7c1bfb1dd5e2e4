"""Health is for strangers, too: so none of them may hold it up, or fill the memory with it."""

from __future__ import annotations

import asyncio
import struct

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.conftest import House, MakeHouse

SERVICE = "ndoo.v1.OptOutCheck"
WATCH, CHECK = (f"/grpc.health.v1.Health/{name}" for name in ("Watch", "Check"))
STATUS = health_pb2.HealthCheckResponse
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    head = struct.pack(">BHBBI", len(content) >> 16, len(content) & 0xFFFF, kind, flags, stream)
    return head + content


def header(name: str, value: str) -> bytes:
    """Literally, as HPACK has it."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


def watching_without_room(service: str) -> bytes:
    """What somebody sends who watches *service* and takes not a byte of any answer."""
    names = {
        ":method": "POST", ":scheme": "http", ":path": WATCH, ":authority": "x", "te": "trailers",
        "content-type": "application/grpc",
    }  # fmt: skip
    asked = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
        + frame(HEADERS, END_HEADERS, 1, b"".join(header(*each) for each in names.items()))
        + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(asked)) + asked)
    )


async def until_headers(reader: asyncio.StreamReader) -> None:
    """Until the answer has begun; what follows its headers has no room."""
    kind = -1
    while kind != HEADERS:
        head = await reader.readexactly(9)
        kind = head[3]
        await reader.readexactly(int.from_bytes(head[:3], "big"))


async def test_who_takes_no_answer_keeps_the_news_from_nobody(make_house: MakeHouse) -> None:
    house: House = await make_house()
    house.publish(set())
    reader, writer = await asyncio.open_connection(*house.address.split(":"))
    try:
        stub = health_pb2_grpc.HealthStub(house.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        async with asyncio.timeout(30):
            while (await watch.read()).status != STATUS.SERVING:
                pass
            writer.write(watching_without_room(SERVICE))
            await until_headers(reader)
            house.publish(set(), suspended=True)
            assert (await watch.read()).status == STATUS.NOT_SERVING
            await house.server.stop()
    finally:
        writer.close()


@pytest.mark.parametrize("path", [CHECK, WATCH])
async def test_half_a_question_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("ndoo.server.health.MESSAGE_S_MAX", 0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.channel.stream_unary(path)(timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_service_that_is_not_there(house: House) -> None:
    stub = health_pb2_grpc.HealthStub(house.channel)
    request = health_pb2.HealthCheckRequest(service="other")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(request)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request)
    assert (await watch.read()).status == STATUS.SERVICE_UNKNOWN
    watch.cancel()


async def test_what_is_no_question(house: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.channel.unary_unary(CHECK)(b"\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
