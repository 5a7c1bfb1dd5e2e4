"""A model of a Redis server: the commands that feeds and publishers send, and no others.

What it does not know fails the simulation, so that no command is simulated by a guess. A test sends
the same random commands to it and to a real server.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from simulator.lua import Script

Id = tuple[int, int]
Reply = object
ID_MAX = (2**64 - 1, 2**64 - 1)
WRITES = {b"HSET", b"HINCRBY", b"DEL", b"SET", b"XADD", b"XTRIM", b"XDEL", b"XSETID", b"RENAME"}


class Refused(Exception):
    """An error reply."""


class Status(str):
    """A simple string reply."""

    __slots__ = ()


@dataclass
class Stream:
    entries: list[tuple[Id, list[bytes]]] = field(default_factory=list)
    last_id: Id = (0, 0)
    added: int = 0
    deleted_max: Id = (0, 0)


def id_text(entry_id: Id) -> bytes:
    return b"%d-%d" % entry_id


def parse_id(text: bytes, serial: int = 0) -> Id:
    match = re.fullmatch(rb"(\d+)(?:-(\d+))?", text)
    if not match:
        raise Refused("ERR Invalid stream ID specified as stream command argument")
    return int(match[1]), serial if match[2] is None else int(match[2])


class RedisModel:
    """One server's data. *clock_ms* is its own clock."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.clock_ms = clock_ms
        self.keys: dict[bytes, object] = {}
        self.expiries: dict[bytes, int] = {}
        self.scripts: dict[bytes, Script] = {}
        self.changed: dict[bytes, int] = {}  # how often each key was written to, for WATCH
        self.writes = 0

    def copy_data(self) -> tuple[dict[bytes, object], dict[bytes, int]]:
        return copy.deepcopy(self.keys), dict(self.expiries)

    def put_data(self, data: tuple[dict[bytes, object], dict[bytes, int]]) -> None:
        """Become a server that holds *data*, as after a fail-over or a restart."""
        self.keys, self.expiries = copy.deepcopy(data[0]), dict(data[1])
        self.scripts.clear()
        self.writes += 1

    def call(self, args: Sequence[bytes]) -> Reply:
        """Execute one command. Raises Refused; NotImplementedError for what is not modelled."""
        name = args[0].upper()
        method = getattr(self, "do_" + name.decode().lower(), None)
        if method is None:
            raise NotImplementedError(f"the model of Redis lacks {name.decode()}")
        self._expire()
        reply = method(*args[1:])
        if name in WRITES:
            self.writes += 1
            self.changed[args[1]] = self.changed.get(args[1], 0) + 1
        return reply

    def _expire(self) -> None:
        for key, moment in list(self.expiries.items()):
            if moment <= self.clock_ms():
                self.keys.pop(key, None)
                del self.expiries[key]

    def _value(self, key: bytes, kind: type) -> object | None:
        value = self.keys.get(key)
        if value is not None and not isinstance(value, kind):
            raise Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        return self._value(key, dict) or {}

    def _stream(self, key: bytes) -> Stream:
        return self._value(key, Stream) or Stream()

    # --- connection ---------------------------------------------------------------------------

    def do_ping(self) -> Reply:
        return Status("PONG")

    def do_hello(self, *_: bytes) -> Reply:
        return [b"server", b"redis", b"version", b"7.0.15", b"proto", 2]

    def do_client(self, *_: bytes) -> Reply:
        return Status("OK")

    def do_select(self, _: bytes) -> Reply:
        return Status("OK")

    def do_role(self) -> Reply:
        return [b"master", 0, []]

    # --- keys, texts and hashes -----------------------------------------------------------------

    def do_del(self, *names: bytes) -> Reply:
        for name in names:
            self.expiries.pop(name, None)
        return sum(self.keys.pop(name, None) is not None for name in names)

    def do_exists(self, *names: bytes) -> Reply:
        return sum(name in self.keys for name in names)

    def do_rename(self, old: bytes, new: bytes) -> Reply:
        if old not in self.keys:
            raise Refused("ERR no such key")
        self.keys[new] = self.keys.pop(old)
        self.expiries.pop(new, None)
        if old in self.expiries:
            self.expiries[new] = self.expiries.pop(old)
        return Status("OK")

    def do_expire(self, key: bytes, seconds: bytes) -> Reply:
        if key not in self.keys:
            return 0
        self.expiries[key] = self.clock_ms() + int(seconds) * 1000
        return 1

    def do_persist(self, key: bytes) -> Reply:
        return int(self.expiries.pop(key, None) is not None)

    def do_get(self, key: bytes) -> Reply:
        return self._value(key, bytes)

    def do_set(self, key: bytes, value: bytes, *options: bytes) -> Reply:
        self.keys[key] = value
        self.expiries.pop(key, None)
        match [option.upper() for option in options]:
            case []:
                pass
            case [b"EX", seconds]:
                self.expiries[key] = self.clock_ms() + int(seconds) * 1000
            case _:
                raise NotImplementedError(f"the model of Redis lacks SET with {options}")
        return Status("OK")

    def do_hget(self, key: bytes, name: bytes) -> Reply:
        return self._hash(key).get(name)

    def do_hmget(self, key: bytes, *names: bytes) -> Reply:
        return [self._hash(key).get(name) for name in names]

    def do_hgetall(self, key: bytes) -> Reply:
        return [text for pair in self._hash(key).items() for text in pair]

    def do_hset(self, key: bytes, *pairs: bytes) -> Reply:
        if not pairs or len(pairs) % 2:
            raise Refused("ERR wrong number of arguments for 'hset' command")
        old = self._hash(key)
        new = {**old, **dict(zip(pairs[::2], pairs[1::2]))}
        self.keys[key] = new
        return len(new) - len(old)

    def do_hincrby(self, key: bytes, name: bytes, by: bytes) -> Reply:
        fields = self._hash(key)
        try:
            value = int(fields.get(name, b"0")) + int(by)
        except ValueError:
            raise Refused("ERR hash value is not an integer") from None
        self.keys[key] = {**fields, name: b"%d" % value}
        return value

    # --- streams --------------------------------------------------------------------------------

    def do_xadd(self, key: bytes, id_wish: bytes, *fields: bytes) -> Reply:
        if not fields or len(fields) % 2:
            raise Refused("ERR wrong number of arguments for 'xadd' command")
        stream = self._stream(key)
        milliseconds, serial = stream.last_id
        if id_wish == b"*":
            now = self.clock_ms()
            new = (now, 0) if now > milliseconds else (milliseconds, serial + 1)
        else:
            new = parse_id(id_wish)
        if new <= stream.last_id:
            raise Refused(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            )
        stream.entries.append((new, list(fields)))
        stream.last_id = new
        stream.added += 1
        self.keys[key] = stream
        return id_text(new)

    def do_xlen(self, key: bytes) -> Reply:
        return len(self._stream(key).entries)

    def do_xrange(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> Reply:
        return self._range(key, low, high, options)

    def do_xrevrange(self, key: bytes, high: bytes, low: bytes, *options: bytes) -> Reply:
        return self._range(key, low, high, options, backwards=True)

    def _range(
        self,
        key: bytes,
        low: bytes,
        high: bytes,
        options: Sequence[bytes],
        *,
        backwards: bool = False,
    ) -> Reply:
        first = (0, 0) if low == b"-" else parse_id(low.removeprefix(b"("))
        last = ID_MAX if high == b"+" else parse_id(high.removeprefix(b"("), 2**64 - 1)
        found = [
            [id_text(entry_id), fields]
            for entry_id, fields in self._stream(key).entries
            if first <= entry_id <= last
            and not (low[:1] == b"(" and entry_id == first)
            and not (high[:1] == b"(" and entry_id == last)
        ]
        if backwards:
            found.reverse()
        return found[: int(options[1])] if options else found

    def do_xread(self, *args: bytes) -> Reply:
        """One stream; `BLOCK` is for the session to keep."""
        options = [arg.upper() for arg in args]
        names = args[options.index(b"STREAMS") + 1 :]
        if len(names) != 2:
            raise NotImplementedError("the model of Redis reads one stream at a time")
        count = int(args[options.index(b"COUNT") + 1]) if b"COUNT" in options else None
        after = parse_id(names[1])
        found = [
            [id_text(entry_id), fields]
            for entry_id, fields in self._stream(names[0]).entries
            if entry_id > after
        ]
        return [[names[0], found[:count]]] if found else None

    def do_xdel(self, key: bytes, *ids: bytes) -> Reply:
        stream = self._stream(key)
        gone = {parse_id(each) for each in ids} & {entry_id for entry_id, _ in stream.entries}
        stream.entries = [entry for entry in stream.entries if entry[0] not in gone]
        stream.deleted_max = max([stream.deleted_max, *gone])
        return len(gone)

    def do_xtrim(self, key: bytes, how: bytes, exact: bytes, threshold: bytes) -> Reply:
        if exact != b"=":
            raise NotImplementedError("the model of Redis trims exactly or not at all")
        stream = self._stream(key)
        before = len(stream.entries)
        if how.upper() == b"MAXLEN":
            stream.entries = stream.entries[max(0, before - int(threshold)) :]
        else:
            stream.entries = [each for each in stream.entries if each[0] >= parse_id(threshold)]
        return before - len(stream.entries)

    def do_xsetid(self, key: bytes, last_id: bytes) -> Reply:
        self._stream(key).last_id = parse_id(last_id)
        return Status("OK")

    def do_xinfo(self, what: bytes, key: bytes) -> Reply:
        if what.upper() != b"STREAM":
            raise NotImplementedError("the model of Redis knows XINFO STREAM alone")
        stream = self._value(key, Stream)
        if stream is None:
            raise Refused("ERR no such key")
        entries = [[id_text(entry_id), fields] for entry_id, fields in stream.entries]
        return [
            *(b"length", len(entries)),
            *(b"last-generated-id", id_text(stream.last_id)),
            *(b"max-deleted-entry-id", id_text(stream.deleted_max)),
            *(b"entries-added", stream.added),
            *(b"groups", 0),
            *(b"first-entry", entries[0] if entries else None),
            *(b"last-entry", entries[-1] if entries else None),
        ]

    # --- scripts --------------------------------------------------------------------------------

    def do_script(self, what: bytes, source: bytes) -> Reply:
        if what.upper() != b"LOAD":
            raise NotImplementedError("the model of Redis knows SCRIPT LOAD alone")
        digest = hashlib.sha1(source).hexdigest().encode()
        self.scripts[digest] = Script.of(source)
        return digest

    def do_eval(self, source: bytes, count: bytes, *args: bytes) -> Reply:
        self.do_script(b"LOAD", source)
        return self.do_evalsha(hashlib.sha1(source).hexdigest().encode(), count, *args)

    def do_evalsha(self, digest: bytes, count: bytes, *args: bytes) -> Reply:
        script = self.scripts.get(digest)
        if script is None:
            raise Refused("NOSCRIPT No matching script. Please use EVAL.")
        return script.run(self.call, args[: int(count)], args[int(count) :])


class Session:
    """One client's connection: what of it is its own are transactions."""

    def __init__(self, model: RedisModel) -> None:
        self.model = model
        self.queue: list[Sequence[bytes]] | None = None
        self.watched: dict[bytes, int] = {}

    def call(self, args: Sequence[bytes]) -> Reply:
        name = args[0].upper()
        if self.queue is not None and name not in {b"EXEC", b"DISCARD", b"WATCH", b"MULTI"}:
            self.queue.append(args)
            return Status("QUEUED")
        match name:
            case b"MULTI" | b"WATCH" if self.queue is not None:
                return Refused("ERR not allowed inside MULTI")
            case b"DISCARD" | b"EXEC" if self.queue is None:
                return Refused("ERR without MULTI")
            case b"MULTI":
                self.queue = []
            case b"EXEC":
                return self._execute()
            case b"DISCARD":
                self.queue, self.watched = None, {}
            case b"WATCH":
                self.watched |= {key: self.model.changed.get(key, 0) for key in args[1:]}
            case b"UNWATCH":
                self.watched = {}
            case _:
                return self._one(args)
        return Status("OK")

    def _execute(self) -> Reply:
        queue, watched = self.queue or (), self.watched
        self.queue, self.watched = None, {}
        if any(self.model.changed.get(key, 0) != count for key, count in watched.items()):
            return None
        return [self._one(args) for args in queue]

    def _one(self, args: Sequence[bytes]) -> Reply:
        try:
            return self.model.call(args)
        except Refused as refused:
            return refused


def encode(reply: Reply) -> bytes:
    """*reply* in RESP 2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case Status():
            return b"+%s\r\n" % reply.encode()
        case Refused():
            return b"-%s\r\n" % str(reply).encode()
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case _:
            raise TypeError(f"{type(reply).__name__} is not a reply")
