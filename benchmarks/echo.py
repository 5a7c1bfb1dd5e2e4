"""A server that is the transport and nothing else, and its rungs up to the service's answer.

The options, the event loop and the shape of the handlers are the service's. `/bench/Echo` answers
each bulk message with as many bytes as the service would, `/bench/Empty` a single check with a
constant. With a feed there are rungs between the echo and the service, each of which does one thing
more than the one before (see `rungs`).

    python -m benchmarks.echo [FEED]
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import uvloop

from ndoo.config import Settings
from ndoo.feed.url import open_feed
from ndoo.register.register import Register
from ndoo.register.view import Answers, View
from ndoo.server import wire
from ndoo.server.server import channel_options  # the very ones, or it is no comparison
from ndoo.v1 import check_pb2

Answering = Callable[[bytes], Awaitable[bytes]]

_REQUEST_TO_ANSWER = 32  # 64 bits a number in, 2 bits out: one of cleared, one of invalid


@functools.cache
def _zeros(size: int) -> bytes:
    return bytes(size)


async def echo(message: bytes) -> bytes:
    return _zeros(len(message) // _REQUEST_TO_ANSWER)


class Rungs:
    """From the echo up. Every rung but the last answers with the echo's bytes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._executor = ThreadPoolExecutor(os.cpu_count() or 1)

    async def read(self, message: bytes) -> bytes:
        wire.read_numbers(message)
        return await echo(message)

    async def kernel(self, message: bytes) -> bytes:
        self._view.check_many(wire.read_numbers(message).numbers)
        return await echo(message)

    async def thread(self, message: bytes) -> bytes:
        await self._in_thread(message)
        return await echo(message)

    async def chunk(self, message: bytes) -> bytes:
        answers = await self._in_thread(message)
        chunk = check_pb2.Chunk(
            count=answers.count, cleared=answers.cleared, invalid=answers.invalid
        )
        return check_pb2.StreamCheckResponse(chunk=chunk).SerializeToString()

    async def _in_thread(self, message: bytes) -> Answers:
        numbers = wire.read_numbers(message).numbers
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._view.check_many, numbers)


def _stream(answer: Answering) -> grpc.RpcMethodHandler:
    async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async for message in messages:
            await context.write(await answer(message))

    return grpc.stream_stream_rpc_method_handler(handle)


def _empty() -> grpc.RpcMethodHandler:
    response = check_pb2.CheckResponse(
        verdict=check_pb2.VERDICT_CLEARED, revision=check_pb2.Revision(token="9" * 70)
    ).SerializeToString()

    async def handle(_message: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return response

    return grpc.unary_unary_rpc_method_handler(handle)


def _handlers(feed: str) -> dict[str, grpc.RpcMethodHandler]:
    handlers = {"Echo": _stream(echo), "Empty": _empty()}
    if feed:
        with contextlib.closing(open_feed(feed)) as opened:
            register = Register(opened.load())
        rungs = Rungs(View.of(register.keys(), register.revision))
        for name in ("read", "kernel", "thread", "chunk"):
            handlers[name.title()] = _stream(getattr(rungs, name))
    return handlers


async def _serve(feed: str) -> None:
    handlers = await asyncio.to_thread(_handlers, feed)
    settings = Settings(feed=feed)
    server = grpc.aio.server(options=channel_options(settings.message_bytes_max))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve("".join(sys.argv[1:])))
