"""Reading answers in tests: bits as arrays, statuses with their details."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2


def bits(data: bytes, count: int) -> np.ndarray:
    """The first *count* bits of *data*, least significant first; an empty bitmap is all unset."""
    if not data:
        return np.zeros(count, dtype=bool)
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(bool)
    assert len(data) == (count + 7) // 8
    assert not unpacked[count:].any(), "bits after the last number must be unset"
    return unpacked[:count]


@dataclass(frozen=True)
class Refused:
    code: grpc.StatusCode
    reason: str
    domain: str
    retry_s: float | None
    everything: str


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """The status of *error* with its typed details."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_s = None
    raw = b""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            raw = value
    for detail in status_pb2.Status.FromString(raw).details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        if detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_s = retry.retry_delay.ToMilliseconds() / 1000
    return Refused(error.code(), info.reason, info.domain, retry_s, f"{error} {raw!r}")
