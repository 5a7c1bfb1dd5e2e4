"""Who asks, and what for: what goes along with every call beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypedDict

import grpc

from ndoo.client.connections import Tls
from ndoo.client.errors import NoToken

Metadata = tuple[tuple[str, str], ...]


class Introduction(TypedDict, total=False):
    """How a client introduces itself.

    *token* is a JSON Web Token, or a function that gives the one to use now: it is called before
    each call, from any thread, so it keeps what it has fetched. *purpose* and *reference* (of a
    project or approval) are kept in the service's audit, as is *call_id*, under which the calls are
    found again; nothing in them may look like an NHS number.
    """

    token: str | Callable[[], str]
    purpose: str
    reference: str
    call_id: str


_NAMES = {"purpose": "ndoo-purpose", "reference": "ndoo-reference", "call_id": "ndoo-call-id"}


def checked(introduction: Introduction, targets: Sequence[str], tls: Tls | None) -> Introduction:
    """*introduction*, if it may be sent to all *targets*. Raises ValueError."""
    for key in _NAMES:
        text = introduction.get(key, "")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise ValueError(f"the {key.replace('_', ' ')} is printable ASCII text")
    if "token" in introduction and tls is None and not all(map(_is_loopback, targets)):
        raise ValueError("a token goes over TLS alone, or to one's own machine")
    return introduction


def metadata_of(introduction: Introduction) -> Metadata:
    """What to send with a call now. Raises NoToken."""
    declared = tuple(
        (name, str(text)) for key, name in _NAMES.items() if (text := introduction.get(key))
    )
    if "token" not in introduction:
        return declared
    return (*declared, ("authorization", f"Bearer {_token(introduction['token'])}"))


def introduced(channel: grpc.Channel, introduction: Introduction) -> grpc.Channel:
    """*channel*, with *introduction* sent along with every call."""
    return grpc.intercept_channel(channel, _Introducing(introduction)) if introduction else channel


def _token(given: str | Callable[[], str]) -> str:
    try:
        token = given if isinstance(given, str) else given()
    except Exception as error:
        raise NoToken("There is no token to show: what is to give it failed.") from error
    token = token.strip() if isinstance(token, str) else ""
    if not (token.isascii() and token.isprintable()) or not token or " " in token:
        raise NoToken("There is no token to show: what is given is empty, or no token.")
    return token


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    """A call, as gRPC wants to be told of it."""

    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Introducing(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    def __init__(self, introduction: Introduction) -> None:
        self._introduction = introduction

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_metadata(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with_metadata(details), requests)

    def _with_metadata(self, details: Any) -> _Details:
        return _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *metadata_of(self._introduction)),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
