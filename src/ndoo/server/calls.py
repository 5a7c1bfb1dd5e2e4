"""What stands around every method: who may call, statuses, limits on streams, and the end of the
service.

Handlers are registered with raw bytes on both sides, so that a bulk message is never copied into
objects, and a message that cannot be read gets a proper status instead of a traceback.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from ndoo.errors import NdooError
from ndoo.ops.audit import Audit
from ndoo.ops.logs import log_event, place
from ndoo.ops.metrics import Metrics
from ndoo.server.access import Door
from ndoo.server.call import Call, Traces
from ndoo.server.caller import Context
from ndoo.server.limits import Limits
from ndoo.server.open_stream import OpenStream
from ndoo.server.service import Service
from ndoo.server.status import Busy, Refusal, ShuttingDown, refusal
from ndoo.server.wire import MalformedMessage

SERVICE_NAME = "ndoo.v1.OptOutCheck"

BULK_BYTES = 64 * 1024
"""A single message over this size takes the place of a stream: memory is bounded by both alike."""

M = TypeVar("M")
R = TypeVar("R")
AT_ONCE_S = 0.1
"""A single message that takes longer to arrive takes the place of a stream, too."""

Unary = Callable[[bytes, Call], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]

TELL_S = 1.0
"""How long a stream waits until its caller has taken the status, before it gives up its place."""


class Calls:
    """The methods of *service* as gRPC handlers; *door* lets callers in, *audit* keeps records."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        limits: Limits,
        door: Door,
        audit: Audit,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self._metrics = metrics
        self._door = door
        self._audit = audit
        self._limits = limits
        self._places = 0
        self._streams: set[OpenStream] = set()
        self._untold: set[asyncio.Task[None]] = set()
        self._running: set[Call] = set()
        self._none_runs = asyncio.Event()
        self._none_runs.set()
        self._ending = False
        self._last_asked = -math.inf
        self._handlers = {
            "Check": self._unary("Check", service.check),
            "BatchCheck": self._unary("BatchCheck", service.batch_check),
            "StreamCheck": self._stream("StreamCheck", service.stream_check),
            "CheckSet": self._stream("CheckSet", service.check_set),
            "GetRegister": self._unary("GetRegister", service.get_register),
        }

    def generic_handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(SERVICE_NAME, self._handlers)

    def refuse_new(self) -> None:
        """From now on every call that comes is told to go elsewhere. Those that run go on."""
        self._ending = True

    async def wait_until_done(self) -> None:
        """Wait until none of the calls that were let in runs any more."""
        await self._none_runs.wait()

    @property
    def quiet_s(self) -> float:
        """How long no call has come."""
        return time.monotonic() - self._last_asked

    def end_streams(self) -> None:
        """End every running stream between two messages, with a status that says: retry.

        A stream that waits for its caller is interrupted; one that answers finishes that answer.
        """
        for stream in self._streams:
            stream.end(_shutting_down())

    def _unary(self, name: str, method: Unary) -> grpc.RpcMethodHandler[Any, Any]:
        metrics = self._metrics.call("unary", SERVICE_NAME, name)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> bytes:
            call = Call(name, context, metrics, self._audit, self._traces)
            held = _Place(self, call)
            try:
                self._let_in(call)
                message = await self._question(messages, call, held)
                if len(message) > BULK_BYTES:
                    held.take()
                response = await method(message, call)
                call.complete()
            except asyncio.CancelledError:
                _end_cancelled(call, context)
                raise
            except Exception as error:
                await _tell(context, self._refused(error, call))
                raise  # not reached: what tells the caller raises
            finally:
                self._let_out(call)
                held.give_back()
            metrics.sent()
            call.end(grpc.StatusCode.OK)
            return response

        # Not unary_unary: gRPC would read the whole message before anybody asks who sends it.
        return grpc.stream_unary_rpc_method_handler(_wordless(handle))

    def _stream(self, name: str, method: Stream) -> grpc.RpcMethodHandler[Any, Any]:
        metrics = self._metrics.call("bidi_stream", SERVICE_NAME, name)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            call = Call(name, context, metrics, self._audit, self._traces)
            stream = OpenStream(self._limits)
            call.pause = stream.pause
            held = _Place(self, call)
            try:
                self._let_in(call)
                held.take()
                self._streams.add(stream)
                async for response in method(stream.read(messages, call.received_message), call):
                    await stream.write(context, response)
                    metrics.sent()
            except asyncio.CancelledError:
                _end_cancelled(call, context)
                raise
            except Exception as error:  # noqa: BLE001  (the table decides what a caller is told)
                await self._tell_without_waiting(context, self._refused(error, call))
                return
            finally:
                self._let_out(call)
                stream.close()
                self._streams.discard(stream)
                held.give_back()
            call.end(grpc.StatusCode.OK)

        return grpc.stream_stream_rpc_method_handler(_wordless(handle))

    async def _question(self, messages: AsyncIterator[bytes], call: Call, held: _Place) -> bytes:
        """The one message of a call whose caller was let in, who may take no longer for it than a
        stream may wait, and a place if it does not come at once: what is half there takes memory.
        """
        stream = OpenStream(self._limits)
        self._streams.add(stream)
        timer = asyncio.get_running_loop().call_later(AT_ONCE_S, held.take_or_end, stream)
        try:
            message = await stream.read_next(messages)
        finally:
            timer.cancel()
            self._streams.discard(stream)
            stream.close()
        if message is None:
            raise MalformedMessage
        call.received_message()
        return message

    def _let_in(self, call: Call) -> None:
        self._last_asked = time.monotonic()
        if self._ending:
            raise _shutting_down()
        self._running.add(call)
        self._none_runs.clear()
        call.enter(self._door)

    def _let_out(self, call: Call) -> None:
        call.leave()
        self._running.discard(call)
        if not self._running:
            self._none_runs.set()

    def take_place(self) -> None:
        """Raises Busy."""
        if self._places >= self._limits.streams:
            raise Busy(
                f"All {self._limits.streams} streams of this replica are in use; try again soon."
            )
        self._places += 1
        self._metrics.streams_in_flight.set(self._places)

    def give_place_back(self) -> None:
        self._places -= 1
        self._metrics.streams_in_flight.set(self._places)

    async def _tell_without_waiting(self, context: Context, refused: Refusal) -> None:
        """Send the status to a caller who may not read, and wait a moment for him to take it.

        It lies behind the answers that he has not taken, and here gRPC drops those only with the
        connection. As many calls are left like that as there are places; one more keeps its place
        until its caller reads or is gone. So the memory that callers can hold is bounded.
        """
        telling = asyncio.create_task(_tell(context, refused))
        self._untold.add(telling)
        telling.add_done_callback(self._told)
        has_room = len(self._untold) <= self._limits.streams
        await asyncio.wait({telling}, timeout=TELL_S if has_room else None)

    def _told(self, telling: asyncio.Task[None]) -> None:
        self._untold.discard(telling)
        if not telling.cancelled():
            telling.exception()  # it raises when all is well, too; nobody else looks

    def _refused(self, error: Exception, call: Call) -> Refusal:
        """How the call ends for *error*, which is counted and kept now."""
        refused = refusal(error)
        call.end(refused.code, refused.reason)
        self._metrics.count_refusal(refused.reason)
        known = {"rpc": call.rpc, "client": call.client, "call_id": call.caller.call_id}
        if isinstance(error, NdooError):
            log_event("info", "call_refused", reason=refused.reason, **known)
        else:
            # The text of a foreign error may hold what a caller sent; its type and place may not.
            log_event(
                "error", "call_failed", error=type(error).__name__, where=place(error), **known
            )
        return refused


