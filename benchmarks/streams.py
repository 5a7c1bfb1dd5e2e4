"""The bulk client of the benchmarks: ready-made messages out, raw bytes in, nothing else timed.

Each stream has a connection of its own. Messages are made before, and answers read after, the clock
runs, so that what is measured is the transport and the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import grpc
import numpy as np

from benchmarks.data import Asked, Truth, WrongAnswer, prove
from benchmarks.harness import Contender, Facts
from benchmarks.processes import Child
from benchmarks.scale import CHUNK
from benchmarks.workshop import Workshop
from ndoo.v1 import check_pb2

STREAM_CHECK = "/ndoo.v1.OptOutCheck/StreamCheck"
BATCH_CHECK = "/ndoo.v1.OptOutCheck/BatchCheck"
CHECK = "/ndoo.v1.OptOutCheck/Check"
ECHO = "/bench/Echo"
EMPTY = "/bench/Empty"

OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_frame_size", 4 * 1024 * 1024),  # as the client library has it
    ("grpc.use_local_subchannel_pool", 1),  # each channel gets a connection of its own
)


def channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, options=OPTIONS)


def connect(shop: Workshop, target: str) -> grpc.aio.Channel:
    """A connection that is up, and is closed before the server ends."""

    async def opened() -> grpc.aio.Channel:
        connection = channel(target)
        await connection.channel_ready()
        return connection

    connection = shop.run(opened())
    shop.close_later(lambda: shop.run(connection.close()))
    return connection


class Streams:
    """*count* streams of *method*; made for one set of messages, run many times."""

    def __init__(
        self, shop: Workshop, target: str, method: str, messages: Sequence[bytes], count: int
    ) -> None:
        self._shop = shop
        self._shares = [share for share in _shared_out(messages, count) if share]
        self._channels = [connect(shop, target) for _ in self._shares]
        self._method = method

    def run(self) -> list[list[bytes]]:
        """All answers, stream by stream."""
        return self._shop.run(self._ask_all())

    async def _ask_all(self) -> list[list[bytes]]:
        return await asyncio.gather(
            *(
                ask(channel, self._method, share)
                for channel, share in zip(self._channels, self._shares)
            )
        )


async def ask(channel: grpc.aio.Channel, method: str, messages: Iterable[bytes]) -> list[bytes]:
    call = channel.stream_stream(method)(iter(messages))
    return [response async for response in call]


def stream_check(
    shop: Workshop, served: Child, target: str, asked: Asked, *, name: str, size: int = CHUNK,
    streams: int = 2, repeats: int = 1,
) -> Contender:  # fmt: skip
    """StreamCheck as a contender, every bit of its answers held against the truth.

    The questions are asked *repeats* times in one turn, so that it is long enough to be measured.
    """
    client = Streams(shop, target, STREAM_CHECK, repeats * asked.messages(size), streams)
    truth = asked.truth.repeated(repeats)

    def proven(shares: list[list[bytes]]) -> Facts:
        return prove(_streamed(shares), truth)

    return Contender(name, repeats * len(asked), client.run, proven, served.cpu_s)


def echo(
    shop: Workshop, process: Child, target: str, asked: Asked, *, name: str = "echo",
    method: str = ECHO, size: int = CHUNK, streams: int = 2, repeats: int = 1,
) -> Contender:  # fmt: skip
    """The same messages, answered by as many bytes that say nothing."""
    messages = repeats * asked.messages(size)
    client = Streams(shop, target, method, messages, streams)

    def counted(shares: list[list[bytes]]) -> Facts:
        if sum(map(len, shares)) != len(messages):
            raise WrongAnswer("the echo did not answer every message")
        return {"messages": len(messages)}

    return Contender(name, repeats * len(asked), client.run, counted, process.cpu_s)


def bits(cleared: bytes, invalid: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The two bitmaps of an answer as masks."""
    masks = [
        np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little").view(np.bool_)
        for raw in (cleared, invalid or bytes(len(cleared)))
    ]
    return masks[0], masks[1]


def _streamed(shares: list[list[bytes]]) -> Truth:
    """What streams answered, as the truth is written. Raises WrongAnswer if one is not whole."""
    masks = []
    for share in shares:
        *chunks, last = map(check_pb2.StreamCheckResponse.FromString, share)
        received = sum(response.chunk.count for response in chunks)
        if last.WhichOneof("message") != "summary" or last.summary.counts.received != received:
            raise WrongAnswer("a stream ended without the summary that makes it whole")
        for response in chunks:
            chunk = response.chunk
            masks.append(bits(chunk.cleared, chunk.invalid, chunk.count))
    cleared, invalid = zip(*masks)
    return Truth(np.concatenate(cleared), np.concatenate(invalid))


def _shared_out(messages: Sequence[bytes], count: int) -> list[Sequence[bytes]]:
    size = -(-len(messages) // count)
    return [messages[at : at + size] for at in range(0, len(messages), size)]
