"""A connection to the service, and the two short calls."""

from __future__ import annotations

import grpc

from ndoo.client.answers import Answer, parse, read_answer
from ndoo.client.errors import failure_of
from ndoo.v1 import check_pb2

SERVICE = "/ndoo.v1.OptOutCheck"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_KEEPALIVE_MS = 330_000  # servers take pings more often than every five minutes for abuse

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.http2.max_frame_size", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # each channel gets a connection of its own
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.enable_http_proxy", 0),  # NHS numbers go to the service named, and nowhere else
)


def open_channel(target: str) -> grpc.Channel:
    """A channel to the service at *target* (HOST:PORT), which the caller closes."""
    return grpc.insecure_channel(target, options=_OPTIONS)


def get_register(
    channel: grpc.Channel, *, timeout_s: float | None = None
) -> check_pb2.GetRegisterResponse:
    """What the replica knows, in any phase. Raises CallFailed or IncompleteAnswer."""
    request = check_pb2.GetRegisterRequest().SerializeToString()
    message = _call(channel, "GetRegister", request, timeout_s)
    return parse(check_pb2.GetRegisterResponse, message)


def check(
    channel: grpc.Channel,
    nhs_number: str,
    *,
    at_least_as_fresh: str = "",
    exactly_at: str = "",
    timeout_s: float | None = None,
) -> Answer:
    """The verdict on one number, as people write it. Raises CallFailed or IncompleteAnswer."""
    request = check_pb2.CheckRequest(
        nhs_number=nhs_number, at_least_as_fresh=at_least_as_fresh, exactly_at=exactly_at
    )
    message = _call(channel, "Check", request.SerializeToString(), timeout_s)
    return read_answer(parse(check_pb2.CheckResponse, message))


def _call(channel: grpc.Channel, method: str, request: bytes, timeout_s: float | None) -> bytes:
    callable_: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    callable_ = channel.unary_unary(f"{SERVICE}/{method}")
    try:
        return callable_(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise failure_of(error) from None
