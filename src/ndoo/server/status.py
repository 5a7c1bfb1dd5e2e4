"""The one table from the errors of the house to gRPC statuses.

A status carries `google.rpc.Status` with an `ErrorInfo` (domain "ndoo") and, where a retry makes
sense, a `RetryInfo`. Internals never reach a client: what is not in the table is INTERNAL with a
fixed sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from ndoo import errors
from ndoo.ops.audit import AuditFailed
from ndoo.server.open_stream import StreamIdle, StreamTooLong

DOMAIN = "ndoo"
DETAILS_KEY = "grpc-status-details-bin"


class TooMany(errors.NdooError):
    """More than a limit allows, in one message: sending it again cannot help."""

    reason = "TOO_MANY_NUMBERS"


class Busy(errors.NdooError):
    """More at once than a limit allows: later there may be room."""

    reason = "TOO_MANY_STREAMS"


class NotIdentified(errors.NdooError):
    """A caller who shows neither a certificate nor a token that is known here."""

    reason = "NOT_IDENTIFIED"


class NotAllowed(errors.NdooError):
    """A known caller who asks what its client may not: another method, purpose or size."""

    reason = "RPC_NOT_ALLOWED"


class OverQuota(errors.NdooError):
    """More numbers than the client may ask, now or today; *retry_s* says when there is room."""

    reason = "RATE_EXCEEDED"

    def __init__(self, sentence: str, *, reason: str, retry_s: float | None = None) -> None:
        super().__init__(sentence, reason=reason)
        self.retry_s = retry_s


class ShuttingDown(errors.NdooError):
    """This server is stopping; another one, or this one later, will answer."""

    reason = "SHUTTING_DOWN"


@dataclass(frozen=True, slots=True)
class _Rule:
    code: grpc.StatusCode
    retry_s: float | None = None


_TABLE: dict[type[errors.NdooError], _Rule] = {
    errors.NotAnswering: _Rule(grpc.StatusCode.UNAVAILABLE, retry_s=1.0),
    errors.RevisionNotReached: _Rule(grpc.StatusCode.UNAVAILABLE, retry_s=1.0),
    ShuttingDown: _Rule(grpc.StatusCode.UNAVAILABLE, retry_s=0.1),
    errors.OtherGeneration: _Rule(grpc.StatusCode.FAILED_PRECONDITION),
    errors.RevisionGone: _Rule(grpc.StatusCode.FAILED_PRECONDITION),
    errors.BadToken: _Rule(grpc.StatusCode.INVALID_ARGUMENT),
    errors.InputError: _Rule(grpc.StatusCode.INVALID_ARGUMENT),
    TooMany: _Rule(grpc.StatusCode.INVALID_ARGUMENT),
    Busy: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_s=1.0),
    # Of the streams that a caller did not keep going, one that was only held up (a laptop asleep, a
    # paused container) may ask again; one that was too long would be again.
    StreamIdle: _Rule(grpc.StatusCode.ABORTED, retry_s=0.1),
    StreamTooLong: _Rule(grpc.StatusCode.ABORTED),
    AuditFailed: _Rule(grpc.StatusCode.UNAVAILABLE, retry_s=1.0),
    NotIdentified: _Rule(grpc.StatusCode.UNAUTHENTICATED),
    NotAllowed: _Rule(grpc.StatusCode.PERMISSION_DENIED),
    OverQuota: _Rule(grpc.StatusCode.RESOURCE_EXHAUSTED),
}
_INTERNAL = _Rule(grpc.StatusCode.INTERNAL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ends that is not answered."""

    code: grpc.StatusCode
    reason: str
    sentence: str
    metadata: tuple[tuple[str, bytes], ...]


def refusal(error: Exception) -> Refusal:
    """The status for *error*."""
    rule = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _INTERNAL)
    if rule is _INTERNAL or not isinstance(error, errors.NdooError):
        return _refusal(_INTERNAL, "INTERNAL", "The call failed inside the service.")
    if isinstance(error, OverQuota):
        rule = _Rule(rule.code, error.retry_s)
    return _refusal(rule, error.reason, str(error))


def _refusal(rule: _Rule, reason: str, sentence: str) -> Refusal:
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))]
    if rule.retry_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(rule.retry_s * 1000))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=rule.code.value[0], message=sentence, details=details)
    return Refusal(rule.code, reason, sentence, ((DETAILS_KEY, status.SerializeToString()),))


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
