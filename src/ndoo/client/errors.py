"""What a call that was not answered raises.

No message holds an NHS number: a sentence is either our own, or one that the service wrote (domain
"ndoo"), which promises the same. What proxies and broken servers write is not passed on.
"""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DOMAIN = "ndoo"
_DETAILS_KEY = "grpc-status-details-bin"
_SENTENCE_CHARS_MAX = 500

_SENTENCES = {
    grpc.StatusCode.UNAVAILABLE: (
        "No service answers there; check the address, that it runs, and TLS on both sides."
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: "The service did not answer within the time allowed.",
    grpc.StatusCode.UNIMPLEMENTED: "What answers there is not this service, or an older one.",
    grpc.StatusCode.UNAUTHENTICATED: "The service does not know who is calling.",
    grpc.StatusCode.PERMISSION_DENIED: "The service does not allow this call.",
    grpc.StatusCode.CANCELLED: "The call was cancelled before it was answered.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The call is over a limit, here or at the service.",
}


class ClientError(Exception):
    """There is no answer. Nobody is cleared by whatever came before it."""


class IncompleteAnswer(ClientError):
    """The service's messages do not add up to a whole answer, so there is none."""


class CallFailed(ClientError):
    """The call ended with an error status.

    *reason* is the service's UPPER_SNAKE_CASE word, empty if the service did not speak itself.
    *retry_delay_s* is how long to wait before another try, None where another try cannot help.
    """

    def __init__(
        self, sentence: str, code: grpc.StatusCode, reason: str, retry_delay_s: float | None
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.reason = reason
        self.retry_delay_s = retry_delay_s

    def __reduce__(self) -> tuple[type[CallFailed], tuple[object, ...]]:
        """So that it can be copied, and sent from one process to another."""
        return CallFailed, (str(self), self.code, self.reason, self.retry_delay_s)


class NoToken(ClientError):
    """The token that the client is to show cannot be had, so nothing was asked."""


class ClientClosed(ClientError):
    """The client was closed, or the work cancelled, before the answer was whole."""

    def __init__(
        self, sentence: str = "The client was closed before the answer was whole: there is none."
    ) -> None:
        super().__init__(sentence)


def failure_of(error: grpc.RpcError) -> CallFailed:
    """The failure that *error*, raised by a call of grpc, stands for."""
    call = cast("grpc.Call", error)
    status = _status_of(call)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _unpack(detail.type_url, detail.value, info, retry)
    delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    retry_delay_s = delay_s if retry.HasField("retry_delay") else None
    if info.domain == _DOMAIN and info.reason:
        return CallFailed(_printable(status.message), call.code(), info.reason, retry_delay_s)
    fallback = f"The call failed with status {call.code().name}."
    return CallFailed(_SENTENCES.get(call.code(), fallback), call.code(), "", retry_delay_s)


def _status_of(call: grpc.Call) -> status_pb2.Status:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _unpack(
    type_url: str,
    value: bytes,
    info: error_details_pb2.ErrorInfo,
    retry: error_details_pb2.RetryInfo,
) -> None:
    targets = {"google.rpc.ErrorInfo": info, "google.rpc.RetryInfo": retry}
    target = targets.get(type_url.rpartition("/")[2])
    if target is not None:
        try:
            target.ParseFromString(value)
        except DecodeError:
            target.Clear()


def _printable(sentence: str) -> str:
    return "".join(char for char in sentence[:_SENTENCE_CHARS_MAX] if char.isprintable())
