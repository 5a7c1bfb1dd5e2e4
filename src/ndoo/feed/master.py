"""Where the one Redis server is that may be believed: the master that holds the keys.

A server that was replaced does not know it, as long as it is cut off from those who replaced it; a
replica lags, and does not know by how much. What either says is old, and must not pass for the
present. So whoever connects asks for the master first, and whoever stays for long asks again:

    a server     is the one that the URL names
    Sentinels    more than half of them have to name it. Redis' own client believes the first that
                 answers, which may be the one that was cut off together with the old master
    a cluster    its nodes tell which serves the slot of the keys. It stops by itself when it is cut
                 off, and says so when it is replaced, so that nobody has to ask again. Redis' own
                 client spreads keys over nodes and resends what failed; ours are in one slot, and
                 what may have been done is never sent twice
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from ndoo.feed.connection import Unreachable, cause_of, client_of
from ndoo.feed.url import Address, Login, RedisUrl, Shape

ASK_S_MAX = 1.0
"""How long a Sentinel, or a node that is asked about its cluster, may take to answer."""

ASK_AGAIN_S = 1.0
"""How old the word of the Sentinels may be."""


class Moved(Unreachable):
    """The master is another than the one that is connected to."""


class Master:
    """The master of *url* that holds the keys beginning with *prefix*.

    Used by one thread, except for `close`.
    """

    def __init__(
        self, url: RedisUrl, prefix: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._clock = clock
        self._where = _where(url, prefix)
        self._address: Address | None = None
        self._asked_at = 0.0

    def connect(self, answer_s_max: float) -> redis.Redis:
        """A client of it that waits *answer_s_max* for an answer and retries nothing: what failed,
        the caller is to know.
        """
        url = self._url
        client = client_of(self._find, url.tls, url.login, answer_s_max, url.database)
        # As the server sends it: making a mapping of each entry is for whoever decodes it.
        client.set_response_callback("XRANGE", lambda entries, **_: entries)
        return client

    def prove(self) -> None:
        """Raise RedisError unless the server last connected to was the master ASK_AGAIN_S ago, or
        later; Moved if it is known not to be.
        """
        before = self._address
        if before is None or self._clock() - self._asked_at < ASK_AGAIN_S:
            return
        if self._where.may_change and self._find() != before:
            raise Moved("another server has become the master")

    def close(self) -> None:
        self._where.close()

    def _find(self) -> Address:
        self._address = self._where.find()
        self._asked_at = self._clock()
        return self._address


class _Where(Protocol):
    may_change: bool  # without the server that was the master saying so

    def find(self) -> Address:
        """Where the master is now. Raises RedisError."""

    def close(self) -> None: ...


class _Server:
    may_change = False

    def __init__(self, address: Address) -> None:
        self._address = address

    def find(self) -> Address:
        return self._address

    def close(self) -> None: ...


class _Sentinels:
    may_change = True

    def __init__(self, url: RedisUrl) -> None:
        self._service = url.service
        self._clients = [_asking(url, url.sentinel_login, each) for each in url.addresses]
        self._needed = len(self._clients) // 2 + 1

    def find(self) -> Address:
        votes: Counter[Address | None] = Counter()
        causes: dict[redis.Redis, str] = {}
        for client in self._clients:
            try:
                vote = self._ask(client)
            except (RedisError, OSError) as error:
                causes[client] = cause_of(error)
                continue
            votes[vote] += 1
            if vote is not None and votes[vote] == self._needed:
                break
        else:
            raise self._no_majority(votes, list(causes.values()))
        if causes:  # who did not answer is asked last, the next time
            self._clients.sort(key=causes.__contains__)
        return vote

    def close(self) -> None:
        _disconnect(self._clients)

    def _ask(self, client: redis.Redis) -> Address | None:
        found = client.execute_command(  # type: ignore[no-untyped-call]
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
        )
        return Address(found[0].decode(), int(found[1])) if found else None

    def _no_majority(self, votes: Counter[Address | None], causes: Sequence[str]) -> Unreachable:
        if votes.total() < self._needed:
            return Unreachable(
                f"{votes.total()} of its {len(self._clients)} Sentinels answered, where "
                f"{self._needed} have to agree (another one: {causes[-1]})"
            )
        if set(votes) == {None}:
            return Unreachable(f"its Sentinels know no master named '{self._service}'")
        return Unreachable("its Sentinels do not agree on the master")


class _Cluster:
    may_change = False

    def __init__(self, url: RedisUrl, prefix: str) -> None:
        self._slot = key_slot(f"{{{prefix}}}".encode())
        self._nodes = deque((each, _asking(url, url.login, each)) for each in url.addresses)

    def find(self) -> Address:
        """Begins with another node each time, as one that is cut off goes on telling what was."""
        cause = ""
        for _ in range(len(self._nodes)):
            self._nodes.rotate(-1)
            asked, client = self._nodes[0]
            try:
                slots = client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                cause = cause_of(error)
                if "cluster support disabled" in str(error):
                    cause = "it is not a cluster"
                continue
            return self._serving(slots, asked)
        raise Unreachable(f"none of its nodes tells who serves the keys (one of them: {cause})")

    def close(self) -> None:
        _disconnect([client for _, client in self._nodes])

    def _serving(self, slots: Sequence[Any], asked: Address) -> Address:
        for first, last, (host, port, *_), *_ in slots:
            if first <= self._slot <= last:
                return Address(host.decode() if host else asked.host, port)
        raise Unreachable("none of its nodes serves the slot of the keys")


def _where(url: RedisUrl, prefix: str) -> _Where:
    match url.shape:
        case Shape.SERVER:
            return _Server(url.addresses[0])
        case Shape.SENTINEL:
            return _Sentinels(url)
        case Shape.CLUSTER:
            return _Cluster(url, prefix)


def _asking(url: RedisUrl, login: Login, address: Address) -> redis.Redis:
    return client_of(lambda: address, url.tls, login, ASK_S_MAX, database=0)


def _disconnect(clients: Sequence[redis.Redis]) -> None:
    """Take the connections away, from whatever is done with them."""
    for client in clients:
        client.connection_pool.disconnect(inuse_connections=True)
