"""What a bulk check costs: the service, the transport under it, and what one could use instead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import redis

from benchmarks import peers
from benchmarks.data import Asked, Truth, prove
from benchmarks.harness import Contender, Facts, interleave, ratio
from benchmarks.processes import Child, redis_server
from benchmarks.scale import CHUNK
from benchmarks.streams import BATCH_CHECK, bits, connect, echo, stream_check
from benchmarks.workshop import Workshop
from ndoo.client import ChunkAnswer, check_stream, open_channel
from ndoo.register.view import Answers, View
from ndoo.revision import Revision
from ndoo.v1 import check_pb2

QUESTION = "How fast is a bulk check, beside its transport and beside what one could use instead?"

STREAMS = 2
_BATCHES_IN_FLIGHT = 4
SERVICE = "StreamCheck"


def measure(shop: Workshop) -> Facts:
    asked, share = shop.asked, shop.scale.peer_share
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(shop.service())
        process, target = stack.enter_context(shop.echo())
        _, port = stack.enter_context(redis_server(shop.folder))
        client = stack.enter_context(redis.Redis(port=port))
        service = stream_check(
            shop, served, served.target, asked, name=SERVICE, repeats=shop.scale.repeats
        )
        own = [
            echo(shop, process, target, asked, repeats=shop.scale.repeats),
            service,
            library(stack, served, asked),
            batch_check(shop, served, asked),
            kernel(shop, asked),
        ]
        rows = interleave(own, shop.scale.rounds, shop.progress)
        # Peers leave threads and caches behind that would disturb the echo: they have rounds of
        # their own, in which the service takes part again.
        others = [
            *peers.redis_peers(client, shop.register, asked, share),
            *peers.local_peers(shop.register, asked, share),
        ]
        beside, *peer_rows = interleave([service, *others], shop.scale.rounds, shop.progress)
        held_mb = client.info("memory")["used_memory"] / 1e6
    return {
        "parameters": {
            "opt_outs": len(shop.register), "questions": len(asked), "numbers_per_message": CHUNK,
            "streams": STREAMS,
        },
        "rows": rows + peer_rows,
        "stream_check_beside_peers": beside,
        "stream_check_over": {
            "echo": ratio(rows, SERVICE, "echo"),
            **{row["name"]: ratio([beside, row], SERVICE, row["name"]) for row in peer_rows},
        },
        "redis_memory_mb": round(held_mb, 1),
        "missing": peers.missing(),
    }  # fmt: skip


def library(stack: contextlib.ExitStack, served: Child, asked: Asked) -> Contender:
    """StreamCheck through the client library: chunks cut, answers proven, totals compared."""
    half = -(-len(asked) // CHUNK // STREAMS) * CHUNK
    shares = [asked.numbers[at : at + half] for at in range(0, len(asked), half)]
    channels = [stack.enter_context(open_channel(served.target)) for _ in shares]
    threads = stack.enter_context(ThreadPoolExecutor(len(shares)))

    def ask(share: int) -> list[ChunkAnswer]:
        numbers = shares[share]
        chunks = (numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK))
        with check_stream(channels[share], chunks) as stream:
            return list(stream)

    def proven(answers: Sequence[list[ChunkAnswer]]) -> Facts:
        chunks = [chunk for share in answers for chunk in share]
        cleared = np.concatenate([chunk.cleared_mask() for chunk in chunks])
        invalid = np.concatenate([chunk.invalid_mask() for chunk in chunks])
        return prove(Truth(cleared, invalid), asked.truth)

    return Contender(
        "StreamCheck, client library", len(asked),
        lambda: list(threads.map(ask, range(len(shares)))), proven, served.cpu_s,
    )  # fmt: skip


def batch_check(shop: Workshop, served: Child, asked: Asked, size: int = CHUNK) -> Contender:
    """BatchCheck, a few calls at a time, over one connection."""
    method = connect(shop, served.target).unary_unary(BATCH_CHECK)
    messages = asked.messages(size)

    async def call_all() -> list[bytes]:
        free = asyncio.Semaphore(_BATCHES_IN_FLIGHT)

        async def call(message: bytes) -> bytes:
            async with free:
                return await method(message)

        return await asyncio.gather(*map(call, messages))

    def proven(responses: list[bytes]) -> Facts:
        answers = map(check_pb2.BatchCheckResponse.FromString, responses)
        masks = [bits(each.cleared, each.invalid, each.counts.received) for each in answers]
        cleared, invalid = zip(*masks)
        return prove(Truth(np.concatenate(cleared), np.concatenate(invalid)), asked.truth)

    return Contender("BatchCheck", len(asked), lambda: shop.run(call_all()), proven, served.cpu_s)


def kernel(shop: Workshop, asked: Asked) -> Contender:
    """The compiled loop alone, in this process, in one thread."""
    view = View.of(shop.register, Revision("benchmarks", 0))

    def proven(answers: Answers) -> Facts:
        masks = bits(answers.cleared, answers.invalid, answers.count)
        return prove(Truth(*masks), asked.truth)

    return Contender(
        "kernel, one thread", len(asked), lambda: view.check_many(asked.numbers), proven
    )
