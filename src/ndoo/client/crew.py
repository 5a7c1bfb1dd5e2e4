"""Threads that work for a caller whom Ctrl-C may strike at any step.

KeyboardInterrupt is raised in the main thread between any two steps of Python. Condition, Event,
Future and Thread.start, and with them executors and gRPC, take their locks in Python: struck right
after it, they keep them, and whoever comes next waits for ever. A Lock and a SimpleQueue are one
step. So the caller puts work into a queue and takes what came of it from another, and everything
else is done by threads, which no signal reaches.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

A = TypeVar("A")
T = TypeVar("T")


def aside(work: Callable[[], object]) -> None:
    """Have a thread do *work*, and do not wait, not even for its start.

    It is not waited for at the interpreter's end either; and when that has begun, it does nothing.
    """
    _thread.start_new_thread(work, ())


def done_aside(work: Callable[[], T]) -> T:
    """What comes of *work* in a thread of its own. Raises what it raises."""
    outcome: Outcome[T] = Outcome()
    aside(partial(outcome.settle, work))
    return outcome.result()


def each_aside(work: Callable[[A], T], values: Iterable[A], *, threads: int) -> list[T]:
    """What comes of *work* on each of *values*, in order. Raises the first error, and then does not
    wait for what still runs.
    """
    crew = Crew(threads)
    try:
        outcomes = [crew.begin(partial(work, value)) for value in values]
        return [outcome.result() for outcome in outcomes]
    finally:
        crew.dismiss()


def is_main_thread() -> bool:
    """Whether the caller may be struck."""
    return threading.get_ident() == threading.main_thread().ident


class Outcome(Generic[T]):
    """What comes of a piece of work."""

    def __init__(self) -> None:
        self._came: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def settle(self, work: Callable[[], T]) -> None:
        """Do *work*. Raises nothing."""
        try:
            self._came.put((work(), None))
        except BaseException as error:  # noqa: BLE001  (it is for whoever takes the result)
            self._came.put((None, error))

    def result(self, timeout_s: float | None = None) -> T:
        """Wait, and take it, which can be done once. Raises what the work raised; queue.Empty if it
        takes longer than *timeout_s*.
        """
        value, error = self._came.get(timeout=timeout_s)
        if error is None:
            return cast("T", value)
        try:
            raise error
        finally:
            del error  # or it would hold this frame, and this frame it


class Crew:
    """Up to *size* threads, begun as they are needed, until they are dismissed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads = 0
        self._is_dismissed = False
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._left: SimpleQueue[None] = SimpleQueue()

    def begin(self, work: Callable[[], T]) -> Outcome[T]:
        """Have *work* done when its turn comes."""
        outcome: Outcome[T] = Outcome()
        self._tasks.put(partial(outcome.settle, work))
        if self._threads < self._size:
            aside(self._work)
            self._threads += 1  # not before: one that never began would be waited for
        return outcome

    def dismiss(self) -> None:
        """Let nothing more begin. What has not begun never comes to a result."""
        self._is_dismissed = True
        self._tasks.put(None)

    def wait(self) -> None:
        """Wait, after `dismiss`, until what has begun is done."""
        while self._threads and not sys.is_finalizing():  # then no thread runs any more
            self._left.get()
            self._threads -= 1

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._is_dismissed:
                task()
            del task  # and what it holds, before the next one comes
        self._tasks.put(None)  # for the others
        self._left.put(None)
