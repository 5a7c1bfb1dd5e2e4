"""The network between redis-py and the model of a server: sockets that carry bytes in scripted
time.

Everything above the socket is the real client: its pool, its parser, its pipelines and scripts.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import hiredis
import redis

from simulator.redis_model import RedisModel, Session, Status, encode
from simulator.schedule import Actor, Killed, Schedule

Request = Sequence[bytes]
Fired = Callable[[str], None]
LATENCY_S = (0.0002, 0.003)
SLOW_S = (3.0, 9.0)


class Link:
    """One process's way to the server. *armed* are the faults that strike the next thing they fit;
    then *fired* is told.
    """

    def __init__(self, fired: Fired) -> None:
        self.armed: set[str] = set()
        self.slow = False
        self.after_snapshot = False
        self._fired = fired

    def strikes(self, fault: str) -> bool:
        if fault not in self.armed:
            return False
        self.armed.discard(fault)
        self._fired(fault)
        return True


class Server:
    """The server as it is reached: up or down, with whoever is connected."""

    def __init__(self, schedule: Schedule, rng: random.Random, model: RedisModel) -> None:
        self.schedule = schedule
        self.rng = rng
        self.model = model
        self.up = True
        self.over = False  # what is left of killed processes may still be tidied up
        self.on_write: Callable[[], None] = lambda: None
        self.on_snapshot_read: Callable[[], None] = lambda: None
        self.links: dict[Actor, Link] = {}
        self._wires: list[Wire] = []

    def connect(self, timeout_s: float) -> Wire:
        actor = self.schedule.current
        if not (self.over or actor.killed):
            self.schedule.sleep(self.rng.uniform(*LATENCY_S))
        if self.over or actor.killed or not self.up:
            raise ConnectionRefusedError(111, "refused")
        wire = Wire(self, self.links[actor], actor, timeout_s)
        self._wires.append(wire)
        return wire

    def execute(self, session: Session, request: Request) -> object:
        writes = self.model.writes
        if _loads([request]):
            self.on_snapshot_read()
        reply = session.call(request)
        if self.model.writes != writes:
            self.on_write()
            for wire in self._wires:
                wire.look_again()
        return reply

    def execute_unobserved(self, request: Request) -> object:
        """What is done to the server by whoever tells of it himself."""
        reply = self.model.call(request)
        for wire in list(self._wires):
            wire.look_again()
        return reply

    def drop_all(self) -> None:
        """Cut every connection, as a server that goes down does."""
        for wire in self._wires:
            wire.cut()
        self._wires.clear()

    def forget(self, wire: Wire) -> None:
        if wire in self._wires:
            self._wires.remove(wire)


class Wire:
    """A connected socket, as redis-py uses one."""

    def __init__(self, server: Server, link: Link, actor: Actor, timeout_s: float) -> None:
        self._server = server
        self._schedule = server.schedule
        self._link = link
        self._actor = actor
        self._timeout_s: float | None = timeout_s
        self._session = Session(server.model)
        self._requests = hiredis.Reader()
        self._inbox = bytearray()
        self._open = True
        self._arrival = 0.0  # of the last request: none overtakes another
        self._blocked: Request | None = None

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        if self._schedule.current.killed:
            raise Killed
        if not self._open:
            raise ConnectionResetError(104, "reset")
        self._requests.feed(bytes(data))
        requests = []
        while (request := self._requests.gets()) is not False:
            requests.append(request)
        if _is_greeting(requests):
            self._inbox += b"".join(encode(Status("OK")) for _ in requests)
            return
        if _writes(requests) and self._link.strikes("writer killed between steps"):
            self._schedule.current.killed = True
            if self._server.rng.random() < 0.5:
                raise Killed
        if self._cut_before(requests):
            self.cut()
            raise ConnectionResetError(104, "reset")
        latency = SLOW_S if self._link.slow else LATENCY_S
        now = self._schedule.now
        self._arrival = max(self._arrival, now + self._server.rng.uniform(*latency))
        self._schedule.later(self._arrival - now, lambda: self._arrive(requests))

    def _cut_before(self, requests: Sequence[Request]) -> bool:
        link = self._link
        if link.after_snapshot and _reads(requests, b":changes"):
            link.after_snapshot = False
            return link.strikes("disconnect between snapshot and tail")
        if _loads(requests):
            link.after_snapshot = True
        return False

    def _arrive(self, requests: Sequence[Request]) -> None:
        if not self._open or not self._server.up:
            return
        reply = b""
        for request in requests:
            block_s = _block_s(request)
            answer = self._server.execute(self._session, request)
            if answer is None and block_s is not None:
                self._blocked = request
                self._schedule.later(block_s, functools.partial(self._give_up, request))
                return
            reply += encode(answer)
        self._answer(requests, reply)

    def look_again(self) -> None:
        """Something was written: whoever waits for it may have it now."""
        request = self._blocked
        if request is None:
            return
        answer = self._session.call(request)
        if answer is not None:
            self._blocked = None
            self._deliver_later(encode(answer))

    def _give_up(self, request: Request) -> None:
        if self._blocked is request and self._open:
            self._blocked = None
            self._deliver_later(b"*-1\r\n")

    def _answer(self, requests: Sequence[Request], reply: bytes) -> None:
        fault = ""
        if _loads(requests):
            fault = "disconnect inside the snapshot"
        elif _reads(requests, b":changes"):
            fault = "disconnect in the tail"
        elif _writes(requests):
            fault = "answer to a writer lost"
        if fault and self._link.strikes(fault):
            self._inbox += reply[: len(reply) // 2]
            self._schedule.later(self._server.rng.uniform(*LATENCY_S), self.cut)
            return
        self._deliver_later(reply)

    def _deliver_later(self, reply: bytes) -> None:
        self._schedule.later(self._server.rng.uniform(*LATENCY_S), lambda: self._deliver(reply))

    def _deliver(self, reply: bytes) -> None:
        if self._open:
            self._inbox += reply
            self._schedule.wake(self._actor)

    def recv_into(self, buffer: bytearray) -> int:
        if self._schedule.current.killed:
            raise Killed
        if self._open and not self._inbox:
            deadline = self._schedule.now + (self._timeout_s or 60.0)
            while self._open and not self._inbox and self._schedule.now < deadline:
                self._schedule.sleep(deadline - self._schedule.now)
        if not self._inbox and self._open:
            raise TimeoutError("timed out")
        size = min(len(self._inbox), len(buffer))
        buffer[:size] = self._inbox[:size]
        del self._inbox[:size]
        return size

    @property
    def readable(self) -> bool:
        """Whether there is something to read, which of a connection at rest may be its end."""
        return bool(self._inbox) or not self._open

    def cut(self) -> None:
        """End the connection. What has arrived can still be read."""
        self._open = False
        self._blocked = None
        self._schedule.wake(self._actor)

    def shutdown(self, _: int) -> None:
        self._open = False

    def close(self) -> None:
        self._open = False
        self._server.forget(self)


def _is_greeting(requests: Sequence[Request]) -> bool:
    return all(request[0] in {b"CLIENT", b"SELECT"} for request in requests)


def _reads(requests: Sequence[Request], key: bytes) -> bool:
    reading = {b"HMGET", b"XRANGE"}
    return any(each[0] in reading and each[1].endswith(key) for each in requests)


def _loads(requests: Sequence[Request]) -> bool:
    """Not a look at the changes, which asks only when the snapshot was made."""
    return any(_reads([each], b":snapshot") and b"register" in each for each in requests)


def _writes(requests: Sequence[Request]) -> bool:
    return any(each[0] in {b"EVALSHA", b"EVAL", b"HSET"} for each in requests)


def _block_s(request: Request) -> float | None:
    words = [bytes(word).upper() for word in request]
    if words[0] != b"XREAD" or b"BLOCK" not in words:
        return None
    return int(words[words.index(b"BLOCK") + 1]) / 1000


@contextlib.contextmanager
def wired(server: Server) -> Iterator[None]:
    """Every connection of redis-py is a `Wire` to *server* while in here."""

    def connect(connection: redis.Connection) -> Wire:
        return server.connect(connection.socket_timeout)

    def can_read(connection: redis.Connection, timeout: float = 0) -> bool:
        if connection._sock is not None and connection._sock.readable:
            raise redis.ConnectionError("the connection has ended")
        return False

    with (
        mock.patch.object(redis.Connection, "_connect", connect),
        mock.patch.object(redis.Connection, "can_read", can_read),
    ):
        yield
