"""One piece of work: questions asked until they are answered, all at one revision, or not at all.

A question goes to the replica whose turn it is, and again, after a pause, where `tries` says so. A
replica that does not hold the demanded revision is passed over as long as there is another, be it
behind the same name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

import grpc

from ndoo.client.answers import Revision
from ndoo.client.channel import reach
from ndoo.client.connections import Connection, Connections
from ndoo.client.errors import CallFailed, ClientClosed
from ndoo.client.tries import LOST_REASONS, TURN_PAUSE_S, Tries, turns_of

T = TypeVar("T")
Question = Callable[[grpc.Channel, float | None], T]
"""What is asked over a channel, within some seconds."""


class Stop:
    """Ends work from any thread: pauses at once, and calls by closing their connections."""

    def __init__(self, connections: Connections[grpc.Channel]) -> None:
        self._connections = connections
        self._is_stopped = False
        self._pausing: set[SimpleQueue[None]] = set()
        self._in_use: set[Connection[grpc.Channel]] = set()
        self._children: set[Stop] = set()
        # What Ctrl-C left half entered is left whenever it is collected, be it in this very lock.
        self._lock = threading.RLock()

    def stop(self) -> None:
        """End everything under this. Does not wait."""
        with self._lock:
            self._is_stopped = True
            in_use, children = list(self._in_use), list(self._children)
            for pausing in self._pausing:
                pausing.put(None)
            for connection in in_use:
                connection.is_closed = True  # before it is given back, for nobody else to take
        for connection in in_use:
            self._connections.drop(connection)
        for child in children:
            child.stop()

    def pause(self, seconds: float) -> None:
        """Wait. Raises ClientClosed as soon as all is to end."""
        with self._having(self._pausing, SimpleQueue()) as told, contextlib.suppress(Empty):
            told.get(timeout=seconds)
            raise ClientClosed

    @contextlib.contextmanager
    def child(self) -> Iterator[Stop]:
        """What ends a part of the work, and is ended with the whole. Raises ClientClosed."""
        with self._having(self._children, Stop(self._connections)) as child:
            yield child

    @contextlib.contextmanager
    def using(self, connection: Connection[grpc.Channel]) -> Iterator[None]:
        """The block uses *connection* alone, which may be closed meanwhile. Raises ClientClosed."""
        with self._having(self._in_use, connection):
            yield

    @contextlib.contextmanager
    def _having(self, members: set[T], member: T) -> Iterator[T]:
        with self._lock:
            if self._is_stopped:
                raise ClientClosed
            members.add(member)
        try:
            yield member
        finally:
            with self._lock:
                members.discard(member)


@dataclass(slots=True)
class Job:
    """*question_s* is what one question may take, with all its tries; *whole* bounds them all."""

    connections: Connections[grpc.Channel]
    stop: Stop
    question_s: float
    whole: Tries
    at_least_as_fresh: str = ""
    exactly_at: str = ""
    is_shared: bool = False
    _refusing: set[str] = field(default_factory=set)

    def fix_revision(self) -> None:
        """From here on everything is asked at one revision: the newest, if none was demanded."""
        if not self.exactly_at:
            self.exactly_at, self.at_least_as_fresh = self.reach().token, ""

    def reach(self) -> Revision:
        """The revision that is demanded or, if none is, the newest that is answered from."""
        return self.ask(
            lambda channel, timeout_s: reach(
                channel,
                at_least_as_fresh=self.at_least_as_fresh,
                exactly_at=self.exactly_at,
                timeout_s=timeout_s,
            )
        ).revision

    def ask(self, question: Question[T]) -> T:
        """The answer to *question*. Raises CallFailed, IncompleteAnswer or ClientClosed."""
        tries = Tries(_least(self.question_s, self.whole.remaining_s()))
        while True:
            try:
                return self._try(question, tries)
            except CallFailed as error:
                if error.reason not in LOST_REASONS or self._all_refuse():
                    self.stop.pause(tries.pause_s(error))

    def _try(self, question: Question[T], tries: Tries) -> T:
        with self.connections.lease(is_shared=self.is_shared, avoiding=self._refusing) as leased:
            try:
                if self.is_shared:
                    return self._ask_around(question, leased, tries)
                with self.stop.using(leased):
                    return self._ask_around(question, leased, tries)
            except CallFailed as error:
                if leased.is_closed:
                    raise ClientClosed from None
                if error.reason in LOST_REASONS:
                    self._refusing.add(leased.target)
                raise

    def _ask_around(
        self, question: Question[T], leased: Connection[grpc.Channel], tries: Tries
    ) -> T:
        turns = turns_of(leased.target)
        while True:
            turns -= 1
            try:
                return question(leased.channel, tries.remaining_s())
            except CallFailed as error:
                if error.reason not in LOST_REASONS or not turns or tries.is_over_in(TURN_PAUSE_S):
                    raise
            self.stop.pause(TURN_PAUSE_S)

    def _all_refuse(self) -> bool:
        return self._refusing >= set(self.connections.targets)


def _least(question_s: float, remaining_s: float | None) -> float:
    return question_s if remaining_s is None else min(question_s, remaining_s)
