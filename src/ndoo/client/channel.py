"""A connection to the service, and the short calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import grpc

from ndoo.client.answers import Answer, Summary, parse, read_answer, read_batch
from ndoo.client.connections import Tls
from ndoo.client.crew import aside, done_aside, is_main_thread
from ndoo.client.errors import ClientClosed, failure_of
from ndoo.client.introduction import Introduction, checked, introduced
from ndoo.v1 import check_pb2

SERVICE = "/ndoo.v1.OptOutCheck"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
KEEPALIVE_MS = 30_000
"""How often a silent connection with a call on it is tried. The service allows every 10 s."""

RECONNECT_MS_MAX = 1000
"""A service that was restarted is found again this soon; gRPC's own pauses grow to two minutes."""

RESOLVE_MS_MIN = 5000
"""How soon a name is looked up again after a connection was lost; gRPC's own pause is 30 s, which
new replicas would wait for. Cluster DNS says the same for 5 s.
"""

_READ_AHEAD = 4
"""How many responses of a relayed call may wait for whoever takes them: bounded, and few pauses."""

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.http2.max_frame_size", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # each channel gets a connection of its own
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MAX // 10),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_MS_MIN),
    ("grpc.service_config", _ROUND_ROBIN),
    ("grpc.enable_http_proxy", 0),  # NHS numbers go to the service named, and nowhere else
)


class StreamingCall(Iterator[bytes], Protocol):
    """A call of one of the streaming methods. Iterate over it for the responses, which raises
    CallFailed or ClientClosed.
    """

    def begin(self) -> None:
        """Begin the call, once. Raises ClientClosed."""

    def cancel(self) -> None:
        """End the call, if it has begun and is not over. Does not wait."""


def channel_options(tls: Tls | None) -> list[tuple[str, str | int]]:
    """How channels to the service are set up, for both kinds of channel."""
    options: list[tuple[str, str | int]] = list(_OPTIONS)
    if tls and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def open_channel(
    target: str, tls: Tls | None = None, introduction: Introduction | None = None
) -> grpc.Channel:
    """A channel to the service at *target*, which the caller closes: HOST:PORT, or as gRPC names
    addresses, such as dns:///NAME:PORT. Calls go round those of a name.

    Raises OSError if a file of *tls* cannot be read, and ValueError if *introduction* holds a token
    that would go over the network unprotected.
    """
    introduction = checked(introduction or {}, (target,), tls)
    options = channel_options(tls)
    if tls is None:
        return introduced(grpc.insecure_channel(target, options), introduction)
    return introduced(grpc.secure_channel(target, tls.credentials(), options), introduction)


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


def streaming_call(
    channel: grpc.Channel, method: str, requests: Iterator[bytes], timeout_s: float | None
) -> StreamingCall:
    """A call that has not begun yet. *requests* will be read by a thread of gRPC's."""
    make = partial(_Call, channel, method, requests, timeout_s)
    return _Relayed(make) if is_main_thread() else make()


class _Call(StreamingCall):
    """A call of gRPC's, which is never the main thread's: Ctrl-C there would lock the channel."""

    def __init__(
        self, channel: grpc.Channel, method: str, requests: Iterator[bytes], timeout_s: float | None
    ) -> None:
        self._channel = channel
        self._method = method
        self._requests = requests
        self._timeout_s = timeout_s
        self._call: grpc._CallIterator[bytes] | None = None

    def begin(self) -> None:
        callable_: grpc.StreamStreamMultiCallable[bytes, bytes]
        try:
            callable_ = self._channel.stream_stream(f"{SERVICE}/{self._method}")
            self._call = callable_(self._requests, timeout=self._timeout_s)
        except ValueError:  # so says grpc of a closed channel
            raise ClientClosed from None

    def __next__(self) -> bytes:
        if self._call is None:
            raise StopIteration
        try:
            return next(self._call)
        except grpc.RpcError as error:
            failure = failure_of(error.with_traceback(None))
        except ValueError:  # as when it begins, but told here where an introduction goes along
            raise ClientClosed from None
        raise failure  # out here, where it does not hold *error*, which is gRPC's call itself

    def cancel(self) -> None:
        call, self._call = self._call, None  # let go here, not by whoever lets go of an error of it
        if call is not None:
            call.cancel()


class _Relayed(StreamingCall):
    """A call that other threads make: whoever takes its responses waits for a queue alone."""

    def __init__(self, make: Callable[[], _Call]) -> None:
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._cancelled: SimpleQueue[None] = SimpleQueue()
        self._arrived: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._make = make

    def begin(self) -> None:
        for _ in range(_READ_AHEAD):
            self._wanted.put(True)
        aside(partial(_relay, self._make, self._wanted, self._cancelled, self._arrived))

    def __next__(self) -> bytes:
        self._wanted.put(True)
        match self._arrived.get():
            case bytes(response):
                return response
            case None:
                raise StopIteration
            case error:
                self._arrived.put(error)  # nothing else comes, and who asks again is not to wait
                raise error

    def cancel(self) -> None:
        self._cancelled.put(None)
        self._wanted.put(False)


def _relay(
    make: Callable[[], _Call],
    wanted: SimpleQueue[bool],
    cancelled: SimpleQueue[None],
    arrived: SimpleQueue[bytes | BaseException | None],
) -> None:
    """Make a call, and take a response each time that one is wanted, until none is."""
    try:
        call = make()
        call.begin()
        aside(partial(_cancel_when_told, call, cancelled))
        while wanted.get():
            arrived.put(next(call, None))
    except BaseException as error:  # noqa: BLE001  (whoever waits for a response is to know)
        arrived.put(error.with_traceback(None))  # whose frames hold the call


def _cancel_when_told(call: _Call, cancelled: SimpleQueue[None]) -> None:
    cancelled.get()
    call.cancel()


def _call(channel: grpc.Channel, method: str, request: bytes, timeout_s: float | None) -> bytes:
    ask = partial(_ask, channel, method, request, timeout_s)
    return done_aside(ask) if is_main_thread() else ask()


def _ask(channel: grpc.Channel, method: str, request: bytes, timeout_s: float | None) -> bytes:
    callable_: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    try:
        callable_ = channel.unary_unary(f"{SERVICE}/{method}")
        return callable_(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise failure_of(error) from None
    except ValueError:  # so says grpc of a closed channel
        raise ClientClosed from None
