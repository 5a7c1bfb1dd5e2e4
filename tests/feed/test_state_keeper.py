"""The keeper: what it writes is true, a suspension comes first, a broken disk harms nobody."""

from __future__ import annotations

import collections
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.feed import state as states
from ndoo.feed.keeper import KEEP_S, Keeper
from ndoo.feed.state import CONFIRMED, REGISTER, Kept, Reached, StateDirectory
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from ndoo.register.replica import Phase, State
from ndoo.register.view import View
from support.people import KEYS, opt_in, opt_out
from support.scripted import snapshot

FEED = "dir:feed ndoo"


@dataclass
class Counter:
    kept: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def on_state_kept(self, as_of: float) -> None:
        self.kept.append(as_of)

    def on_state_refused(self, reason: str) -> None:
        self.refused.append(reason)


class Replica:
    """What the follower would do, and nothing else, with a keeper over *path*."""

    def __init__(self, path: Path, now: float = 1000.0) -> None:
        self.path = path
        self.now = now
        self.counter = Counter()
        self.directory = StateDirectory(path, FEED)
        self.keeper = Keeper(self.directory, clock=lambda: self.now, observer=self.counter)
        self.register = Register(snapshot(0, 1, 2))
        self.state = State(Phase.LIVE, None, trouble="")

    def publish(self, *changes: Change, passed: float = 1.0) -> None:
        """Apply *changes*, and confirm that nothing is missing."""
        self.now += passed
        first = self.register.revision.seq + 1
        numbered = [replace(change, seq=seq) for seq, change in enumerate(changes, first)]
        self.register.apply(numbered)
        view = View.of(self.register.keys(), self.register.revision)
        self.put(view=view, as_of=self.now, suspended=self.register.suspended)
        self.keeper.offer(self.register, self.position, self.now)

    def put(self, **fields: object) -> None:
        self.state = replace(self.state, **fields)
        self.keeper.note(self.state, self.reached)

    @property
    def position(self) -> str:
        return str(self.register.revision.seq)

    @property
    def reached(self) -> Reached:
        return Reached(self.register.revision, self.position, len(self.register))

    def again(self) -> Replica:
        """The process ends at once, and another begins."""
        self.directory.close()
        return Replica(self.path, self.now)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path / "state")
    yield made
    made.directory.close()


def kept_by(replica: Replica) -> Kept | None:
    """What a process that begins now finds."""
    other = replica.again()
    kept = other.keeper.restore()
    other.directory.close()
    return kept


def test_the_first_register_is_kept_at_once(replica: Replica) -> None:
    replica.publish(opt_out(5))
    replica.keeper.write()
    kept = kept_by(replica)
    assert kept.snapshot.revision.seq == 1
    assert kept.snapshot.position == "1"
    assert kept.confirmed.as_of == replica.now
    assert kept.confirmed.reached == replica.reached
    assert replica.counter.kept == [replica.now]


