"""The connections of a client: to which replica, over which TLS, and who is using them.

Bulk work leases a connection for itself alone, because one TCP connection carries one stream at
full speed; short calls share one to each replica. Replicas take turns. One that could not be
reached is passed over for a while if there is another. When the files of the certificates change,
new leases get new connections, and the old ones close with their last user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from ndoo.client.errors import CallFailed, ClientClosed
from ndoo.client.tries import is_unreached

SHUN_S = 5.0
"""How long a replica that could not be reached is passed over."""

C = TypeVar("C")
_Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption to the service: paths of PEM files, read again when they change.

    *ca* is who signs the service's certificate (the system's authorities without it);
    *certificate* and *key* are the caller's own, for mTLS; *server_name* is the name in the
    service's certificate where the address is another.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key are given together, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """As the files are now. Raises OSError."""
        ca, certificate, key = (
            None if path is None else Path(path).read_bytes()
            for path in (self.ca, self.certificate, self.key)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def signature(self) -> _Signature:
        """What changes when the files do. Raises OSError."""
        named = [path for path in (self.ca, self.certificate, self.key) if path is not None]
        found = [Path(path).stat() for path in named]
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


@dataclass(eq=False, slots=True)
class Connection(Generic[C]):
    """A channel to one replica, and how many use it."""

    target: str
    channel: C
    is_shared: bool
    signature: _Signature
    users: int = 0
    is_closed: bool = False


@dataclass(slots=True)
class Connections(Generic[C]):
    """All connections of one client. Any thread may take and give them back."""

    targets: Sequence[str]
    tls: Tls | None
    open_channel: Callable[[str, Tls | None], C]
    close_channel: Callable[[C], object]
    _open: list[Connection[C]] = field(default_factory=list)
    _shunned: dict[str, float] = field(default_factory=dict)
    _turns: Iterator[int] = field(default_factory=itertools.count)
    # What Ctrl-C left half entered is left whenever it is collected, be it in this very lock.
    _lock: AbstractContextManager[bool] = field(default_factory=threading.RLock)
    _is_closed: bool = False

    @contextlib.contextmanager
    def lease(
        self, *, is_shared: bool = False, avoiding: Collection[str] = ()
    ) -> Iterator[Connection[C]]:
        """A connection for the time of the block, its replica not one of *avoiding* if possible.

        Raises ClientClosed; OSError if a certificate cannot be read.
        """
        connection = self._take(is_shared, avoiding)
        try:
            yield connection
        except CallFailed as error:
            if is_unreached(error):
                self._shunned[connection.target] = time.monotonic() + SHUN_S
            raise
        else:
            self._shunned.pop(connection.target, None)
        finally:
            self._give_back(connection)

    def drop(self, connection: Connection[C]) -> None:
        """Close *connection*, which ends its calls."""
        with self._lock:
            is_mine = connection in self._open
            if is_mine:
                self._open.remove(connection)
            connection.is_closed = True
        if is_mine:
            self.close_channel(connection.channel)

    def close(self) -> None:
        """Close all, which ends all calls. Does not wait."""
        with self._lock:
            self._is_closed = True
            connections = list(self._open)
        for connection in connections:
            self.drop(connection)

    def _take(self, is_shared: bool, avoiding: Collection[str]) -> Connection[C]:
        signature = self.tls.signature() if self.tls else ()
        with self._lock:
            if self._is_closed:
                raise ClientClosed
            target = self._next_target(avoiding)
            connection = self._find(target, is_shared, signature)
            if connection is None:
                channel = self.open_channel(target, self.tls)
                connection = Connection(target, channel, is_shared, signature)
                self._open.append(connection)
            connection.users += 1
        self._close_outdated(signature)
        return connection

    def _next_target(self, avoiding: Collection[str]) -> str:
        now = time.monotonic()
        turn = next(self._turns)
        in_turn = [self.targets[(turn + i) % len(self.targets)] for i in range(len(self.targets))]
        return min(in_turn, key=lambda each: (each in avoiding, self._shunned.get(each, 0.0) > now))

    def _find(self, target: str, is_shared: bool, signature: _Signature) -> Connection[C] | None:
        for each in self._open:
            is_free = each.is_shared if is_shared else not (each.is_shared or each.users)
            is_usable = is_free and not each.is_closed
            if is_usable and each.target == target and each.signature == signature:
                return each
        return None

    def _give_back(self, connection: Connection[C]) -> None:
        with self._lock:
            connection.users -= 1

    def _close_outdated(self, signature: _Signature) -> None:
        with self._lock:
            outdated = [
                each for each in self._open if not each.users and each.signature != signature
            ]
            for connection in outdated:  # now, so that nobody takes one
                self._open.remove(connection)
        for connection in outdated:
            self.close_channel(connection.channel)
