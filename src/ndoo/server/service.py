"""The methods of `ndoo.v1.OptOutCheck`: decode, take the view once, compute, encode.

Every method takes bytes and gives bytes; statuses around them are `calls`' concern, and what is
counted and kept of them `call`'s. A method that cannot answer raises an error of the house and has
then said nothing.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ndoo import nhs_number
from ndoo.nhs_number import Keys
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.sets import SetAnswers
from ndoo.register.view import Answers, Counted, Verdict, View
from ndoo.server import wire
from ndoo.server.freshness import Freshness
from ndoo.server.limits import Limits
from ndoo.server.past import Flights, Past
from ndoo.v1 import check_pb2

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


class Asking(Protocol):
    """The call that asks (see `call`)."""

    @property
    def time_remaining_s(self) -> float | None: ...

    async def spend(self, numbers: int) -> None: ...

    def answered(self, answers: Counted, sample: Callable[[], Keys], revision: str) -> None: ...

    def complete(self) -> None: ...


_ONE = {
    Verdict.CLEARED: Answers(1, b"\1", b"", 1, 0),
    Verdict.OPTED_OUT: Answers(1, b"\0", b"", 0, 0),
    Verdict.INVALID: Answers(1, b"\0", b"\1", 0, 1),
}


A = TypeVar("A")


@dataclass(slots=True)
class _Totals:
    """Counts over the messages of a stream."""

    count: int = 0
    cleared_count: int = 0
    opted_out_count: int = 0
    invalid_count: int = 0

    def add(self, answers: Counted) -> None:
        self.count += answers.count
        self.cleared_count += answers.cleared_count
        self.opted_out_count += answers.opted_out_count
        self.invalid_count += answers.invalid_count


def _counts(counted: Counted) -> check_pb2.Counts:
    return check_pb2.Counts(
        received=counted.count,
        cleared=counted.cleared_count,
        opted_out=counted.opted_out_count,
        invalid=counted.invalid_count,
    )


@dataclass(frozen=True, slots=True)
class _StreamMethod:
    """What sets the two streaming methods apart: how a request is read and an answer written."""

    rpc: str
    read: Callable[[bytes], wire.NumbersRequest | wire.SetRequest]
    chunk: Callable[[Any, int, check_pb2.Revision], bytes]
    summary: Callable[[check_pb2.Summary], bytes]


def _number_chunk(answers: Answers, offset: int, revision: check_pb2.Revision) -> bytes:
    chunk = check_pb2.Chunk(
        offset=offset,
        count=answers.count,
        cleared=answers.cleared,
        invalid=answers.invalid,
        revision=revision,
    )
    return check_pb2.StreamCheckResponse(chunk=chunk).SerializeToString()


def _set_chunk(answers: SetAnswers, _offset: int, _revision: check_pb2.Revision) -> bytes:
    chunk = check_pb2.SetChunk(cleared=answers.cleared, counts=_counts(answers))
    return check_pb2.CheckSetResponse(chunk=chunk).SerializeToString()


def _number_summary(summary: check_pb2.Summary) -> bytes:
    return check_pb2.StreamCheckResponse(summary=summary).SerializeToString()


def _set_summary(summary: check_pb2.Summary) -> bytes:
    return check_pb2.CheckSetResponse(summary=summary).SerializeToString()


_STREAM_CHECK = _StreamMethod("StreamCheck", wire.read_numbers, _number_chunk, _number_summary)
_CHECK_SET = _StreamMethod("CheckSet", wire.read_set, _set_chunk, _set_summary)


class Service:
    """Answers from *replica*. One event loop; bulk work goes to *executor*."""

    def __init__(
        self,
        replica: Replica,
        limits: Limits,
        executor: Executor,
        version: str,
        activity: Callable[[], check_pb2.Activity],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._replica = replica
        self._limits = limits
        self._executor = executor
        self._version = version
        self._activity = activity
        self._clock = clock
        self._freshness = Freshness(replica, Past(executor), clock)
        self._digests: Flights[bytes] = Flights()
        self._revision_of: tuple[str, float, check_pb2.Revision] = ("", 0.0, check_pb2.Revision())

    async def check(self, message: bytes, call: Asking) -> bytes:
        request = wire.read_check(message)
        await call.spend(1)
        state = await self._freshness.state_for(
            request.at_least_as_fresh, request.exactly_at, call.time_remaining_s
        )
        number = nhs_number.parse(request.nhs_number)
        verdict = state.verified.check(number)
        call.answered(
            _ONE[verdict], functools.partial(wire.sample_of, number), state.verified.token
        )
        return check_pb2.CheckResponse(
            verdict=_VERDICTS[verdict], revision=self._revision(state)
        ).SerializeToString()

    async def batch_check(self, message: bytes, call: Asking) -> bytes:
        request = wire.read_numbers(message)
        request.refuse_too_large(self._limits)
        await call.spend(request.count)
        state = await self._freshness.state_for(
            request.at_least_as_fresh, request.exactly_at, call.time_remaining_s
        )
        answers = await self._answer(request.is_small, request.answer, state.verified)
        self._freshness.refuse_if_stopped(state)
        call.answered(answers, request.sample, state.verified.token)
        return check_pb2.BatchCheckResponse(
            cleared=answers.cleared,
            invalid=answers.invalid,
            counts=_counts(answers),
            revision=self._revision(state),
        ).SerializeToString()

    def stream_check(self, messages: AsyncIterator[bytes], call: Asking) -> AsyncIterator[bytes]:
        return self._stream(messages, call, _STREAM_CHECK)

    def check_set(self, messages: AsyncIterator[bytes], call: Asking) -> AsyncIterator[bytes]:
        return self._stream(messages, call, _CHECK_SET)

    async def _stream(
        self, messages: AsyncIterator[bytes], call: Asking, method: _StreamMethod
    ) -> AsyncIterator[bytes]:
        """One view from the first message to the last; a suspension, or age, cuts in."""
        state: State | None = None
        totals = _Totals()
        async for message in messages:
            request = method.read(message)
            request.refuse_too_large(self._limits)
            await call.spend(request.count)
            if state is None:
                state = await self._freshness.state_for(
                    request.at_least_as_fresh, request.exactly_at, call.time_remaining_s
                )
            answers: Answers | SetAnswers
            answers = await self._answer(request.is_small, request.answer, state.verified)
            self._freshness.refuse_if_stopped(state)
            call.answered(answers, request.sample, state.verified.token)
            response = method.chunk(answers, totals.count, self._revision(state))
            totals.add(answers)
            yield response
        state = state or self._freshness.newest()
        self._freshness.refuse_if_stopped(state)
        call.complete()
        yield method.summary(
            check_pb2.Summary(counts=_counts(totals), revision=self._revision(state))
        )

    async def get_register(self, message: bytes, call: Asking) -> bytes:
        request = wire.read_register(message)
        state = self._replica.state
        if request.exactly_at:
            state = await self._freshness.state_for("", request.exactly_at, call.time_remaining_s)
        view = state.view
        digest = b""
        if view and request.with_digest:
            digest = await self._digests.do(view, functools.partial(self._digest, view))
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
            digest=digest,
            activity=self._activity(),
        ).SerializeToString()

    async def _digest(self, view: View) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._executor, view.digest)

    async def _answer(self, is_small: bool, answer: Callable[[View], A], view: View) -> A:
        """Small questions are answered here and now, others in a thread, which takes no GIL."""
        if is_small:
            return answer(view)
        return await asyncio.get_running_loop().run_in_executor(self._executor, answer, view)

    def _revision(self, state: State) -> check_pb2.Revision:
        """The revision of *state* as a message, made once for each state.

        Not the state itself is remembered: that would keep its view.
        """
        view_token = state.verified.token
        token, as_of, message = self._revision_of
        if token != view_token or as_of != state.as_of:
            message = check_pb2.Revision(token=view_token)
            message.as_of.FromMicroseconds(int(state.as_of * 1e6))
            self._revision_of = (view_token, state.as_of, message)
        return message
