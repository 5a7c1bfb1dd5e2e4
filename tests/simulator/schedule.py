"""Scripted time: many actors, one of which runs at a time, in an order that a seed decides.

An actor is a thread, so that real code with real loops can be one. It runs until it sleeps, which
everything that takes time does in this world; then whoever is to wake first goes on, and the clock
stands at that moment. Nothing waits for real.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock

EPOCH_S = 1_800_000_000.0
"""The Unix time at which each simulation begins."""


class Killed(BaseException):
    """Raised in an actor in place of going on: its process was killed there. Nothing that it does
    on its way out may reach the world.
    """


class Actor:
    """Somebody with a course of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.done = False
        self.turn = threading.Lock()  # held while it is somebody else's
        self.turn.acquire()
        self.ticket = 0  # of its one valid place in the queue


class Event:
    """A `threading.Event` in scripted time, for one who waits."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_set = False
        self._waiting: Actor | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._waiting is not None:
            self._schedule.wake(self._waiting)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, seconds: float) -> bool:
        if not self._is_set:
            self._waiting = self._schedule.current
            self._schedule.sleep(seconds)
            self._waiting = None
        return self._is_set


class Answer:
    """What a helper finds out, as a `Future`."""

    def __init__(self, schedule: Schedule, question: Callable[[], object]) -> None:
        self._question = question
        self._done = Event(schedule)
        self._result: object = None
        self._error: Exception | None = None

    def find(self) -> None:
        try:
            self._result = self._question()
        except Exception as error:  # noqa: BLE001  (raised where it is asked for)
            self._error = error
        self._done.set()

    def done_within(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def result(self) -> object:
        while not self._done.is_set():
            self._done.wait(3600.0)
        if self._error is not None:
            raise self._error
        return self._result


class Helpers:
    """What the follower uses of `concurrent.futures`, in scripted time. *start* starts an actor."""

    def __init__(self, schedule: Schedule, start: Callable[[Callable[[], None]], None]) -> None:
        self._schedule = schedule
        self._start = start

    @contextlib.contextmanager
    def ThreadPoolExecutor(self, _workers: int, _name: str) -> Iterator[Helpers]:  # noqa: N802
        yield self

    def submit(self, question: Callable[[], object]) -> Answer:
        answer = Answer(self._schedule, question)
        self._start(answer.find)
        return answer

    def wait(self, answers: set[Answer], seconds: float) -> SimpleNamespace:
        return SimpleNamespace(done={each for each in answers if each.done_within(seconds)})


class Schedule:
    """The queue of who goes on when. The thread that made it is an actor too."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.failures: list[BaseException] = []  # what no actor may raise
        self.current = self._main = Actor("main")
        self._nobody = Actor("nobody")
        self._rng = rng
        self._queue: list[tuple[float, float, int, Actor | Callable[[], None]]] = []
        self._actors: list[Actor] = []
        self._maker = threading.current_thread()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, body: Callable[[], None]) -> Actor:
        actor = Actor(name)
        thread = threading.Thread(target=self._live, args=(actor, body), daemon=True)
        self._actors.append(actor)
        self._threads.append(thread)
        self._enqueue(0.0, actor)
        thread.start()
        return actor

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Time and chance are this schedule's while in here."""
        with (
            mock.patch.object(time, "monotonic", lambda: self.now),  # noqa: PT008  (it moves)
            mock.patch.object(time, "time", lambda: EPOCH_S + self.now),  # noqa: PT008
            mock.patch.object(time, "sleep", functools.partial(self._sleep_of, time.sleep)),
            mock.patch.object(uuid, "uuid4", self._uuid),
        ):
            yield

    def _sleep_of(self, real: Callable[[float], None], seconds: float) -> None:
        """A thread that is no actor, left by something else in this process, sleeps as ever."""
        me = threading.current_thread()
        (self.sleep if me is self._maker or me in self._threads else real)(seconds)

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._rng.getrandbits(128))

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have *call* made in *seconds*, between the actors' turns; it must not sleep."""
        self._push(seconds, 0, call)

    @property
    def is_between(self) -> bool:
        """Whether what happens now is nobody's turn, or of whoever injects the faults."""
        return self.current is self._nobody or self.current is self._main

    def sleep(self, seconds: float) -> None:
        """Let the others go on for *seconds*, or until woken. Raises Killed."""
        me = self.current
        if not me.killed:
            self._enqueue(seconds, me)
            self._hand_over(me)
        if me.killed:
            raise Killed

    def wake(self, actor: Actor, after: float = 0.0) -> None:
        """Have *actor* wake in *after* seconds, whatever it waits for."""
        if actor is not self.current and not actor.done:
            self._enqueue(after, actor)

    def kill(self, actor: Actor) -> None:
        actor.killed = True
        self.wake(actor)

    def end(self) -> None:
        """Kill everybody, and wait until they are gone."""
        for actor in self._actors:
            self.kill(actor)
        while not all(actor.done for actor in self._actors):
            self.sleep(0.0)
        for thread in self._threads:
            thread.join()

    def _live(self, actor: Actor, body: Callable[[], None]) -> None:
        actor.turn.acquire()
        try:
            if not actor.killed:
                body()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  (judged at the end of the run)
            self.failures.append(error)
        actor.done = True
        self._hand_over(actor)

    def _hand_over(self, me: Actor) -> None:
        """Let whoever is next go on; return when that is *me*, or at once if *me* is done."""
        self.current = self._nobody  # what is called in between wakes *me* like any other
        self.current = following = self._next()
        if following is not me:
            following.turn.release()
            if not me.done:
                me.turn.acquire()

    def _next(self) -> Actor:
        while True:
            moment, _, ticket, who = heapq.heappop(self._queue)
            if isinstance(who, Actor):
                if ticket == who.ticket and not who.done:
                    self.now = max(self.now, moment)
                    return who
            else:
                self.now = max(self.now, moment)
                self._call(who)

    def _call(self, who: Callable[[], None]) -> None:
        try:
            who()
        except Exception as error:  # noqa: BLE001  (judged at the end of the run)
            self.failures.append(error)

    def _enqueue(self, seconds: float, actor: Actor) -> None:
        actor.ticket += 1
        self._push(seconds, actor.ticket, actor)

    def _push(self, seconds: float, ticket: int, who: Actor | Callable[[], None]) -> None:
        entry = (self.now + max(0.0, seconds), self._rng.random(), ticket, who)
        heapq.heappush(self._queue, entry)
