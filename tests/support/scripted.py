"""A follower over a feed that does what a script says, in one thread and without a clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from ndoo.errors import FeedUnavailable
from ndoo.feed.feed import Batch
from ndoo.feed.follower import Follower
from ndoo.feed.keeper import Keeper
from ndoo.register.changes import Change, Kind
from ndoo.register.replica import Replica, State
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision
from support.people import KEYS
from support.places import bitmap

LOADED_AT = "0"
Step = Exception | Snapshot | Batch | Callable[[], object]


def snapshot(*people: int, generation: str = "g", seq: int = 0, **fields: object) -> Snapshot:
    return Snapshot(Revision(generation, seq), str(seq), "now", bitmap(*people), **fields)


def batch(*changes: Change, after: int, complete: bool = True) -> Batch:
    """*changes* as those that follow the one numbered *after*."""
    numbered = tuple(replace(change, seq=seq) for seq, change in enumerate(changes, after + 1))
    return Batch(numbered, str(after + len(changes)), complete)


class Clock:
    """Moves on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Observer:
    def __init__(self) -> None:
        self.connected: list[bool] = []
        self.resyncs: list[str] = []
        self.refused: list[str] = []
        self.changes: dict[Kind, int] = {}
        self.published: list[float] = []
        self.behind: list[int] = []
        self.snapshots: list[float] = []
        self.recorded_at = 0.0

    def on_connected(self, connected: bool) -> None:
        if self.connected[-1:] != [connected]:
            self.connected.append(connected)

    def on_resync(self, reason: str) -> None:
        self.resyncs.append(reason)

    def on_refused(self, reason: str) -> None:
        self.refused.append(reason)

    def on_changes(self, counts: Mapping[Kind, int], recorded_at: float) -> None:
        self.recorded_at = recorded_at
        for kind, count in counts.items():
            self.changes[kind] = self.changes.get(kind, 0) + count

    def on_behind(self, changes: int) -> None:
        self.behind.append(changes)

    def on_snapshot(self, made_at: float) -> None:
        self.snapshots.append(made_at)

    def on_published(self, seconds: float) -> None:
        self.published.append(seconds)


class ScriptedFeed:
    """Answers each call with the next step: raises, calls or returns it. Stops at the end."""

    name = "scripted"

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self.calls: list[tuple[object, ...]] = []
        self.stop: Callable[[], None] = lambda: None

    def load(self) -> object:
        self.calls.append(("load",))
        return self._next()

    def read(self, revision: Revision, position: str, wait_s: float) -> object:
        self.calls.append(("read", revision.seq, position))
        return self._next()

    def close(self) -> None:
        self.calls.append(("close",))

    def _next(self) -> object:
        if not self._steps:
            self.stop()
            raise FeedUnavailable("The script is over.")
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step


class Run:
    """What a follower made of a script. *states* are those it published, in order."""

    def __init__(
        self,
        *steps: Step,
        clock: Callable[[], float] | None = None,
        keeper: Keeper | None = None,
        history_s: float = 3600.0,
    ) -> None:
        self.feed = ScriptedFeed(list(steps))
        self.clock = clock or Clock()
        self.replica = Replica(1e9)
        self.states: list[State] = []
        self.replica.listen(self.states.append)
        self.observer = Observer()
        self.pauses: list[float] = []
        self.follower = Follower(
            self.feed,
            self.replica,
            clock=self.clock,
            observer=self.observer,
            pause=self.pauses.append,
            rng=random.Random(1),
            keeper=keeper,
            history_s=history_s,
        )
        self.feed.stop = self.follower.stop

    def to_end(self) -> Run:
        self.follower.run()
        return self

    @property
    def state(self) -> State:
        return self.replica.state

    @property
    def people(self) -> set[int]:
        return people_seen(self.state)


def people_seen(state: State) -> set[int]:
    """Who of the first hundred is opted out in the view of *state*."""
    return {person for person in range(100) if not state.view._may_clear(KEYS[person])}
