"""The follower against random faults, held to the truth by an oracle that sees every publication.

The feed is a history in memory. Faults are drawn; each is something a feed can do according to its
protocol, or a bug, or the end of the process, after which another begins with what was kept. After
the last fault the follower must arrive at the truth by itself.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.errors import ChangeRefused, FeedUnavailable, SnapshotRefused
from ndoo.feed import keeper as keepers
from ndoo.feed.feed import Batch, HistoryChanged
from ndoo.feed.follower import Follower
from ndoo.feed.keeper import Keeper
from ndoo.feed.state import StateDirectory
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision
from support.people import KEYS, opt_in, opt_out, supersede
from support.places import bitmap
from support.scripted import people_seen

PEOPLE = 12
CALLS_TO_RECOVER_MAX = 40


class Killed(BaseException):
    """The process ends where it is."""


RAISED = {
    "away": FeedUnavailable("The feed is away."),
    "answer lost": FeedUnavailable("The answer was lost."),
    "trimmed": HistoryChanged("Trimmed.", reason="TRIMMED"),
    "refused": SnapshotRefused("Damaged."),
    "bug": RuntimeError("A bug."),
    "killed": Killed(),
}
RECORDED = {
    "change": 1, "answer lost": 1, "burst": 3, "short": 3, "gap": 3, "doubled": 3, "reordered": 3,
    "unreadable": 3,
}  # fmt: skip
FAULTS = [
    *RAISED, *RECORDED, "change", "generation", "snapshot", "killed", "stopped", "none", "none",
    "none",
]  # fmt: skip
fired: Counter[str] = Counter()


@dataclass
class World:
    """The truth: one history after another, and when each change was recorded."""

    rng: random.Random
    now: float = 1000.0
    generation: int = 0
    changes: list[Change] = field(default_factory=list)
    recorded_at: list[float] = field(default_factory=list)
    registers: dict[tuple[str, int], tuple[set[int], bool]] = field(default_factory=dict)
    register: Register = field(init=False)
    snapshot: Snapshot = field(init=False)

    def __post_init__(self) -> None:
        self.start_generation()

    def start_generation(self) -> None:
        self.generation += 1
        self.changes, self.recorded_at = [], []
        people = range(PEOPLE // 2)
        self.snapshot = Snapshot(
            Revision(f"g{self.generation}", 0), "0", "now", bitmap(*people), shrink_accepted=True
        )
        self.register = Register(self.snapshot)
        self._remember()

    def record(self) -> None:
        first, second = self.rng.sample(range(PEOPLE), 2)
        change = self.rng.choice(
            [opt_out(first), opt_out(first), opt_in(first), supersede(first, second),
             Change(Kind.SUSPEND), Change(Kind.RESUME)]
        )  # fmt: skip
        self.changes.append(replace(change, seq=len(self.changes) + 1))
        self.recorded_at.append(self.now)
        self.register.apply(self.changes[-1:])
        self._remember()

    def take_snapshot(self) -> None:
        if len(self.register):
            self.snapshot = replace(
                self.register.snapshot(str(len(self.changes)), "now"), shrink_accepted=True
            )

    def _remember(self) -> None:
        revision = self.register.revision
        people = {KEYS.index(key) for key in self.register.keys().tolist()}
        self.registers[revision.generation, revision.seq] = (people, self.register.suspended)


class FaultyFeed:
    name = "faulty"

    def __init__(self, world: World, faults: list[str]) -> None:
        self.world = world
        self.faults = faults
        self.calls_since = 0
        self.follower: Follower | None = None

    def load(self) -> Snapshot:
        self._fault()
        return self.world.snapshot

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        fault = self._fault()
        world, seq = self.world, revision.seq
        if revision.generation != world.register.revision.generation:
            raise HistoryChanged("Another history.", reason="OTHER_GENERATION")
        assert position == str(seq), "the position is not where the revision was reached"
        changes = world.changes[seq:]
        if fault == "unreadable" and changes:
            raise ChangeRefused(f"Change {seq + 1} cannot be read.")
        if fault == "short" and changes:
            return Batch(tuple(changes[:1]), str(seq + 1), complete=False)
        if fault in {"gap", "doubled", "reordered"} and len(changes) > 1:
            broken = {
                "gap": changes[1:],
                "doubled": [changes[0], *changes],
                "reordered": [changes[1], changes[0], *changes[2:]],
            }[fault]
            return Batch(tuple(broken), str(seq + len(broken)), complete=True)
        return Batch(tuple(changes), str(len(world.changes)), complete=True)

    def close(self) -> None:
        pass

    def _fault(self) -> str:
        world = self.world
        world.now += 1
        if not self.faults:
            self.calls_since += 1
            if self.is_over:
                self.follower.stop()
            return "none"
        fault = self.faults.pop()
        fired[fault] += 1
        for _ in range(RECORDED.get(fault, 0)):
            world.record()
        if fault == "snapshot":
            world.take_snapshot()
        if fault == "generation":
            world.start_generation()
        if fault == "stopped":
            self.follower.stop()
            raise FeedUnavailable("The feed is closed.")
        if fault in RAISED:
            raise RAISED[fault]
        return fault

    @property
    def is_over(self) -> bool:
        return self.calls_since > CALLS_TO_RECOVER_MAX


class Oracle:
    """Looks at every state that is published."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.last: State | None = None

    def __call__(self, state: State) -> None:
        if state.view is None:
            assert state.phase is not Phase.LIVE
            return
        revision = state.view.revision
        people, suspended = self.world.registers[revision.generation, revision.seq]
        assert people_seen(state) == people, "a view differs from the register at its revision"
        assert state.suspended or not suspended, "a suspension was lost"
        assert state.as_of < self.world.now, "as_of lies after the answer"
        if revision.generation == self.world.register.revision.generation:
            known = sum(moment <= state.as_of for moment in self.world.recorded_at)
            assert revision.seq >= known, "as_of claims changes that the view lacks"
        if self.last is not None and self.last.view is not None:
            assert state.as_of >= self.last.as_of, "as_of went back"
            before = self.last.view.revision
            assert before.generation != revision.generation or before.seq <= revision.seq
        self.last = state


