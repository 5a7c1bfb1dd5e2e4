"""One URL names a feed everywhere: `redis://…`, `rediss://…` (TLS) or `dir:PATH`.

It is parsed once. What goes on from here is a small value whose *name* may be printed: no user and
no password are in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ndoo.errors import InputError
from ndoo.feed.feed import Feed

REDIS_PORT = 6379
PREFIX = "ndoo"
_FORMS = "write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or dir:PATH"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis server and the database in it."""

    host: str
    port: int = REDIS_PORT
    database: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    @property
    def name(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class DirectoryUrl:
    """A local directory."""

    path: Path

    @property
    def name(self) -> str:
        return f"dir:{self.path}"


def parse(url: str) -> RedisUrl | DirectoryUrl:
    """What *url* names. Raises InputError; its sentence does not repeat the URL, which may hold a
    password.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "dir":
        if not rest or "\0" in rest:
            raise InputError("The feed URL 'dir:' names no directory; write dir:PATH.")
        return DirectoryUrl(Path(rest))
    if scheme in {"redis", "rediss"} and rest.startswith("//"):
        return _redis(url)
    raise InputError(f"The feed URL is of a kind that is not known; {_FORMS}.")


def open_feed(url: str, prefix: str = PREFIX) -> Feed:
    """The feed that *url* names; *prefix* begins its Redis keys. Nothing is connected to yet.

    Raises InputError.
    """
    # Imported here because the feeds build on this module, and a directory needs no Redis client.
    from ndoo.feed.directory import DirectoryFeed  # noqa: PLC0415
    from ndoo.feed.redis import RedisFeed  # noqa: PLC0415

    place = parse(url)
    if isinstance(place, DirectoryUrl):
        return DirectoryFeed(place)
    return RedisFeed(place, prefix)


def _redis(url: str) -> RedisUrl:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"The feed URL has no usable host and port; {_FORMS}.") from None
    if not host:
        raise InputError(f"The feed URL names no host; {_FORMS}.")
    if parts.query or parts.fragment:
        raise InputError(f"The feed URL has a '?' or '#' part, which is not known here; {_FORMS}.")
    return RedisUrl(
        host=host,
        port=REDIS_PORT if port is None else port,
        database=_database(parts),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "rediss",
    )


def _database(parts: SplitResult) -> int:
    text = parts.path.removeprefix("/") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise InputError(f"The feed URL's database is not a number; {_FORMS}.")
    return int(text)
