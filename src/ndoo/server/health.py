"""`grpc.health.v1.Health` for whoever reaches the port: probes ask it before anybody knows them.

So nobody can hold it up. A caller who takes no answer keeps no other, nor the service, from the
news; and what a caller sends is waited for a moment only, as what is half there takes memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from ndoo.server.caller import Context

MESSAGE_S_MAX = 1.0
"""What a caller may take, after the head of a call, for its few bytes."""

Messages = AsyncIterator[bytes]

_STATUS = health_pb2.HealthCheckResponse
SERVING, NOT_SERVING, _UNKNOWN = (
    _STATUS(status=status).SerializeToString()
    for status in (_STATUS.SERVING, _STATUS.NOT_SERVING, _STATUS.SERVICE_UNKNOWN)
)


class Health:
    """What is answered about each service, by name. For one event loop."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self._changed = asyncio.Event()  # a new one for each change

    def set(self, service: str, answer: bytes) -> None:
        """Answer SERVING or NOT_SERVING from now on; those who watch *service* are told."""
        if self.answers.get(service) != answer:
            self.answers[service] = answer
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """Nothing is served any more."""
        for service in self.answers:
            self.set(service, NOT_SERVING)

    def generic_handler(self) -> grpc.GenericRpcHandler:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers)

    async def _check(self, messages: Messages, context: Context) -> bytes:
        answer = self.answers.get(await _service_asked(messages, context))
        if answer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service here.")
        return answer

    async def _watch(self, messages: Messages, context: Context) -> None:
        service = await _service_asked(messages, context)
        told = b""
        while True:
            changed = self._changed
            answer = self.answers.get(service, _UNKNOWN)
            if answer != told:
                await context.write(answer)
                told = answer
            await changed.wait()


async def _service_asked(messages: Messages, context: Context) -> str:
    try:
        async with asyncio.timeout(MESSAGE_S_MAX):
            message = await anext(messages)
        return health_pb2.HealthCheckRequest.FromString(message).service
    except (TimeoutError, StopAsyncIteration, DecodeError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The name of a service is missing.")
