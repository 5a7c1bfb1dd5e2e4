"""The methods of `ndoo.v1.OptOutCheck`: decode, take the view once, compute, encode.

Every method takes bytes and gives bytes; calls, statuses and metrics around them are `calls`'
concern. A method that cannot answer raises an error of the house and has then said nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from ndoo import nhs_number
from ndoo.errors import NotAnswering
from ndoo.nhs_number import Numbers
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.view import Answers, Verdict, View
from ndoo.server import wire
from ndoo.server.freshness import Freshness
from ndoo.server.status import TooMany
from ndoo.v1 import check_pb2

INLINE_NUMBERS_MAX = 8192
"""Up to here a chunk is answered on the event loop: some 40 µs, less than handing it to a thread
costs.
"""


_VERDICTS = {
    Verdict.CLEARED: check_pb2.VERDICT_CLEARED,
    Verdict.OPTED_OUT: check_pb2.VERDICT_OPTED_OUT,
    Verdict.INVALID: check_pb2.VERDICT_INVALID,
}
_PHASES = {
    Phase.LOADING: check_pb2.PHASE_LOADING,
    Phase.CATCHING_UP: check_pb2.PHASE_CATCHING_UP,
    Phase.LIVE: check_pb2.PHASE_LIVE,
    Phase.STALE: check_pb2.PHASE_STALE,
    Phase.SUSPENDED: check_pb2.PHASE_SUSPENDED,
}


class Tally(Protocol):
    """Who counts the answers (see ops.metrics)."""

    def count_verdict(self, verdict: Verdict) -> None: ...

    def count_answers(self, rpc: str, answers: Answers) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one call may ask."""

    numbers_per_message: int
    bytes_per_message: int
    streams: int


@dataclass(slots=True)
class _Totals:
    received: int = 0
    cleared: int = 0
    invalid: int = 0

    def add(self, answers: Answers) -> None:
        self.received += answers.count
        self.cleared += answers.cleared_count
        self.invalid += answers.invalid_count

    def message(self) -> check_pb2.Counts:
        return check_pb2.Counts(
            received=self.received,
            cleared=self.cleared,
            opted_out=self.received - self.cleared - self.invalid,
            invalid=self.invalid,
        )


class Service:
    """Answers from *replica*. One event loop; bulk work goes to *executor*."""

    def __init__(
        self,
        replica: Replica,
        limits: Limits,
        tally: Tally,
        executor: Executor,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._replica = replica
        self._limits = limits
        self._tally = tally
        self._executor = executor
        self._version = version
        self._clock = clock
        self._freshness = Freshness(replica, clock)
        self._revision_of: tuple[State, check_pb2.Revision] | None = None

    async def check(self, message: bytes, time_remaining_s: float | None) -> bytes:
        request = wire.read_check(message)
        state = await self._freshness.state_for(
            request.at_least_as_fresh, request.exactly_at, time_remaining_s
        )
        verdict = state.verified.check(nhs_number.parse(request.nhs_number))
        self._tally.count_verdict(verdict)
        return check_pb2.CheckResponse(
            verdict=_VERDICTS[verdict], revision=self._revision(state)
        ).SerializeToString()

    async def batch_check(self, message: bytes, time_remaining_s: float | None) -> bytes:
        request = wire.read_numbers(message)
        self._refuse_too_many(request.numbers)
        state = await self._freshness.state_for(
            request.at_least_as_fresh, request.exactly_at, time_remaining_s
        )
        answers = await self._answer(state.verified, request.numbers)
        self._tally.count_answers("BatchCheck", answers)
        totals = _Totals()
        totals.add(answers)
        return check_pb2.BatchCheckResponse(
            cleared=answers.cleared,
            invalid=answers.invalid,
            counts=totals.message(),
            revision=self._revision(state),
        ).SerializeToString()

    async def stream_check(
        self, messages: AsyncIterator[bytes], time_remaining_s: float | None
    ) -> AsyncIterator[bytes]:
        """One view from the first number to the last; a register that must not answer any more cuts
        in.
        """
        state: State | None = None
        totals = _Totals()
        async for message in messages:
            request = wire.read_numbers(message)
            self._refuse_too_many(request.numbers)
            if state is None:
                state = await self._freshness.state_for(
                    request.at_least_as_fresh, request.exactly_at, time_remaining_s
                )
            answers = await self._answer(state.verified, request.numbers)
            self._refuse_if_stopped(state)
            chunk = check_pb2.Chunk(
                offset=totals.received,
                count=answers.count,
                cleared=answers.cleared,
                invalid=answers.invalid,
                revision=self._revision(state),
            )
            totals.add(answers)
            self._tally.count_answers("StreamCheck", answers)
            yield check_pb2.StreamCheckResponse(chunk=chunk).SerializeToString()
        state = state or self._freshness.newest()
        self._refuse_if_stopped(state)
        summary = check_pb2.Summary(counts=totals.message(), revision=self._revision(state))
        yield check_pb2.StreamCheckResponse(summary=summary).SerializeToString()

    async def get_register(self, _message: bytes, _time_remaining_s: float | None) -> bytes:
        state = self._replica.state
        view = state.view
        return check_pb2.GetRegisterResponse(
            phase=_PHASES[self._replica.phase(self._clock())],
            revision=self._revision(state) if view else check_pb2.Revision(),
            opt_outs=view.opt_outs if view else 0,
            limits=check_pb2.Limits(
                numbers_per_message=self._limits.numbers_per_message,
                bytes_per_message=self._limits.bytes_per_message,
                streams=self._limits.streams,
            ),
            version=self._version,
        ).SerializeToString()

    async def _answer(self, view: View, numbers: Numbers) -> Answers:
        if len(numbers) <= INLINE_NUMBERS_MAX:
            return view.check_many(numbers)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, view.check_many, numbers)

    def _refuse_too_many(self, numbers: Numbers) -> None:
        if len(numbers) > self._limits.numbers_per_message:
            raise TooMany(
                f"The message holds {len(numbers):,} numbers; send at most "
                f"{self._limits.numbers_per_message:,} in one."
            )

    def _refuse_if_stopped(self, state: State) -> None:
        """A stream keeps its view, but not past a suspension nor past that view's age limit."""
        if self._replica.state.suspended:
            raise NotAnswering("All answers are suspended.", reason="SUSPENDED")
        self._replica.refuse_if_stale(state, self._clock())

    def _revision(self, state: State) -> check_pb2.Revision:
        """The revision of *state* as a message, made once for each state."""
        made = self._revision_of
        if made is not None and made[0] is state:
            return made[1]
        message = check_pb2.Revision(token=state.verified.token)
        message.as_of.FromMicroseconds(int(state.as_of * 1e6))
        self._revision_of = (state, message)
        return message
