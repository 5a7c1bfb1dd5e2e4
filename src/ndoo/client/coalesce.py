"""Many callers, few messages: single checks that are asked together go out together.

A check is sent at once, with all others that were asked in the same turn of the event loop, while
fewer than IN_FLIGHT_MAX batches are under way; else it is gathered into the next batch, which
leaves with the first answer that comes. So nobody waits for a clock, and batches grow with the
load. Callers share a batch only if they demand the same tokens. Each has a deadline of its own,
and may go away at any time; the batch stays as it was sent, and the others are answered.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np

from ndoo.client.answers import Answer, ChunkAnswer, Revision, Verdict
from ndoo.client.errors import CallFailed, ClientClosed, ClientError
from ndoo.nhs_number import Numbers

BATCH_NUMBERS_MAX = 4096
IN_FLIGHT_MAX = 2
"""A message costs the client as much as some hundred checks: none is split to keep both sides
busy: 64 checks as two batches of 32 take half as much processor time again, and longer.
"""

Tokens = tuple[str, str]
"""at_least_as_fresh and exactly_at."""


class Batch:
    """The callers of one message. Their futures are settled from bits, in the order of asking."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tokens: Tokens) -> None:
        self.tokens = tokens
        self.last_deadline = 0.0
        self._loop = loop
        self._values: list[int] = []
        self._callers: list[asyncio.Future[Answer]] = []
        self._deadlines: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf

    def __len__(self) -> int:
        return len(self._values)

    def add(self, number: int, deadline: float) -> asyncio.Future[Answer]:
        """A caller more, who waits until *deadline* on the loop's clock."""
        caller = self._loop.create_future()
        self._values.append(number)
        self._callers.append(caller)
        self._deadlines.append(deadline)
        self.last_deadline = max(self.last_deadline, deadline)
        if deadline < self._wakes_at:
            self._wake_at(deadline)
        return caller

    @property
    def numbers(self) -> Numbers:
        return np.array(self._values, dtype=np.uint64)

    @property
    def is_awaited(self) -> bool:
        return not all(caller.done() for caller in self._callers)

    def settle(self, answer: ChunkAnswer, revision: Revision) -> None:
        """Give each caller who still waits the verdict."""
        cleared = Answer(Verdict.CLEARED, revision)
        opted_out = Answer(Verdict.OPTED_OUT, revision)
        invalid = Answer(Verdict.INVALID, revision)
        masks = answer.cleared_mask().tolist(), answer.invalid_mask().tolist()
        for caller, is_cleared, is_invalid in zip(self._callers, *masks, strict=True):
            if not caller.done():
                caller.set_result(cleared if is_cleared else invalid if is_invalid else opted_out)
        self._end()

    def fail(self, error: Exception) -> None:
        """Give each caller who still waits an error of his own."""
        for caller in self._callers:
            if not caller.done():
                caller.set_exception(copy.copy(error))
        self._end()

    def _end(self) -> None:
        """From here on nobody waits."""
        self._callers.clear()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wake_at(self, deadline: float) -> None:
        self._stop_timer()
        self._wakes_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        now, waiting = self._loop.time(), []
        for caller, deadline in zip(self._callers, self._deadlines):
            if caller.done():
                continue
            if deadline <= now:
                caller.set_exception(_too_late())
            else:
                waiting.append(deadline)
        if waiting:
            self._wake_at(min(waiting))


def _too_late() -> CallFailed:
    return CallFailed(
        "The service did not answer within the time allowed.",
        grpc.StatusCode.DEADLINE_EXCEEDED,
        reason="",
        retry_delay_s=None,
    )


Send = Callable[[Batch], Awaitable[None]]
"""Settles the callers of a batch, or raises ClientError, or OSError for a certificate."""


@dataclass(slots=True)
class _Lane:
    """The batches of one pair of tokens that are not sent yet; only the last one grows."""

    batches: deque[Batch] = field(default_factory=deque)
    in_flight: int = 0
    is_due: bool = False


class Coalescer:
    """Gathers checks into batches on one event loop, and has *send* ask them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Tokens, _Lane] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def ask(self, number: int, tokens: Tokens, timeout_s: float) -> asyncio.Future[Answer]:
        """The answer to come. Fails with a ClientError."""
        lane = self._lanes.get(tokens)
        if lane is None:
            lane = self._lanes[tokens] = _Lane()
        if not lane.batches or len(lane.batches[-1]) >= BATCH_NUMBERS_MAX:
            lane.batches.append(Batch(self._loop, tokens))
        if not lane.is_due and lane.in_flight < IN_FLIGHT_MAX:
            lane.is_due = True
            self._loop.call_soon(self._send_due, lane)
        return lane.batches[-1].add(number, self._loop.time() + timeout_s)

    def close(self) -> None:
        """Fail everybody who waits, with ClientClosed."""
        for lane in self._lanes.values():
            for batch in lane.batches:
                batch.fail(ClientClosed())
            lane.batches.clear()
        for task in self._sending:
            task.cancel()

    def _send_due(self, lane: _Lane) -> None:
        lane.is_due = False
        while lane.batches and lane.in_flight < IN_FLIGHT_MAX:
            lane.in_flight += 1
            task = self._loop.create_task(self._run(lane, lane.batches.popleft()))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _run(self, lane: _Lane, batch: Batch) -> None:
        try:
            await self._send(batch)
        except (ClientError, OSError) as error:
            batch.fail(error)
        except asyncio.CancelledError:
            batch.fail(ClientClosed())
            raise
        finally:
            if batch.is_awaited:  # by a fault of this module; nobody shall wait for ever
                batch.fail(ClientError("The check failed inside the client: there is no answer."))
            lane.in_flight -= 1
            self._send_due(lane)
            if not lane.in_flight and not lane.batches:
                self._lanes.pop(batch.tokens, None)
