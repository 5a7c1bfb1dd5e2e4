"""The register at earlier revisions: made in a thread when first asked for, shared, kept a while.

All tasks of a job name the same revision, so one view serves them all. Each takes the memory of a
whole register, so there are few at once: those that nobody asks for any more are dropped, and while
calls still answer from as many as may be, no other revision is made.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from ndoo.register.history import History, gone
from ndoo.register.replica import State
from ndoo.register.view import View
from ndoo.server.status import Busy

VIEWS_MAX = 4
KEEP_S = 60.0
"""How long a past view is kept that nobody asks for: tasks of a job follow one another closely."""

T = TypeVar("T")
Work = Callable[[], Awaitable[T]]


class Flights(Generic[T]):
    """Work that many may ask for at once, and that is done once."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def do(self, key: Hashable, work: Work[T]) -> T:
        """The result of *work*, or of the work that is under way for *key*. Raises what it raises.

        A caller who goes away does not end it for the others.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key, work))
            flight.add_done_callback(_see)
        return await asyncio.shield(flight)

    async def _fly(self, key: Hashable, work: Work[T]) -> T:
        try:
            return await work()
        finally:
            del self._flights[key]


def _see(flight: asyncio.Task[T]) -> None:
    """Look at what came of *flight*, even if everybody who waited for it has gone."""
    if not flight.cancelled():
        flight.exception()


_Key = tuple[History, int]


class Past:
    """Past views, by history and sequence number. Used on one event loop."""

    def __init__(
        self, executor: Executor, views_max: int = VIEWS_MAX, keep_s: float = KEEP_S
    ) -> None:
        self._executor = executor
        self._flights: Flights[View] = Flights()
        self._views_max = views_max
        self._keep_s = keep_s
        self._living: WeakValueDictionary[_Key, View] = WeakValueDictionary()
        self._kept: OrderedDict[_Key, tuple[View, asyncio.TimerHandle]] = OrderedDict()

    async def state_at(self, seq: int, newest: State) -> State:
        """*newest* as it was at change *seq* of the same generation.

        Raises RevisionGone, or Busy when too many other revisions are in use.
        """
        history = newest.history
        if history is None:
            raise gone()
        as_of = history.as_of(seq)
        key = (history, seq)
        view = self._living.get(key)
        if view is None:
            if key not in self._flights:
                self._make_room()
            view = await self._flights.do(key, lambda: self._make(key, newest.verified))
        self._keep(key, view)
        return replace(newest, view=view, as_of=as_of)

    async def _make(self, key: _Key, newest: View) -> View:
        history, seq = key
        # Handed over in a list and not as a result, which the thread would hold a moment longer.
        made: list[View] = []

        def make() -> None:
            made.append(history.view_at(seq, newest))

        await asyncio.get_running_loop().run_in_executor(self._executor, make)
        view = made.pop()
        self._keep(key, view)
        return view

    def _make_room(self) -> None:
        while self._kept and self._is_full():
            self._drop(next(iter(self._kept)))
        if self._is_full():
            raise Busy(
                f"Calls at {self._views_max} other past revisions are running, as many as may be; "
                "try again soon, or ask for the current revision.",
                reason="TOO_MANY_REVISIONS",
            )

    def _is_full(self) -> bool:
        return len(self._living) + len(self._flights) >= self._views_max

    def _keep(self, key: _Key, view: View) -> None:
        self._drop(key)
        timer = asyncio.get_running_loop().call_later(self._keep_s, self._drop, key)
        self._kept[key] = (view, timer)
        self._living[key] = view

    def _drop(self, key: _Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept[1].cancel()
