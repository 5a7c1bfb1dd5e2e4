"""A running stream: how long it may run, and how long it may wait for its caller.

It is ended between two of its messages, so that a caller never takes half an answer for a whole
one: nothing ends it while it works out an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from ndoo.errors import NdooError
from ndoo.server.caller import Context
from ndoo.server.limits import Limits

T = TypeVar("T")

_TURNS = 16
"""Of the event loop. After one, 2 to 17 % of 500 callers who left were taken for finished; after 4,
0.4 %; after 16, none, and a stream takes no longer than it did.
"""


class StreamTooLong(NdooError):
    """A stream that ran longer than one may: the same again would, too."""

    reason = "STREAM_TOO_LONG"


class StreamIdle(NdooError):
    """A stream whose caller sent nothing, or took no answer, for longer than it may."""

    reason = "STREAM_IDLE"


class OpenStream:
    """One running stream. Make, use and `close` it in the task that answers its call."""

    __slots__ = ("_ends_at", "_fault", "_is_reading", "_limits", "_loop", "_task", "_timer",
                 "_waits_since")  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._task = _this_task()
        self._loop = asyncio.get_running_loop()
        self._fault: NdooError | None = None
        self._is_reading = False
        self._waits_since: float | None = None
        now = self._loop.time()
        self._ends_at = now + limits.stream_s
        self._timer = self._loop.call_at(self._next_look(now), self._look)

    async def read(
        self, messages: AsyncIterator[bytes], on_message: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        """The caller's messages. Raises what the stream was ended with, or StreamIdle."""
        while (message := await self.read_next(messages)) is not None:
            on_message()
            yield message

    async def read_next(self, messages: AsyncIterator[bytes]) -> bytes | None:
        """The caller's next message, None after the last. Raises as `read` does."""
        if self._fault is not None:
            raise self._fault
        self._is_reading = True
        try:
            return await self._wait(anext(messages))
        except StopAsyncIteration:
            # A caller who is gone looks like one who has finished; the news comes right after.
            for _ in range(_TURNS):
                await self._wait(asyncio.sleep(0))
            return None
        finally:
            self._is_reading = False

    async def write(self, context: Context, message: bytes) -> None:
        """Hand *message* to the caller. Raises StreamIdle if he takes none."""
        await self._wait(context.write(message))

    async def pause(self, step: Awaitable[T]) -> T:
        """Wait for *step*, for which the caller is not to blame, however long it takes. Raises what
        the stream is ended with meanwhile.
        """
        self._is_reading = True  # or as good as: there is nothing yet that could be cut in two
        try:
            return await self._unless_ended(step)
        finally:
            self._is_reading = False

    def end(self, error: NdooError) -> None:
        """Have `read` raise *error*: now if it waits for the caller, else when it is called. And
        `pause`, at once.
        """
        self._fault = self._fault or error
        if self._is_reading:
            self._task.cancel()

    def close(self) -> None:
        """Nothing of the stream runs any more."""
        self._timer.cancel()

    async def _wait(self, step: Awaitable[T]) -> T:
        """Wait for the caller, which is the only time that a stream is interrupted."""
        self._waits_since = self._loop.time()
        try:
            return await self._unless_ended(step)
        finally:
            self._waits_since = None

    async def _unless_ended(self, step: Awaitable[T]) -> T:
        try:
            return await step
        except asyncio.CancelledError:
            if self._fault is None:
                raise
            raise self._fault from None

    def _look(self) -> None:
        """Called by the timer, which is moved on rarely: a message costs no timer of its own."""
        now = self._loop.time()
        if self._waits_since is not None and now >= self._waits_since + self._limits.stream_idle_s:
            self._fault = self._fault or _idle(self._limits.stream_idle_s)
            self._task.cancel()
            return
        if now >= self._ends_at:
            self._ends_at = float("inf")
            self.end(_too_long(self._limits.stream_s))
        self._timer = self._loop.call_at(self._next_look(now), self._look)

    def _next_look(self, now: float) -> float:
        since = now if self._waits_since is None else self._waits_since
        return min(self._ends_at, since + self._limits.stream_idle_s)


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a handler runs in a task")
    return task


def _too_long(limit_s: float) -> StreamTooLong:
    return StreamTooLong(
        f"The stream has run for the {limit_s:,.0f} s that one may; cut the work into several."
    )


def _idle(limit_s: float) -> StreamIdle:
    return StreamIdle(
        f"The stream has waited {limit_s:,.0f} s for its caller to send or to read; ask it again."
    )
