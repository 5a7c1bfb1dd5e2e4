"""How many single checks a second does one process of callers get answered?

A closed loop: so many tasks, each of which awaits one answer after the other. With the client that
gathers concurrent checks into common messages, and with a call for each check, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import numpy as np
import uvloop

from benchmarks.data import Asked, Truth, prove
from benchmarks.harness import Contender, Facts, interleave, ratio
from benchmarks.streams import CHECK, channel
from benchmarks.workshop import Workshop
from ndoo.client import AsyncClient
from ndoo.v1 import check_pb2

QUESTION = "How many single checks a second do concurrent tasks of one process get answered?"

TASKS = 64
ALONE = "a call for each check"
_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Ask = Callable[[int], Awaitable[int]]
Connect = Callable[[], contextlib.AbstractAsyncContextManager[Ask]]


def measure(shop: Workshop) -> Facts:
    scale = shop.scale
    many = shop.asked.first(16 * scale.calls_in_a_row)
    few = shop.asked.first(scale.calls_in_a_row)
    with shop.service() as served:
        contenders = [
            Contender(
                f"AsyncClient, {name}",
                len(many),
                partial(_run, loop, partial(coalesced, served.target), many),
                partial(_prove, many),
                served.cpu_s,
            )
            for name, loop in _LOOPS.items()
        ]
        alone = partial(_run, uvloop.new_event_loop, partial(one_by_one, served.target), few)
        contenders.append(Contender(ALONE, len(few), alone, partial(_prove, few), served.cpu_s))
        rows = interleave(contenders, scale.rounds, shop.progress)
    return {
        "parameters": {"opt_outs": len(shop.register), "tasks": TASKS},
        "rows": rows,
        "over_alone": {
            name: ratio(rows, f"AsyncClient, {name}", ALONE) for name in _LOOPS
        },
    }  # fmt: skip


@contextlib.asynccontextmanager
async def coalesced(target: str) -> AsyncIterator[Ask]:
    async with AsyncClient(target) as client:
        yield client.check


@contextlib.asynccontextmanager
async def one_by_one(target: str) -> AsyncIterator[Ask]:
    async with channel(target) as connection:
        call = connection.unary_unary(CHECK)

        async def ask(number: int) -> int:
            request = check_pb2.CheckRequest(nhs_number=f"{number:010d}")
            response = await call(request.SerializeToString())
            return check_pb2.CheckResponse.FromString(response).verdict

        yield ask


def _run(
    loop: Callable[[], asyncio.AbstractEventLoop], connect: Connect, asked: Asked
) -> list[int]:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_closed_loop(connect, asked.numbers.tolist()))


async def _closed_loop(connect: Connect, numbers: list[int]) -> list[int]:
    verdicts = [0] * len(numbers)
    waiting = iter(enumerate(numbers))
    async with connect() as ask:

        async def work() -> None:
            for place, number in waiting:
                verdicts[place] = await ask(number)

        await asyncio.gather(*(work() for _ in range(TASKS)))
    return verdicts


def _prove(asked: Asked, verdicts: list[int]) -> Facts:
    told = np.array(verdicts)
    cleared, invalid = told == check_pb2.VERDICT_CLEARED, told == check_pb2.VERDICT_INVALID
    return prove(Truth(cleared, invalid), asked.truth)
