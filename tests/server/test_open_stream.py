"""How long a stream may run and wait, against a model, on a clock that needs no waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from ndoo.config import Settings
from ndoo.errors import NdooError
from ndoo.server.limits import Limits
from ndoo.server.open_stream import OpenStream
from ndoo.server.status import ShuttingDown

LONGEST_S, IDLE_S = 20.0, 3.0
Step = tuple[float, float, float]
"""Seconds until the caller sends, the service has worked out the answer, the caller takes it."""


class QuickLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer when nothing else is to be done."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class Caller:
    """Sends, and takes answers, as *steps* say."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._taking = iter(taken_s for _, _, taken_s in steps)
        self.answered = 0

    async def messages(self) -> AsyncIterator[bytes]:
        for sent_s, _, _ in self._steps:
            await asyncio.sleep(sent_s)
            yield b""

    async def write(self, _message: bytes) -> None:
        await asyncio.sleep(next(self._taking))
        self.answered += 1


async def lived(steps: list[Step], stop_at: float | None) -> tuple[int, str, float]:
    """How many answers were taken, how the stream ended and when."""
    loop = asyncio.get_running_loop()
    settings = Settings.from_env({}, feed="dir:x", stream_s_max=LONGEST_S, stream_idle_s_max=IDLE_S)
    stream, caller = OpenStream(Limits.of(settings)), Caller(steps)
    if stop_at is not None:
        loop.call_at(stop_at, stream.end, ShuttingDown("Stopping."))
    working = iter(worked_s for _, worked_s, _ in steps)
    reason = ""
    try:
        async for message in stream.read(caller.messages(), lambda: None):
            await asyncio.sleep(next(working))
            await stream.write(caller, message)
    except NdooError as error:
        reason = error.reason
    finally:
        stream.close()
    return caller.answered, reason, loop.time()


def foretold(steps: list[Step], stop_at: float | None) -> tuple[int, str, float]:
    """The same by arithmetic."""
    ends = [(LONGEST_S, "STREAM_TOO_LONG"), *([(stop_at, "SHUTTING_DOWN")] if stop_at else [])]
    end_at, end = min(ends)
    now = 0.0
    for answered, (sent_s, worked_s, taken_s) in enumerate(steps):
        if now >= end_at:
            return answered, end, now
        if min(now + sent_s, end_at) > now + IDLE_S:
            return answered, "STREAM_IDLE", now + IDLE_S
        if now + sent_s > end_at:
            return answered, end, end_at
        now += sent_s + worked_s
        if taken_s > IDLE_S:
            is_over = now + IDLE_S > end_at
            return answered, end if is_over else "STREAM_IDLE", now + IDLE_S
        now += taken_s
    return len(steps), end if now >= end_at else "", now


def run(living: Coroutine[Any, Any, tuple[int, str, float]]) -> tuple[int, str, float]:
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(living)


@pytest.mark.parametrize("seed", range(300))
def test_streams_live_as_the_model_says(seed: int) -> None:
    chance = random.Random(seed)
    slow = chance.choice([1.0, 2.0, 3.5])
    steps = [
        tuple(chance.choice([0.0, chance.uniform(0, slow)]) for _ in range(3))
        for _ in range(chance.randrange(20))
    ]
    stop_at = chance.choice([None, chance.uniform(0, 25)])
    answered, reason, at = run(lived(steps, stop_at))
    expected = foretold(steps, stop_at)
    assert (answered, reason, pytest.approx(at)) == expected


def test_each_end_is_come_to() -> None:
    assert run(lived([(1, 1, 1)] * 3, None)) == (3, "", 9.0)
    assert run(lived([(1, 1, 4)], None)) == (0, "STREAM_IDLE", 5.0)
    assert run(lived([(1, 1, 1), (4, 0, 0)], None)) == (1, "STREAM_IDLE", 6.0)
    assert run(lived([(1, 50, 1), (0, 0, 0)], None)) == (1, "STREAM_TOO_LONG", 52.0)
    assert run(lived([(1, 1, 1), (2, 1, 1)], 4.0)) == (1, "SHUTTING_DOWN", 4.0)


async def _paused(pause_s: float, end_at: float) -> tuple[str, float]:
    loop = asyncio.get_running_loop()
    settings = Settings.from_env({}, feed="dir:x", stream_s_max=LONGEST_S, stream_idle_s_max=IDLE_S)
    stream = OpenStream(Limits.of(settings))
    loop.call_at(end_at, stream.end, ShuttingDown("Stopping."))
    try:
        await stream.pause(asyncio.sleep(pause_s))
    except NdooError as error:
        return error.reason, loop.time()
    finally:
        stream.close()
    return "", loop.time()


def test_a_pause_is_no_fault_of_the_caller_and_ends_with_the_stream() -> None:
    for pause_s, end_at, expected in (
        (3 * IDLE_S, LONGEST_S, ("", 3 * IDLE_S)),
        (3 * IDLE_S, 5.0, ("SHUTTING_DOWN", 5.0)),
        (2 * LONGEST_S, 3 * LONGEST_S, ("STREAM_TOO_LONG", LONGEST_S)),
    ):
        with asyncio.Runner(loop_factory=QuickLoop) as runner:
            assert runner.run(_paused(pause_s, end_at)) == expected


async def _cancelled() -> None:
    limits = Limits.of(Settings.from_env({}, feed="dir:x"))
    stream = OpenStream(limits)

    async def silent() -> AsyncIterator[bytes]:
        await asyncio.get_running_loop().create_future()
        yield b""

    try:
        async for _ in stream.read(silent(), lambda: None):
            pass
    finally:
        stream.close()


def test_a_caller_who_is_gone_is_no_limit() -> None:
    async def cancel() -> None:
        task = asyncio.create_task(_cancelled())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        runner.run(cancel())