class Quiet:
    def on_state_kept(self, as_of: float) -> None: ...
    def on_state_refused(self, reason: str) -> None: ...


def live_once(world: World, feed: FaultyFeed, path: Path, seed: int) -> State:
    """Follow until the process ends, and return what it came to."""
    replica, oracle = Replica(1e9), Oracle(world)
    broken: list[AssertionError] = []

    def judge(state: State) -> None:
        try:
            oracle(state)
        except AssertionError as error:
            broken.append(error)
        fired["answered from what was kept"] += state.view is not None and "LIVE" not in phases
        phases.add(state.phase.name)

    phases: set[str] = set()
    rng = random.Random(seed)
    directory = StateDirectory(path, "faulty")
    keeper = Keeper(directory, clock=lambda: world.now, observer=Quiet())
    replica.listen(judge)
    feed.follower = Follower(
        feed,
        replica,
        clock=lambda: world.now,
        pause=lambda _: keeper.write() if rng.random() < 0.5 else None,
        rng=rng,
        keeper=keeper,
    )
    try:
        feed.follower.run()
        keeper.write()
    except Killed:
        pass
    directory.close()
    if broken:
        raise broken[0]
    return replica.state


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(FAULTS), min_size=20, max_size=40))
def check(seed: int, faults: list[str]) -> None:
    world = World(random.Random(seed))
    feed = FaultyFeed(world, list(faults))
    with tempfile.TemporaryDirectory() as path:
        while not feed.is_over:
            state = live_once(world, feed, Path(path), seed)
    assert state.phase is Phase.LIVE, "the follower did not recover"
    assert state.view.revision == world.register.revision
    assert (
        people_seen(state)
        == world.registers[state.view.revision.generation, state.view.revision.seq][0]
    )
    assert state.suspended == world.register.suspended


def test_no_schedule_of_faults_leads_to_a_wrong_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "KEEP_S", 20.0)
    monkeypatch.setattr("os.fsync", lambda _: None)  # the machine itself does not fail here
    fired.clear()
    check()
    assert set(fired) == {*FAULTS, "answered from what was kept"}, "a kind of fault never struck"
    assert fired["answered from what was kept"] > 20