def test_what_changes_is_written_once_a_minute(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    first = replica.now
    replica.publish(opt_out(5), passed=KEEP_S - 1)
    replica.keeper.write()
    replica.publish(opt_out(6), passed=0.5)
    replica.keeper.write()
    assert kept_by(replica).snapshot.revision.seq == 0
    assert kept_by(replica).confirmed.as_of == first, "it was complete until the change came"
    assert kept_by(replica).confirmed.reached.revision.seq == 2
    replica.publish(passed=0.5)
    replica.keeper.write()
    assert kept_by(replica).snapshot.revision.seq == 2


def test_an_unchanged_register_is_confirmed_and_not_written(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    before = (replica.path / REGISTER).stat()
    for _ in range(5):
        replica.publish(passed=KEEP_S)
        replica.keeper.write()
        assert kept_by(replica).confirmed.as_of == replica.now
    after = (replica.path / REGISTER).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_generation_is_kept_at_once(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    replica.register = Register(snapshot(7, 8, generation="h"))
    replica.publish(passed=0.1)
    replica.keeper.write()
    assert kept_by(replica).snapshot.revision.generation == "h"


def test_the_last_register_is_kept_whenever_it_came(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    replica.publish(opt_out(5))
    replica.keeper.offer(replica.register, replica.position, replica.now, last=True)
    replica.keeper.write()
    kept = kept_by(replica)
    assert (kept.snapshot.revision.seq, kept.confirmed.as_of) == (1, replica.now)


def test_a_suspension_does_not_wait_for_its_register(replica: Replica) -> None:
    """It can be known before the register that it comes with is whole."""
    replica.publish()
    replica.keeper.write()
    replica.keeper._wake.clear()
    replica.put(suspended=True)
    assert replica.keeper._wake.is_set()
    replica.keeper.write()
    kept = kept_by(replica)
    assert kept.confirmed.suspended
    assert not kept.snapshot.suspended


def test_a_suspension_is_written_before_the_register(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.publish()
    replica.keeper.write()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StateDirectory, "write_register", die)
    replica.publish(Change(Kind.SUSPEND), opt_out(5))
    with pytest.raises(KeyboardInterrupt):
        replica.keeper.write()
    assert kept_by(replica).confirmed.suspended


def test_answers_resumed_are_kept_at_once(replica: Replica) -> None:
    replica.publish(Change(Kind.SUSPEND))
    replica.keeper.write()
    assert kept_by(replica).snapshot.suspended
    replica.publish(Change(Kind.RESUME))
    replica.keeper.write()
    kept = kept_by(replica)
    assert not kept.confirmed.suspended
    assert not kept.snapshot.suspended


def test_a_process_that_knows_nothing_yet_does_not_end_a_suspension(replica: Replica) -> None:
    replica.publish()
    replica.put(suspended=True)
    replica.keeper.write()
    other = replica.again()
    assert other.keeper.restore().confirmed.suspended
    other.put(phase=Phase.CATCHING_UP)
    other.keeper.write()
    assert kept_by(other).confirmed.suspended


def test_a_suspension_that_cannot_be_written_takes_the_state_away(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    full(replica, CONFIRMED)
    replica.put(suspended=True)
    replica.keeper.write()
    assert kept_by(replica) is None
    replica.keeper.write()
    assert kept_by(replica).confirmed.suspended


def test_a_full_disk_is_counted_and_tried_again_in_a_minute(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    replica.publish()
    replica.keeper.write()
    before = kept_by(replica)
    for _ in range(3):
        full(replica, REGISTER)
        replica.publish(opt_out(5), passed=KEEP_S)
        replica.keeper.write()
        replica.publish(passed=1)
        replica.keeper.write()
    assert replica.counter.refused == ["STATE_NOT_WRITTEN"] * 3
    kept = kept_by(replica)
    assert (kept.snapshot, kept.confirmed.as_of) == (before.snapshot, before.confirmed.as_of)
    replica.publish(passed=KEEP_S)
    replica.keeper.write()
    assert kept_by(replica).snapshot.revision.seq == 3
    events = [record.getMessage() for record in caplog.records]
    assert events == ["state_refused", "state_kept_again"] * 3


def test_a_directory_that_was_emptied_is_filled_again(replica: Replica) -> None:
    """Although nothing changes: that a register is there is not claimed for long."""
    replica.publish()
    replica.keeper.write()
    shutil.rmtree(replica.path)
    told = list(replica.counter.kept)
    replica.publish()
    replica.keeper.write()
    assert replica.counter.refused == ["STATE_NOT_WRITTEN"]
    assert replica.counter.kept == told
    replica.publish(passed=KEEP_S)
    replica.keeper.write()
    assert kept_by(replica).confirmed.as_of == replica.now


def full(replica: Replica, name: str) -> None:
    """Have the next write of file *name* find the disk full."""
    (replica.path / f"{name}.tmp").symlink_to("/dev/full")


def test_a_bug_does_not_end_the_keeping(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StateDirectory.write_register
    monkeypatch.setattr(StateDirectory, "write_register", lambda *_: 1 / 0)
    replica.publish()
    replica.keeper.write()
    assert replica.counter.refused == ["STATE_NOT_WRITTEN"]
    monkeypatch.setattr(StateDirectory, "write_register", real)
    replica.publish(passed=KEEP_S)
    replica.keeper.write()
    assert kept_by(replica).snapshot.revision.seq == 0


def test_what_is_refused_is_counted_and_replaced(replica: Replica) -> None:
    replica.publish()
    replica.keeper.write()
    (replica.path / REGISTER).write_bytes(b"")
    other = replica.again()
    assert other.keeper.restore() is None
    assert other.counter.refused == ["STATE_DAMAGED"]
    other.publish(opt_out(5))
    other.keeper.write()
    assert kept_by(other).snapshot.revision.seq == 1


def test_its_thread_writes_what_comes_and_what_comes_last(replica: Replica) -> None:
    thread = threading.Thread(target=replica.keeper.run)
    thread.start()
    replica.publish(opt_out(5))
    replica.keeper.offer(replica.register, replica.position, replica.now, last=True)
    replica.keeper.close()
    replica.keeper.close()
    thread.join(60)
    assert not thread.is_alive()
    assert kept_by(replica).snapshot.revision.seq == 1


STEP = st.tuples(
    st.lists(st.integers(3, 9), max_size=2),
    st.sampled_from([None, None, None, None, Kind.SUSPEND, Kind.RESUME]),
    st.sampled_from([0.5, 3.0, KEEP_S, 3 * KEEP_S]),
    st.sampled_from(["", "write", "write", "write to a full disk", "begin again"]),
)
seen: collections.Counter[str] = collections.Counter()


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(STEP, min_size=5, max_size=40))
def check(steps: list[tuple[list[int], Kind | None, float, str]]) -> None:
    with tempfile.TemporaryDirectory() as path:
        truth = Truth(Replica(Path(path)))
        for people, suspension, passed, then in steps:
            truth.publish(people, suspension, passed)
            truth.go_on(then)
            truth.judge(kept_by(truth.replica))
        truth.replica.directory.close()


class Truth:
    """What was so, and when."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.people: dict[int, set[int]] = {}
        self.confirmed: dict[int, list[float]] = {}
        self.wrote_suspension = False

    def publish(self, people: list[int], suspension: Kind | None, passed: float) -> None:
        register = self.replica.register
        changes = [opt_in(each) if KEYS[each] in register else opt_out(each) for each in people]
        changes += [Change(suspension)] if suspension else []
        self.replica.publish(*changes, passed=passed)
        seq = register.revision.seq
        self.people[seq] = set(register.keys().tolist())
        self.confirmed.setdefault(seq, []).append(self.replica.now)
        self.wrote_suspension &= register.suspended

    def go_on(self, then: str) -> None:
        if then == "begin again":
            before, self.replica = self.replica, self.replica.again()
            self.replica.keeper.restore()
            self.replica.register = before.register
        elif then:
            if "full" in then:
                full(self.replica, REGISTER)
                full(self.replica, CONFIRMED)
            self.replica.keeper.write()
            for left in self.replica.path.glob("*.tmp"):
                left.unlink()
            self.wrote_suspension = self.replica.state.suspended

    def judge(self, kept: Kept | None) -> None:
        if kept is None:
            seen["nothing"] += 1
            return
        seq, as_of = kept.snapshot.revision.seq, kept.confirmed.as_of
        assert set(kept.snapshot.keys) == self.people[seq]
        assert as_of in self.confirmed[seq], "as_of is no moment at which this was confirmed"
        assert kept.confirmed.reached.revision.seq >= seq
        suspended = kept.confirmed.suspended or kept.snapshot.suspended
        assert suspended or not self.wrote_suspension, "a suspension was forgotten"
        seen["older" if seq < self.replica.register.revision.seq else "newest"] += 1
        seen["suspended"] += suspended


def test_whatever_is_kept_was_so_at_its_time() -> None:
    seen.clear()
    check()
    assert min(seen[what] for what in ("nothing", "older", "newest", "suspended")) > 20, seen


@pytest.fixture(autouse=True)
def _fast_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash of the machine would leave is not looked at here."""
    monkeypatch.setattr(states.os, "fsync", lambda _: None)
