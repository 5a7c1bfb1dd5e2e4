"""One call from its first moment to its last: who asks, what was answered, how it ended.

It counts for metrics and audit alike. Its record is kept before the caller has a result: before a
single answer is returned, and before the summary of a stream is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import grpc

from ndoo.nhs_number import Keys
from ndoo.ops.audit import Audit, AuditFailed, AuditRecord
from ndoo.ops.call_metrics import CallMetrics
from ndoo.register.view import Counted
from ndoo.server.access import Access, Door
from ndoo.server.caller import Caller, Context, caller_of, traceparent_of

_UNKNOWN = Caller(peer="", call_id="")


class Traces(Protocol):
    """Who is told of each call that has ended. Must not block or raise."""

    def ended(self, record: AuditRecord, traceparent: str) -> None:
        """The call of *record* is over; *traceparent* is what its caller sent, "" for nothing."""


class Call:
    """One call of *rpc*. The methods use `time_remaining_s`, `spend` and `answered`; those around
    them the rest. For one event loop.
    """

    __slots__ = (
        "_access", "_audit", "_context", "_is_kept", "_metrics", "_read_at", "_started",
        "_started_at", "_traces", "caller", "cleared", "invalid", "opted_out", "pause", "received",
        "revision", "rpc",
    )  # fmt: skip

    def __init__(
        self,
        rpc: str,
        context: Context,
        metrics: CallMetrics,
        audit: Audit,
        traces: Traces | None = None,
    ) -> None:
        self.rpc = rpc
        self._context = context
        self._metrics = metrics
        self._audit = audit
        self._traces = traces
        self._access: Access | None = None
        self._started_at, self._started = time.time(), time.perf_counter()
        self._read_at = self._started
        self.caller = _UNKNOWN
        self.received = self.cleared = self.opted_out = self.invalid = 0
        self.revision = ""
        self._is_kept = False
        self.pause = _wait  # or how a stream waits, which may be ended meanwhile
        metrics.start()

    @property
    def client(self) -> str:
        """By what name the door knows the caller, "" before it does, or where it knows none."""
        return self._access.client if self._access else ""

    @property
    def time_remaining_s(self) -> float | None:
        """What is left of the caller's deadline, None without one."""
        return self._context.time_remaining()

    def received_message(self) -> None:
        """The question, or the next part of it, was read."""
        self._read_at = time.perf_counter()
        self._metrics.received()

    def enter(self, door: Door) -> None:
        """Find out who calls, and whether they may. Raises BadMetadata, AuditFailed, or what
        door and access raise.
        """
        self.caller = caller_of(self._context)
        self._audit.refuse_if_failing()
        self._access = door.admit(self.rpc, self.caller)
        self._access.enter()

    def take_place(self) -> None:
        """Take the place of a stream. Raises Busy if the client has none left."""
        self._entered.take_place()

    async def spend(self, numbers: int) -> None:
        """To be called before so many *numbers* are answered. Raises what access does."""
        await self.pause(self._entered.spend(numbers))

    def answered(self, answers: Counted, sample: Callable[[], Keys], revision: str) -> None:
        """*answers* are worked out, at the revision with the token *revision*, and not given yet.

        *sample* gives some of the keys, in their order. Raises OverQuota or AuditFailed: then they
        are not given.
        """
        self._entered.observe(answers, sample)
        self._audit.refuse_if_failing()
        self.revision = revision
        self.received += answers.count
        self.cleared += answers.cleared_count
        self.opted_out += answers.opted_out_count
        self.invalid += answers.invalid_count
        self._metrics.count(answers, time.perf_counter() - self._read_at)

    def complete(self) -> None:
        """All is answered, and what comes next makes it a result: so its record is kept now.

        Raises AuditFailed if it cannot be, CancelledError if the caller is gone.
        """
        if self._context.cancelled():  # of which a stream that is read sees no more than its end
            raise asyncio.CancelledError
        self._keep(grpc.StatusCode.OK, "")

    def end(self, status: grpc.StatusCode, reason: str = "") -> None:
        """The call is over, with *status*. A record that cannot be kept shows in the audit."""
        with contextlib.suppress(AuditFailed):
            self._keep(status, reason)
        self._metrics.finish(status.name, time.perf_counter() - self._started)
        if self._traces is not None:
            self._traces.ended(self._record(status, reason), traceparent_of(self._context))

    def leave(self) -> None:
        """Nothing of the call runs any more."""
        if self._access is not None:
            self._access.release()

    @property
    def _entered(self) -> Access:
        if self._access is None:
            raise RuntimeError("a call is let in before it asks")
        return self._access

    def _keep(self, status: grpc.StatusCode, reason: str) -> None:
        if not self._is_kept:
            self._is_kept = True  # or lost, which the audit counts: once
            self._audit.record(self._record(status, reason))

    def _record(self, status: grpc.StatusCode, reason: str) -> AuditRecord:
        access, caller = self._access, self.caller
        return AuditRecord(
            started_at=self._started_at,
            ended_at=time.time(),
            call_id=caller.call_id,
            client=self.client,
            peer=caller.peer,
            rpc=self.rpc,
            purpose=caller.purpose,
            reference=caller.reference,
            received=self.received,
            cleared=self.cleared,
            opted_out=self.opted_out,
            invalid=self.invalid,
            revision=self.revision,
            status=status.name,
            reason=reason,
            marks=access.marks if access else (),
        )


async def _wait(step: Awaitable[None]) -> None:
    await step
