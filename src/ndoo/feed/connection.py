"""How a connection to Redis is made, and what to say when one fails.

Errors of the Redis client are never shown or chained: their texts can hold whole commands, and so
NHS numbers or a password. `cause_of` finds the words.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AskError,
    AuthenticationError,
    InvalidResponse,
    ReadOnlyError,
    ResponseError,
)
from redis.retry import Retry

from ndoo.feed.url import Address, Login, Tls

CONNECT_S_MAX = 1.5

_CODE = re.compile(r"(?:^|caused error: )([A-Z]{3,24})\b")  # a pipeline puts words before it
_RIGHT = re.compile(r"to run the '([a-z]+(?:\|[a-z]+)?)' command")
_BEING_MOVED = "the slot of the keys is being moved to another node of its cluster"
_CODES = {
    "ASK": _BEING_MOVED,
    "CLUSTERDOWN": "its cluster does not serve the slot of the keys",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it is a replica that has lost its master",
    "MISCONF": "it cannot write to its disk",
    "MOVED": "another node of its cluster holds the keys; redis+cluster:// finds it",
    "NOREPLICAS": "it has too few replicas to accept writes",
    "OOM": "its memory is full",
    "READONLY": "it is a replica, which cannot be written",
    "TRYAGAIN": _BEING_MOVED,
    "UNBLOCKED": "it has become a replica",
}
_ENDED = "closed by server"
_NO_RIGHT_IN_SCRIPT = "user executing the script can't"
_CERTIFICATES = {
    10: "its certificate has expired",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}


class Unreachable(redis.ConnectionError):
    """Why there is nothing to connect to, in words that may be shown."""


def cause_of(error: Exception) -> str:
    """Why Redis cannot be used, in words that hold nothing of a command."""
    if isinstance(error, Unreachable):
        return str(error)
    return _cause_of_refusal(error) or _cause_of_no_connection(error)


def _cause_of_refusal(error: Exception) -> str:
    """Why the server refused, if it did."""
    code = _code_of(error)
    right = _RIGHT.search(str(error))
    if code == "NOPERM" or right or _NO_RIGHT_IN_SCRIPT in str(error):
        return f"its user has no right to {f'run {right[1]}' if right else 'what it is asked'}"
    if code in _CODES:
        return _CODES[code]
    if isinstance(error, AuthenticationError):
        return "it refuses the user or password"
    if isinstance(error, ResponseError):
        return f"it refuses the command ({code or type(error).__name__})"
    return ""


def _code_of(error: Exception) -> str:
    """The word with which the server began its error, if it sent one."""
    match = _CODE.search(str(error))
    return getattr(error, "status_code", None) or (match[1] if match else "")


def _cause_of_no_connection(error: Exception) -> str:
    under = error.__context__  # what the client of Redis had caught
    if isinstance(under, ssl.SSLCertVerificationError):
        unknown = "its certificate is not of a trusted authority; name that one with 'ca'"
        return _CERTIFICATES.get(under.verify_code, unknown)
    ended = isinstance(under, ConnectionResetError) or _ENDED in str(error)
    cases = (
        (
            isinstance(under, ssl.SSLError),
            "it agrees on no TLS; it may want a certificate ('cert')",
        ),
        ("handshake" in str(under), "it does not answer in TLS; without it, write redis://"),
        (isinstance(error, redis.TimeoutError), "it does not answer in time"),
        (isinstance(error, InvalidResponse), "it does not speak the protocol of Redis"),
        (ended, "it ended the connection, as a server does that wants TLS (rediss://)"),
    )
    return next((words for so, words in cases if so), "there is no connection to it")


def client_of(
    find: Callable[[], Address], tls: Tls | None, login: Login, answer_s_max: float, database: int
) -> redis.Redis:
    """A client whose connections go where *find* says whenever one is made.

    All of it is set on purpose. Nothing is retried: a blocked read that is retried ten times hides
    an outage for a minute, and a write that is retried may be done twice. A host that swallows
    packets is noticed in CONNECT_S_MAX, a server that hangs in *answer_s_max*, which has to be
    longer than it is asked to wait. Protocol 2 has one shape of answers in every server and version
    of the client. CLIENT SETINFO, which a user of few rights may not send, is not sent.
    """
    pool = redis.ConnectionPool(
        connection_class=_Connection,
        find=find,
        tls=tls,
        db=database,
        credential_provider=None if login == Login() else _Credentials(login),
        redis_connect_func=_greet,
        socket_timeout=answer_s_max,
        socket_connect_timeout=min(CONNECT_S_MAX, answer_s_max),
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    return redis.Redis.from_pool(pool)


class _Connection(redis.Connection):
    def __init__(self, *, find: Callable[[], Address], tls: Tls | None, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._find = find
        self._tls = tls
        self._astray = False

    def connect(self) -> None:
        if self._astray:
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except (AskError, ReadOnlyError):
            # The rest of the answers is still to be read here; the next question goes elsewhere.
            self._astray = True
            raise

    def _connect(self) -> socket.socket:
        self._astray = False
        self.host, self.port = self._find()
        plain: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        if self._tls is None:
            return plain
        plain.settimeout(CONNECT_S_MAX)  # a server without TLS waits for more, and says nothing
        try:
            secret = _context(self._tls).wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        secret.settimeout(self.socket_timeout)
        return secret


def _greet(connection: redis.Connection) -> None:
    """Log in, and ask for one answer, which every user may: with it comes what TLS sends after the
    handshake, which the pool would take for a forgotten answer.
    """
    connection.on_connect()  # type: ignore[no-untyped-call]
    connection.send_command("HELLO", 2)  # type: ignore[no-untyped-call]
    connection.read_response()


def _context(tls: Tls) -> ssl.SSLContext:
    """Made for each connection, so that renewed files count. The client's own would trust the
    system's authorities even where another is named.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError:
        raise Unreachable("a file named by 'ca', 'cert' or 'key' cannot be used") from None
    return context


class _Credentials(CredentialProvider):
    def __init__(self, login: Login) -> None:
        self._login = login

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        user, password = self._login.user, self._login.password or ""
        if self._login.password_file is not None:
            try:
                password = Path(self._login.password_file).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                raise Unreachable("the file of the password cannot be read") from None
        return (password,) if user is None else (user, password)