class _Place:
    """One of the places that streams have, those of its client and those in all, for *call*."""

    def __init__(self, calls: Calls, call: Call) -> None:
        self._calls = calls
        self._call = call
        self._is_taken = False

    def take(self) -> None:
        """Raises Busy if there is none. May be called twice."""
        if not self._is_taken:
            self._call.take_place()
            self._calls.take_place()
            self._is_taken = True

    def take_or_end(self, stream: OpenStream) -> None:
        """End *stream* if there is none."""
        try:
            self.take()
        except Busy as busy:
            stream.end(busy)

    def give_back(self) -> None:
        if self._is_taken:
            self._calls.give_place_back()


def _wordless(handle: Callable[[M, Context], Awaitable[R]]) -> Callable[[M, Context], Awaitable[R]]:
    """*handle*, of which no fault reaches gRPC, which would tell the caller its words."""

    async def behave(messages: M, context: Context) -> R:
        try:
            return await handle(messages, context)
        except grpc.aio.AbortError:  # it has its status
            raise
        except Exception as error:
            log_event("error", "call_failed", error=type(error).__name__, where=place(error))
            await _tell(context, refusal(RuntimeError()))
            raise  # not reached: what tells the caller raises

    return behave


async def _tell(context: Context, refused: Refusal) -> None:
    """Send the status. Raises when it is sent, which ends the call."""
    await context.abort(refused.code, refused.sentence, trailing_metadata=refused.metadata)


def _end_cancelled(call: Call, context: Context) -> None:
    remaining_s = context.time_remaining()
    is_late = remaining_s is not None and remaining_s <= 0
    call.end(grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("This server is stopping; call again and another one answers.")
