"""A connection to the service, and the short calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

import grpc

from ndoo.client.answers import Answer, Summary, parse, read_answer, read_batch
from ndoo.client.connections import Tls
from ndoo.client.errors import ClientClosed, failure_of
from ndoo.v1 import check_pb2

SERVICE = "/ndoo.v1.OptOutCheck"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
KEEPALIVE_MS = 30_000
"""How often a silent connection with a call on it is tried. The service allows every 10 s."""

RECONNECT_MS_MAX = 1000
"""A service that was restarted is found again this soon; gRPC's own pauses grow to two minutes."""

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.http2.max_frame_size", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # each channel gets a connection of its own
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MAX // 10),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
    ("grpc.service_config", _ROUND_ROBIN),
    ("grpc.enable_http_proxy", 0),  # NHS numbers go to the service named, and nowhere else
)


class Responses(Iterator[bytes], Protocol):
    """What comes back of a call that streams. Raises grpc.RpcError."""

    def cancel(self) -> bool: ...


def channel_options(tls: Tls | None) -> list[tuple[str, str | int]]:
    """How channels to the service are set up, for both kinds of channel."""
    options: list[tuple[str, str | int]] = list(_OPTIONS)
    if tls and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def open_channel(target: str, tls: Tls | None = None) -> grpc.Channel:
    """A channel to the service at *target* (HOST:PORT), which the caller closes.

    Raises OSError if a file of *tls* cannot be read.
    """
    options = channel_options(tls)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def get_register(
    channel: grpc.Channel,
    *,
    exactly_at: str = "",
    with_digest: bool = False,
    timeout_s: float | None = None,
) -> check_pb2.GetRegisterResponse:
    """What the replica knows, in any phase; or what it holds at a revision, as it answers checks.

    Raises CallFailed or IncompleteAnswer.
    """
    request = check_pb2.GetRegisterRequest(exactly_at=exactly_at, with_digest=with_digest)
    message = _call(channel, "GetRegister", request.SerializeToString(), timeout_s)
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
    return read_answer(parse(check_pb2.CheckResponse, message), exactly_at)


def reach(
    channel: grpc.Channel,
    *,
    at_least_as_fresh: str = "",
    exactly_at: str = "",
    timeout_s: float | None = None,
) -> Summary:
    """An answer about no number: its revision is one that the service answers from now.

    Raises CallFailed or IncompleteAnswer.
    """
    request = check_pb2.BatchCheckRequest(
        at_least_as_fresh=at_least_as_fresh, exactly_at=exactly_at
    )
    message = _call(channel, "BatchCheck", request.SerializeToString(), timeout_s)
    return read_batch(parse(check_pb2.BatchCheckResponse, message), 0, exactly_at)[1]


def begin_stream(
    channel: grpc.Channel, method: str, requests: Iterator[bytes], timeout_s: float | None
) -> Responses:
    """A call of one of the streaming methods. Raises ClientClosed if *channel* is closed."""
    callable_: grpc.StreamStreamMultiCallable[bytes, bytes]
    callable_ = channel.stream_stream(f"{SERVICE}/{method}")
    try:
        return callable_(requests, timeout=timeout_s)
    except ValueError:  # so says grpc of a closed channel
        raise ClientClosed from None


def _call(channel: grpc.Channel, method: str, request: bytes, timeout_s: float | None) -> bytes:
    callable_: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    callable_ = channel.unary_unary(f"{SERVICE}/{method}")
    try:
        return callable_(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise failure_of(error) from None
    except ValueError:  # so says grpc of a closed channel
        raise ClientClosed from None
