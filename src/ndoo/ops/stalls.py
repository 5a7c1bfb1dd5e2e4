"""Notices when the event loop stands still, and where.

Nothing that the loop itself runs could tell: a thread asks it for a sign of life, and, when that
does not come, looks at what the loop is doing instead.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from ndoo.ops.logs import log_event

LOOK_S = 1.0
LIMIT_S = 0.5
"""The loop answers in well under a millisecond, beside bulk in some; a call waits as long as it."""

_FRAMES_MAX = 8


class StallObserver(Protocol):
    """Who counts stalls. Must not block."""

    def on_loop_lag(self, seconds: float) -> None:
        """The loop was so late."""

    def on_loop_stall(self) -> None:
        """The loop is later than the limit."""


class StallWatch:
    """Watches *loop*, which runs in the thread *ident*; `run` it in another. *clock* gives seconds
    that never go back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ident: int,
        observer: StallObserver,
        *,
        look_s: float = LOOK_S,
        limit_s: float = LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._ident = ident
        self._observer = observer
        self._look_s = look_s
        self._limit_s = limit_s
        self._clock = clock
        self._closed = threading.Event()

    def run(self) -> None:
        """Watch until closed, or until the loop is."""
        with suppress(RuntimeError):  # of a loop that is closed
            while not self._closed.wait(self._look_s):
                self._look()

    def close(self) -> None:
        """End `run` soon. On the loop, or once that has ended."""
        self._closed.set()

    def _look(self) -> None:
        alive = threading.Event()
        asked_at = self._clock()
        self._loop.call_soon_threadsafe(alive.set)
        stalled = not alive.wait(self._limit_s)
        if stalled:
            self._observer.on_loop_stall()
            log_event("warning", "loop_stalled", where=self._where())
            while not (alive.wait(self._look_s) or self._closed.is_set()):
                self._observer.on_loop_lag(self._clock() - asked_at)  # one that never ends shows
        lag_s = self._clock() - asked_at
        self._observer.on_loop_lag(lag_s)
        if stalled:
            log_event("info", "loop_runs_again", seconds=round(lag_s, 3))

    def _where(self) -> str:
        """The functions that the loop is in, the innermost first: names, and nothing of theirs."""
        frame: FrameType | None = sys._current_frames().get(self._ident)  # noqa: SLF001
        names: list[str] = []
        while frame is not None and len(names) < _FRAMES_MAX:
            names.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            frame = frame.f_back
        return " < ".join(names)


@contextmanager
def watching_for_stalls(observer: StallObserver) -> Iterator[None]:
    """Watch the running event loop until the block ends."""
    watch = StallWatch(asyncio.get_running_loop(), threading.get_ident(), observer)
    thread = threading.Thread(target=watch.run, name="stalls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.close()  # not waited for: it waits for this very loop
