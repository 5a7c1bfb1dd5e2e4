"""The replicas of a simulated world, and what a run of it comes to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ndoo.feed.follower import Follower
from ndoo.feed.keeper import Keeper
from ndoo.feed.observer import Unobserved
from ndoo.feed.state import Kept, StateDirectory
from ndoo.feed.url import open_feed
from ndoo.register.replica import Phase, Replica
from ndoo.revision import Revision
from simulator.clocks import Clock
from simulator.network import Link
from simulator.oracle import AGE_S_MAX, Oracle
from simulator.schedule import Actor, Event

if TYPE_CHECKING:
    from simulator.world import World


@dataclass
class Outcome:
    """What a run came to. *wrong* and *failures* are to be empty."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    resyncs: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    simulated_s: float = 0.0


class Observer(Unobserved):
    """Counts what followers tell."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def on_resync(self, reason: str) -> None:
        self._outcome.resyncs[reason] += 1

    def on_refused(self, reason: str) -> None:
        self._outcome.resyncs[reason] += 1

    def on_state_kept(self, as_of: float) -> None:
        self._outcome.counts["states kept"] += 1

    def on_state_refused(self, reason: str) -> None:
        self._outcome.resyncs[reason] += 1


@dataclass
class Follow:
    """One replica's process, which can die and be started again."""

    world: World
    name: str
    clock: Clock
    link: Link
    oracle: Oracle
    state: Path | None
    """The directory that survives the process, if it has one."""

    replica: Replica = field(init=False)
    follower: Follower = field(init=False)
    keeper: Keeper | None = field(default=None, init=False)
    _directory: StateDirectory | None = field(default=None, init=False)
    _actors: list[Actor] = field(default_factory=list, init=False)

    def start(self) -> None:
        world = self.world
        self.oracle.forget()
        self.replica = Replica(AGE_S_MAX)
        self.replica.listen(self.oracle.on_state)
        feed = open_feed(world.storage.url)
        feed._closed = Event(world.schedule)
        self._start_keeper(feed.name)
        self.follower = Follower(
            feed,
            self.replica,
            clock=self.clock,
            observer=Observer(world.outcome),
            pause=world.schedule.sleep,
            rng=random.Random(world.rng.random()),
            keeper=self.keeper,
        )
        self._live(self.follower.run)

    def _start_keeper(self, feed: str) -> None:
        if self.state is None:
            return
        self._directory = StateDirectory(self.state, feed)
        self.keeper = Keeper(
            self._directory, clock=self.clock, observer=Observer(self.world.outcome)
        )
        self.keeper._closed = Event(self.world.schedule)
        self.keeper._wake = Event(self.world.schedule)
        restore = self.keeper.restore

        def restored() -> Kept | None:
            kept = restore()
            if kept is not None:
                self.world.outcome.counts["states restored"] += 1
                self.oracle.remember(kept.confirmed.reached.revision)
            return kept

        self.keeper.restore = restored
        self._live(self.keeper.run)

    def _live(self, body: Callable[[], None]) -> None:
        self._actors.append(self.world.start(self.name, self.link, body))

    def help_if_current(self, body: Callable[[], None]) -> None:
        """Start *body* as a thread of this process, if it is the one whose turn it is."""
        if self.world.schedule.current in self._actors:
            self._live(body)

    def restart(self) -> None:
        """Die in the middle of whatever it is, and begin anew with what it kept."""
        for actor in self._actors:
            self.world.schedule.kill(actor)
        self._actors.clear()
        if self._directory is not None:
            self._directory.close()
        self.start()

    @property
    def is_right(self) -> bool:
        """LIVE at what storage holds."""
        state, tip = self.replica.state, self.world.truth.tip
        if state.phase is not Phase.LIVE or state.view is None or tip is None:
            return False
        return state.view.revision == Revision(tip.generation, tip.seq)

    @property
    def can_mend_itself(self) -> bool:
        """Whether what it knows is still a part of what storage holds."""
        tip, known = self.world.truth.tip, self.oracle.known
        if tip is None or self.world.storage.damaged:
            return False
        return not known or any(tip.includes(node) for node in known)
