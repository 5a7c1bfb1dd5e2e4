"""One URL names a feed everywhere: a Redis of whatever shape, or a local directory.

    redis://USER:PASSWORD@HOST:PORT/DB              one server
    redis+sentinel://…@HOST:PORT,…/SERVICE/DB       the master that these Sentinels call SERVICE
    redis+cluster://…@HOST:PORT,…                   the node of a cluster that serves the keys
    dir:PATH                                        a local directory

`rediss`, `rediss+sentinel` and `rediss+cluster` are the same over TLS, towards Sentinels and nodes
too. Servers are always verified, host name included; there is no way to switch that off, because a
feed from whoever answers is worth nothing.

It is parsed once. What goes on from here is a small value whose *name* may be printed: no user, no
password and no file of one are in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from ndoo.errors import InputError
from ndoo.feed.feed import Feed
from ndoo.register.snapshot import Verify

REDIS_PORT = 6379
SENTINEL_PORT = 26_379
PREFIX = "ndoo"
_PORT_MAX = 65_535
_FORMS = (
    "write redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB, "
    "redis+cluster://HOST:PORT,HOST:PORT (each with rediss for TLS) or dir:PATH"
)
_REDIS = re.compile(
    r"(?P<scheme>redis(?P<tls>s?)(?:\+(?P<shape>sentinel|cluster))?)://"
    r"(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")
_DATABASE = re.compile(r"[0-9]{1,5}")
_TLS_OPTIONS = {"ca", "cert", "key"}
_SENTINEL_OPTIONS = {"sentinel_user", "sentinel_password_file"}


class Shape(Enum):
    """What stands at the addresses of a Redis URL."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """Who is calling. A password file is read whenever a connection is made."""

    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_file: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who is trusted (the system's own choice if None), and who is calling."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis of any shape, and the database in it."""

    addresses: tuple[Address, ...]
    shape: Shape = Shape.SERVER
    service: str = ""
    database: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None

    @property
    def name(self) -> str:
        scheme = "redis" if self.tls is None else "rediss"
        addresses = ",".join(map(str, self.addresses))
        if self.shape is Shape.CLUSTER:
            return f"{scheme}+cluster://{addresses}"
        if self.shape is Shape.SENTINEL:
            return f"{scheme}+sentinel://{addresses}/{self.service}/{self.database}"
        return f"{scheme}://{addresses}/{self.database}"


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
    match = _REDIS.fullmatch(url)
    if match is None:
        raise InputError(f"The feed URL is of a kind that is not known; {_FORMS}.")
    return _redis(match)


def open_feed(url: str, prefix: str = PREFIX, verify: Verify | None = None) -> Feed:
    """The feed that *url* names; *prefix* begins its Redis keys. With *verify* its snapshots must
    be signed, by whom that knows. Nothing is connected to yet.

    Raises InputError.
    """
    # Imported here because the feeds build on this module, and a directory needs no Redis client.
    from ndoo.feed.directory import DirectoryFeed  # noqa: PLC0415
    from ndoo.feed.redis import RedisFeed  # noqa: PLC0415

    place = parse(url)
    if isinstance(place, DirectoryUrl):
        return DirectoryFeed(place, verify)
    return RedisFeed(place, prefix, verify)


def _redis(match: re.Match[str]) -> RedisUrl:
    shape = Shape(match["shape"] or "server")
    options = _options(match, shape)
    service, database = _path(match["path"] or "/", shape)
    return RedisUrl(
        addresses=_addresses(match["hosts"], shape),
        shape=shape,
        service=service,
        database=database,
        login=_login(match["login"] or "", options),
        sentinel_login=Login(
            user=options.get("sentinel_user"), password_file=options.get("sentinel_password_file")
        ),
        tls=_tls(options) if match["tls"] else None,
    )


def _options(match: re.Match[str], shape: Shape) -> Mapping[str, str]:
    known = {"password_file"}
    known |= _TLS_OPTIONS if match["tls"] else set()
    known |= _SENTINEL_OPTIONS if shape is Shape.SENTINEL else set()
    try:
        pairs = parse_qsl(
            match["options"] or "", strict_parsing=bool(match["options"]), keep_blank_values=True
        )
    except ValueError:
        pairs = [("", "")]
    options = dict(pairs)
    if len(options) < len(pairs) or not options.keys() <= known or "" in options.values():
        raise InputError(
            f"The feed URL has an option after '?' that does not belong to "
            f"{match['scheme']}://, is there twice or is empty; known are "
            f"{', '.join(sorted(known))}; {_FORMS}."
        )
    return options


def _addresses(hosts: str, shape: Shape) -> tuple[Address, ...]:
    """At least one, each once: one Sentinel named twice is no majority of two."""
    default = SENTINEL_PORT if shape is Shape.SENTINEL else REDIS_PORT
    matches = [_HOST.fullmatch(host) for host in hosts.split(",")]
    addresses = [
        Address(match[1] or match[2], int(match[3] or default)) for match in matches if match
    ]
    if len(addresses) < len(matches) or any(port > _PORT_MAX for _, port in addresses):
        raise InputError(f"The feed URL has no usable host and port; {_FORMS}.")
    if shape is Shape.SERVER and len(addresses) > 1:
        raise InputError(f"The feed URL names several hosts for one server; {_FORMS}.")
    return tuple(dict.fromkeys(addresses))


def _path(path: str, shape: Shape) -> tuple[str, int]:
    """The name of the service, of Sentinels, and the number of the database."""
    service, database = "", path.removeprefix("/") or "0"
    if shape is Shape.SENTINEL:
        service, _, database = path.removeprefix("/").partition("/")
        if not _SERVICE.fullmatch(service):
            raise InputError(f"The feed URL names no service of the Sentinels; {_FORMS}.")
    if not _DATABASE.fullmatch(database or "0"):
        raise InputError(f"The feed URL's database is not a number; {_FORMS}.")
    if shape is Shape.CLUSTER and int(database):
        raise InputError(f"The feed URL names a database, but a cluster has only one; {_FORMS}.")
    return service, int(database or "0")


def _login(login: str, options: Mapping[str, str]) -> Login:
    user, _, password = login.partition(":")
    if password and "password_file" in options:
        raise InputError(f"The feed URL has a password and a file of one; name one; {_FORMS}.")
    return Login(unquote(user) or None, unquote(password) or None, options.get("password_file"))


def _tls(options: Mapping[str, str]) -> Tls:
    if "key" in options and "cert" not in options:
        raise InputError(f"The feed URL names a key without a certificate ('cert'); {_FORMS}.")
    return Tls(options.get("ca"), options.get("cert"), options.get("key"))
