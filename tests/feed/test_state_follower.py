"""The follower that begins with a kept register: it goes on where an earlier process ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ndoo.errors import (
    ChangeRefused,
    FeedEmpty,
    FeedUnavailable,
    NotAnswering,
    SequenceBroken,
    SnapshotRefused,
)
from ndoo.feed import follower as followers
from ndoo.feed.feed import HistoryChanged
from ndoo.feed.follower import Follower
from ndoo.feed.keeper import Keeper
from ndoo.feed.state import Confirmation, Reached, StateDirectory
from ndoo.register.changes import Change, Kind
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision
from support.people import opt_in, opt_out
from support.places import Place, bitmap
from support.scripted import Run, Step, batch, people_seen, snapshot

FEED = "dir:feed ndoo"
AS_OF = 900.0
SUSPEND, RESUME = Change(Kind.SUSPEND), Change(Kind.RESUME)
AWAY = FeedUnavailable("The feed is away.")
TRIMMED = HistoryChanged("Changes are gone.", reason="TRIMMED")
BACK = HistoryChanged("The feed went back.", reason="BACKWARDS")
REWRITTEN = HistoryChanged("Rewritten.", reason="REWRITTEN")
OTHER = HistoryChanged("Another.", reason="OTHER_GENERATION")


class Quiet:
    def on_state_kept(self, as_of: float) -> None: ...
    def on_state_refused(self, reason: str) -> None: ...


def keeper_of(path: Path) -> Keeper:
    return Keeper(StateDirectory(path, FEED), clock=lambda: 1000.0, observer=Quiet())


MakeRun = Callable[..., Run]


@pytest.fixture
def run_from(tmp_path: Path) -> Iterator[MakeRun]:
    """Runs that begin with a kept register."""
    keepers: list[Keeper] = []

    def make(
        kept: Snapshot,
        *steps: Step,
        suspended: bool = False,
        reached: Reached | None = None,
        as_of: float = AS_OF,
    ) -> Run:
        keeper = keeper_of(tmp_path)
        keepers.append(keeper)
        reached = reached or Reached(kept.revision, kept.position, len(kept.keys))
        digest = keeper._directory.write_register(kept, as_of)
        keeper._directory.write_confirmation(Confirmation(digest, as_of, suspended, reached))
        return Run(*steps, keeper=keeper)

    yield make
    for keeper in keepers:
        keeper._directory.close()


KEPT = snapshot(0, 1, seq=5)


def answered(run: Run) -> list[State]:
    return [state for state in run.states if state.view is not None]


def test_a_feed_that_is_there_is_gone_on_with(run_from: MakeRun) -> None:
    changes = batch(opt_out(2), opt_in(0), after=5)
    run = run_from(KEPT, changes, changes).to_end()
    assert ("load",) not in run.feed.calls
    assert run.feed.calls[0] == ("read", 5, "5")
    (first, *_) = answered(run)
    assert (first.phase, first.view.revision.seq) == (Phase.LIVE, 7)
    assert first.as_of > 1000
    assert run.people == {1, 2}
    assert run.observer.resyncs == []


def test_a_feed_that_is_away_leaves_the_kept_register_with_its_true_age(run_from: MakeRun) -> None:
    run = run_from(KEPT, AWAY, AWAY, batch(opt_out(2), after=5), batch(after=7)).to_end()
    first = answered(run)[0]
    assert people_seen(first) == {0, 1}
    assert (first.phase, first.as_of, first.trouble) == (Phase.CATCHING_UP, AS_OF, str(AWAY))
    assert run.people == {0, 1, 2}
    assert run.state.as_of > 1000


@pytest.mark.parametrize(
    "trouble",
    [
        FeedEmpty("Empty."),
        SnapshotRefused("Damaged."),
        ChangeRefused("Change 6 cannot be read."),
        ValueError("a bug"),
    ],
)
def test_in_any_trouble_it_answers_as_it_would_have_without_the_restart(
    run_from: MakeRun, trouble: Exception
) -> None:
    run = run_from(KEPT, trouble, AWAY).to_end()
    assert people_seen(answered(run)[0]) == {0, 1}
    assert run.state.as_of == AS_OF
    assert run.state.phase is not Phase.LIVE


def test_it_is_refused_past_the_age_limit(run_from: MakeRun) -> None:
    run = run_from(KEPT, AWAY)
    run.replica._staleness_s_max = 100.0
    run.to_end()
    assert run.replica.answering_state(AS_OF + 100)
    with pytest.raises(NotAnswering):
        run.replica.answering_state(AS_OF + 101)


def test_a_feed_that_is_silent_does_not_hold_the_kept_register_back(
    run_from: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "FIRST_ANSWER_S_MAX", 0.01)
    answering = threading.Event()

    def silent() -> object:
        assert answering.wait(60), "it waits for the feed"
        return batch(opt_out(2), after=5)

    run = run_from(KEPT, silent, batch(opt_out(2), after=5))
    run.replica.listen(lambda state: answering.set() if state.view else None)
    run.to_end()
    first, *_, last = answered(run)
    assert (people_seen(first), first.as_of) == ({0, 1}, AS_OF)
    assert "not answered yet" in first.trouble
    assert people_seen(last) == {0, 1, 2}


def test_a_feed_that_fell_silent_while_it_is_loaded_from_is_no_different(
    run_from: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "FIRST_ANSWER_S_MAX", 0.01)
    answering = threading.Event()
    run = run_from(KEPT, TRIMMED, lambda: answering.wait(60) and snapshot(0, 1, 2, seq=9))
    run.replica.listen(lambda state: answering.set() if state.view else None)
    run.to_end()
    assert people_seen(answered(run)[0]) == {0, 1}


def test_a_trimmed_history_is_loaded_again(run_from: MakeRun) -> None:
    loaded = snapshot(0, 1, 2, 3, seq=9)
    run = run_from(KEPT, TRIMMED, loaded, batch(opt_out(4), after=9), TRIMMED).to_end()
    assert run.observer.resyncs == ["TRIMMED"]
    assert run.people == {0, 1, 2, 3, 4}
    assert run.feed.calls[:4] == [
        ("read", 5, "5"), ("load",), ("read", 9, "9"), ("read", 5, "5"),
    ]  # fmt: skip


def test_a_gap_after_the_kept_register_is_never_passed_over(run_from: MakeRun) -> None:
    run = run_from(KEPT, batch(opt_out(4), after=6), AWAY).to_end()
    assert run.observer.resyncs == ["GAP"]
    assert run.people == {0, 1}


@pytest.mark.parametrize(
    "steps",
    [
        [BACK, snapshot(0, seq=3), batch(after=3)],
        [REWRITTEN, snapshot(0, 8, 9, seq=7), batch(after=7), REWRITTEN],
        [BACK, snapshot(0, seq=3), batch(opt_in(1), opt_in(0), after=3), REWRITTEN],
    ],
    ids=["ends earlier", "goes on differently", "numbers used again"],
)
def test_a_feed_that_lost_what_was_published_is_not_followed(
    run_from: MakeRun, steps: list[Step]
) -> None:
    run = run_from(KEPT, *steps).to_end()
    assert run.observer.resyncs[-1] in {"BACKWARDS", "REWRITTEN"}
    assert {(people_seen(state) == {0, 1}, state.as_of) for state in answered(run)} == {
        (True, AS_OF)
    }
    assert run.state.phase is Phase.LOADING


def test_what_was_published_after_the_kept_register_is_remembered(run_from: MakeRun) -> None:
    """The register is written now and then; how far the replica had come, every few seconds."""
    reached = Reached(Revision("g", 8), "8", 3)
    run = run_from(KEPT, batch(opt_out(2), after=5), AWAY, reached=reached).to_end()
    assert run.observer.resyncs == ["BACKWARDS"]
    assert "ends at change 6, but had 8" in run.states[-2].trouble
    assert run.people == {0, 1}


def numbered(change: Change, seq: int) -> Change:
    return replace(change, seq=seq)


def test_a_restart_sees_another_change_in_the_place_of_the_last_one(run_from: MakeRun) -> None:
    kept = replace(KEPT, last=numbered(opt_out(1), 5))
    other = replace(batch(opt_out(8), after=5), own=numbered(opt_out(7), 5))
    run = run_from(kept, other, AWAY).to_end()
    assert run.observer.resyncs == ["REWRITTEN"]
    assert (run.people, run.state.as_of) == ({0, 1}, AS_OF)
    assert run.state.phase is not Phase.LIVE


def test_a_restart_sees_another_change_where_it_had_come_to(run_from: MakeRun) -> None:
    """Beyond the kept register, whose own last change is still there."""
    kept = replace(KEPT, last=numbered(opt_out(1), 5))
    reached = Reached(Revision("g", 6), "6", 3, numbered(opt_out(2), 6))
    following = replace(batch(opt_out(7), opt_out(8), after=5), own=kept.last)
    other = replace(batch(opt_out(8), after=6), own=numbered(opt_out(7), 6))
    run = run_from(kept, following, other, AWAY, reached=reached).to_end()
    assert run.feed.calls[:2] == [("read", 5, "5"), ("read", 6, "6")]
    assert run.observer.resyncs == ["REWRITTEN"]
    assert (run.people, run.state.as_of) == ({0, 1}, AS_OF)


def test_a_shrunken_register_is_refused_beside_the_kept_one(run_from: MakeRun) -> None:
    kept = snapshot(*range(50), seq=5)
    run = run_from(kept, OTHER, snapshot(*range(40), generation="h"), AWAY).to_end()
    assert run.observer.refused == ["SNAPSHOT_SHRUNKEN"]
    assert len(run.people) == 50


def test_another_generation_takes_over(run_from: MakeRun) -> None:
    run = run_from(KEPT, OTHER, snapshot(0, 1, 3, generation="h"), batch(after=0)).to_end()
    assert run.people == {0, 1, 3}
    assert run.state.view.revision == Revision("h", 0)


@pytest.mark.parametrize("where", ["register", "confirmation"])
def test_a_kept_suspension_stays_while_the_feed_is_away(run_from: MakeRun, where: str) -> None:
    kept = snapshot(0, 1, seq=5, suspended=where == "register")
    resumed = batch(SUSPEND, RESUME, after=5)
    run = run_from(kept, AWAY, AWAY, resumed, resumed, suspended=where == "confirmation").to_end()
    away = [state.suspended for state in answered(run) if state.as_of == AS_OF]
    assert away
    assert all(away)
    assert not run.state.suspended
    assert run.state.view.revision.seq == 7


@pytest.mark.parametrize("then", [AWAY, SequenceBroken("Lost.", reason="GAP"), TRIMMED])
def test_a_suspension_seen_on_the_way_counts_for_the_kept_register(
    run_from: MakeRun, then: Exception
) -> None:
    ahead = batch(opt_out(2), SUSPEND, after=5, complete=False)
    run = run_from(KEPT, ahead, then, AWAY).to_end()
    assert people_seen(run.state) == {0, 1}
    assert {state.suspended for state in answered(run)} == {True}


def test_what_it_publishes_is_kept_and_what_comes_last(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path)
    run = Run(snapshot(0), batch(after=0), batch(opt_out(1), after=0), keeper=keeper).to_end()
    keeper.write()
    kept = keeper._directory.read(2000.0)
    keeper._directory.close()
    assert kept.snapshot.revision.seq == 1
    assert kept.snapshot.position == "1"
    assert kept.confirmed.as_of == run.state.as_of


def test_what_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keeper = keeper_of(tmp_path / "file")
    run = Run(snapshot(0), batch(after=0), batch(opt_out(1), after=0), keeper=keeper).to_end()
    keeper.write()
    assert run.people == {0, 1}
    assert run.observer.resyncs == []


def follow(place: Place, path: Path, *, until: Callable[[State], bool]) -> tuple[State, list[str]]:
    """What a process comes to that begins with the state in *path*, keeps it, and ends."""
    resyncs: list[str] = []
    keeper = keeper_of(path)
    keeper._clock = lambda: 1e6
    replica = Replica(1e12)
    feed = place.feed()
    follower = Follower(feed, replica, clock=lambda: 1e6, keeper=keeper, pause=lambda _: None)
    follower._observer.on_resync = resyncs.append
    replica.listen(lambda state: follower.stop() if until(state) else None)
    follower.run()
    keeper.write()
    keeper._directory.close()
    return replica.state, resyncs


@pytest.mark.parametrize("snapshots", [0, 1, 2, 3])
def test_a_restart_goes_on_in_a_feed_with_newer_snapshots(
    place: Place, tmp_path: Path, snapshots: int
) -> None:
    """From its own position while that is there, else from the newest snapshot: never a gap."""

    def at(revision: Revision) -> Callable[[State], bool]:
        return lambda state: state.view is not None and state.view.revision == revision

    publisher = place.loaded(0)
    revision = publisher.append([opt_out(1), opt_out(2)])
    state, _ = follow(place, tmp_path / "state", until=at(revision))
    assert people_seen(state) == {0, 1, 2}
    for person in range(3, 3 + snapshots):
        revision = publisher.append([opt_out(person)])
        publisher.snapshot()
    revision = publisher.append([opt_in(0), opt_out(50)])
    state, resyncs = follow(place, tmp_path / "state", until=at(revision))
    assert people_seen(state) == {1, 2, *range(3, 3 + snapshots), 50}
    assert set(resyncs) <= {"TRIMMED", "GAP"}
    # The first snapshot trims nothing yet. Later ones may trim the last change that was read.
    assert not resyncs if snapshots < 2 else resyncs or snapshots == 2


def test_a_restart_notices_that_the_feed_went_back(place: Place, tmp_path: Path) -> None:
    publisher = place.loaded(0)
    revision = publisher.append([opt_out(1), opt_out(2)])
    path = tmp_path / "state"
    follow(place, path, until=lambda state: bool(state.view and state.view.revision == revision))
    place.harm.remove_last()
    state, resyncs = follow(place, path, until=lambda state: "ndoo load" in state.trouble)
    assert set(resyncs) == {"BACKWARDS"}
    assert people_seen(state) == {0, 1, 2}
    assert state.phase is not Phase.LIVE
    revision = publisher.load(bitmap(0, 1, 2, 3))
    state, _ = follow(
        place, path, until=lambda state: bool(state.view and state.view.revision == revision)
    )
    assert people_seen(state) == {0, 1, 2, 3}


@pytest.mark.parametrize("then", [[], [3]], ids=["nothing", "more"])
def test_a_restart_mixes_no_two_histories(place: Place, tmp_path: Path, then: list[int]) -> None:
    publisher = place.loaded(0)
    revision = publisher.append([opt_out(1), opt_out(2)])
    path = tmp_path / "state"
    follow(place, path, until=lambda state: bool(state.view and state.view.revision == revision))
    place.rewrite_last()
    for person in then:
        publisher.append([opt_out(person)])
    seen: list[State] = []

    def has_tried_again(state: State) -> bool:
        seen.append(state)
        return sum(state.phase is Phase.LOADING for state in seen) > 3

    _, resyncs = follow(place, path, until=has_tried_again)
    assert set(resyncs) == {"REWRITTEN"}
    assert {frozenset(people_seen(state)) for state in seen if state.view} == {frozenset({0, 1, 2})}
    assert not any(state.phase is Phase.LIVE for state in seen)


def test_the_state_of_another_feed_is_not_answered_from(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "state"
    place.loaded(0)
    follow(place, path, until=lambda state: state.view is not None)
    directory = StateDirectory(path, "dir:other ndoo")
    keeper = Keeper(directory, clock=lambda: 1e6, observer=Quiet())
    run = Run(AWAY, AWAY, keeper=keeper).to_end()
    directory.close()
    assert run.state.view is None
    with contextlib.suppress(NotAnswering):
        run.replica.answering_state(1e6)
        raise AssertionError("it answered")
    assert replace(run.state, trouble="").phase is Phase.LOADING
