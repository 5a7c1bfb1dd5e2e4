"""What stands around every method: counting, statuses, limits on streams, and the end of the
service.

Handlers are registered with raw bytes on both sides, so that a bulk message is never copied into
objects, and a message that cannot be read gets a proper status instead of a traceback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from ndoo.errors import NdooError
from ndoo.ops.logs import log_event
from ndoo.ops.metrics import CallMetrics, Metrics
from ndoo.server.service import Service
from ndoo.server.status import Busy, ShuttingDown, refusal

SERVICE_NAME = "ndoo.v1.OptOutCheck"

BULK_BYTES = 64 * 1024
"""A single message over this size takes the place of a stream: memory is bounded by both alike."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = Callable[[bytes, float | None], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], float | None], AsyncIterator[bytes]]


@dataclass(slots=True, eq=False)
class _OpenStream:
    """A running stream. It can be interrupted only while it waits for the caller's next message."""

    task: asyncio.Task[Any]
    is_reading: bool = False
    is_interrupted: bool = False


class Calls:
    """The methods of *service* as gRPC handlers."""

    def __init__(self, service: Service, metrics: Metrics, streams_max: int) -> None:
        self._metrics = metrics
        self._streams_max = streams_max
        self._streams: set[_OpenStream] = set()
        self._ending = False
        self._handlers = {
            "Check": self._unary("Check", service.check),
            "BatchCheck": self._unary("BatchCheck", service.batch_check),
            "StreamCheck": self._stream("StreamCheck", service.stream_check),
            "CheckSet": self._stream("CheckSet", service.check_set),
            "GetRegister": self._unary("GetRegister", service.get_register),
        }

    def generic_handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(SERVICE_NAME, self._handlers)

    def end_streams(self) -> None:
        """End every running stream between two messages, with a status that says: retry.

        A stream that waits for its caller is interrupted; one that answers finishes that answer.
        """
        self._ending = True
        for stream in self._streams:
            if stream.is_reading:
                stream.is_interrupted = True
                stream.task.cancel()

    def _unary(self, name: str, method: Unary) -> grpc.RpcMethodHandler[Any, Any]:
        metrics = self._metrics.call("unary", SERVICE_NAME, name)

        async def handle(message: bytes, context: Context) -> bytes:
            started = time.perf_counter()
            metrics.start()
            metrics.received()
            bulk = _OpenStream(_this_task()) if len(message) > BULK_BYTES else None
            try:
                if bulk:
                    self._admit(bulk)
                response = await method(message, context.time_remaining())
            except asyncio.CancelledError:
                metrics.finish(_why_cancelled(context), time.perf_counter() - started)
                raise
            except Exception as error:  # noqa: BLE001  (the table decides what a caller is told)
                await self._end(context, error, metrics, started)
            finally:
                if bulk:
                    self._dismiss(bulk)
            metrics.sent()
            metrics.finish("OK", time.perf_counter() - started)
            return response

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(self, name: str, method: Stream) -> grpc.RpcMethodHandler[Any, Any]:
        metrics = self._metrics.call("bidi_stream", SERVICE_NAME, name)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            started = time.perf_counter()
            metrics.start()
            stream = _OpenStream(_this_task())
            try:
                self._admit(stream)
                incoming = self._read(stream, messages, metrics)
                async for response in method(incoming, context.time_remaining()):
                    await context.write(response)
                    metrics.sent()
            except asyncio.CancelledError:
                if not stream.is_interrupted:
                    metrics.finish(_why_cancelled(context), time.perf_counter() - started)
                    raise
                await self._end(context, _shutting_down(), metrics, started)
            except Exception as error:  # noqa: BLE001  (the table decides what a caller is told)
                await self._end(context, error, metrics, started)
            finally:
                self._dismiss(stream)
            metrics.finish("OK", time.perf_counter() - started)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _read(
        self, stream: _OpenStream, messages: AsyncIterator[bytes], metrics: CallMetrics
    ) -> AsyncIterator[bytes]:
        while True:
            if self._ending:
                raise _shutting_down()
            stream.is_reading = True
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            finally:
                stream.is_reading = False
            metrics.received()
            yield message

    def _admit(self, stream: _OpenStream) -> None:
        if self._ending:
            raise _shutting_down()
        if len(self._streams) >= self._streams_max:
            raise Busy(
                f"All {self._streams_max} streams of this replica are in use; try again soon."
            )
        self._streams.add(stream)
        self._metrics.streams_in_flight.set(len(self._streams))

    def _dismiss(self, stream: _OpenStream) -> None:
        self._streams.discard(stream)
        self._metrics.streams_in_flight.set(len(self._streams))

    async def _end(
        self, context: Context, error: Exception, metrics: CallMetrics, started: float
    ) -> NoReturn:
        refused = refusal(error)
        metrics.finish(refused.code.name, time.perf_counter() - started)
        self._metrics.count_refusal(refused.reason)
        if not isinstance(error, NdooError):
            # The text of a foreign error may hold what a caller sent; its type and place may not.
            log_event("error", "call_failed", error=type(error).__name__, where=_place(error))
        await context.abort(refused.code, refused.sentence, trailing_metadata=refused.metadata)
        raise RuntimeError("abort always raises")


def _why_cancelled(context: Context) -> str:
    remaining_s = context.time_remaining()
    return "CANCELLED" if remaining_s is None or remaining_s > 0 else "DEADLINE_EXCEEDED"


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a handler runs in a task")
    return task


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("This server is stopping; call again and another one answers.")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
