"""The follower, step by step: what it publishes, and what it does not."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace

import pytest

from ndoo.errors import (
    ChangeRefused,
    FeedEmpty,
    FeedUnavailable,
    SequenceBroken,
    SnapshotRefused,
)
from ndoo.feed import feed
from ndoo.feed.feed import Batch, HistoryChanged
from ndoo.feed.follower import BACKOFF_S_MAX, GATHER_S
from ndoo.register import view as views
from ndoo.register.changes import Change, Kind
from ndoo.register.replica import Phase
from support.people import number, opt_in, opt_out
from support.scripted import Run, Step, batch, snapshot

SUSPEND, RESUME = Change(Kind.SUSPEND), Change(Kind.RESUME)
AWAY = FeedUnavailable("The feed is away.")
GONE = HistoryChanged("Changes are gone.", reason="TRIMMED")
BACK = HistoryChanged("The feed went back.", reason="BACKWARDS")
UNREADABLE = ChangeRefused("Change 2 cannot be read.")


def live(*people: int) -> tuple[object, ...]:
    return snapshot(*people), batch(after=0)


def test_phases_follow_each_other() -> None:
    run = Run(snapshot(0), batch(opt_out(1), after=0, complete=False), batch(after=1)).to_end()
    assert [state.phase for state in run.states] == [Phase.CATCHING_UP, Phase.LIVE]
    assert run.people == {0, 1}
    assert run.state.trouble == ""


def test_nothing_is_published_before_the_feed_confirms_the_end() -> None:
    run = Run(
        snapshot(0),
        batch(opt_out(1), after=0, complete=False),
        batch(opt_out(2), after=1, complete=False),
        AWAY,
        batch(opt_out(3), after=2, complete=False),
    ).to_end()
    assert all(state.view is None for state in run.states)
    assert run.feed.calls[-2:-1] == [("read", 3, "3")]


def test_each_batch_is_published_whole() -> None:
    run = Run(*live(0), batch(opt_out(1), opt_out(2), after=0), batch(opt_in(0), after=2)).to_end()
    assert [state.view.revision.seq for state in run.states if state.view] == [0, 2, 3]
    assert run.people == {1, 2}
    assert run.observer.changes == {Kind.OPT_OUT: 2, Kind.OPT_IN: 1}
    assert len(run.observer.published) == 2


def test_as_of_is_the_moment_before_the_question() -> None:
    run = Run(snapshot(0), batch(after=0))
    asked = []
    run.feed._steps[1] = lambda: asked.append(run.clock.now) or batch(after=0)
    run.to_end()
    assert run.state.as_of == asked[0]


def test_as_of_stands_still_while_nothing_is_confirmed() -> None:
    run = Run(*live(0), batch(opt_out(1), after=0, complete=False), AWAY).to_end()
    first, *later = [state for state in run.states if state.view]
    assert run.people == {0, 1}
    assert {state.as_of for state in later} == {first.as_of}


def test_trouble_is_told_until_the_feed_confirms() -> None:
    run = Run(*live(0), AWAY, batch(opt_out(1), after=0, complete=False), batch(after=1)).to_end()
    told = [(state.trouble, state.phase) for state in run.states if state.view][1:]
    assert told == [(str(AWAY), Phase.CATCHING_UP)] * 2 + [("", Phase.LIVE)]


def test_as_of_never_goes_back_with_the_clock() -> None:
    times = iter([1000.0, 1000.0, 990.0, 990.0, 1010.0, 1010.0])
    run = Run(*live(0), batch(after=0), batch(after=0), clock=lambda: next(times, 1010.0)).to_end()
    assert [state.as_of for state in run.states if state.view] == [1000.0, 1010.0]


def test_as_of_from_a_clock_far_ahead_is_mended() -> None:
    times = iter([9_000_000.0, 9_000_000.0])
    run = Run(*live(0), batch(after=0), clock=lambda: next(times, 1000.0)).to_end()
    assert run.state.as_of == 1000.0


def test_a_clock_set_back_between_question_and_answer_confirms_nothing() -> None:
    times = iter([1000.0, 500.0])
    run = Run(*live(0), batch(after=0), clock=lambda: next(times, 500.0)).to_end()
    assert [state.as_of for state in run.states if state.view] == [500.0]


@pytest.mark.parametrize("broken", [GONE, SequenceBroken("Lost.", reason="GAP")])
def test_a_broken_history_is_loaded_again_while_the_old_view_answers(broken: Exception) -> None:
    run = Run(
        *live(0),
        broken,
        snapshot(0, 1, seq=5),
        batch(opt_out(2), after=5, complete=False),
        batch(after=6),
        GONE,
    ).to_end()
    assert run.observer.resyncs == [broken.reason]
    between = [state for state in run.states if state.trouble == str(broken)]
    assert {state.view.revision.seq for state in between} == {0}
    assert [state.phase for state in between] == [Phase.LOADING, Phase.CATCHING_UP]
    assert run.people == {0, 1, 2}
    assert run.state.phase is Phase.LIVE


def test_a_gap_in_a_batch_leaves_no_trace_of_it() -> None:
    gap = Batch((replace(opt_out(7), seq=2),), "2", complete=True)
    confirmed = batch(opt_out(1), after=0)
    run = Run(*live(0), gap, snapshot(0), confirmed, confirmed).to_end()
    assert run.observer.resyncs == ["GAP"]
    assert run.people == {0, 1}


def test_those_who_watch_hear_how_far_it_is_behind_and_of_snapshots() -> None:
    made = replace(snapshot(0), created_at="2026-01-05T00:00:00Z")
    far = replace(batch(opt_out(1), after=0), complete=False, behind=7)
    newer = replace(batch(opt_out(2), after=1), snapshot_at=2000.0)
    unreadable = ChangeRefused("No.")
    run = Run(made, far, newer, unreadable).to_end()
    assert run.observer.behind == [7, 0, 1]
    assert run.observer.snapshots == [1_767_571_200.0, 2000.0]


def test_another_generation_takes_over_whole() -> None:
    run = Run(
        *live(0, 1),
        batch(opt_out(2), after=0),
        HistoryChanged("Another.", reason="OTHER_GENERATION"),
        snapshot(0, 1, 3, generation="h"),
        batch(after=0),
    ).to_end()
    assert run.people == {0, 1, 3}
    assert run.state.view.revision.generation == "h"


def test_a_shrunken_register_is_refused_while_the_old_view_answers() -> None:
    run = Run(*live(*range(50)), GONE, snapshot(*range(40), generation="h"), AWAY).to_end()
    assert run.observer.refused == ["SNAPSHOT_SHRUNKEN"]
    assert len(run.people) == 50
    assert "--accept-jump" in run.states[-2].trouble


def test_an_accepted_shrinking_is_followed() -> None:
    shrunken = snapshot(*range(40), generation="h", shrink_accepted=True)
    run = Run(*live(*range(50)), GONE, shrunken, batch(after=0)).to_end()
    assert run.people == set(range(40))


def test_who_begins_has_nothing_to_compare_with() -> None:
    assert Run(*live(0)).to_end().people == {0}


def test_a_change_that_cannot_be_read_is_waited_for() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), after=0, complete=False),
        UNREADABLE,
        snapshot(0),
        UNREADABLE,
        SnapshotRefused("No."),
        UNREADABLE,
        snapshot(0, 1, seq=1),
        batch(opt_out(2), after=1),
    ).to_end()
    assert run.observer.refused == ["CHANGE_REFUSED"] * 3
    assert run.observer.resyncs == []
    assert {call for call in run.feed.calls if call[0] == "read"} == {
        ("read", 0, "0"), ("read", 1, "1"), ("read", 2, "2"),
    }  # fmt: skip
    held = [state for state in run.states if state.trouble == str(UNREADABLE)]
    assert {(state.phase, state.view.revision.seq) for state in held} == {(Phase.CATCHING_UP, 1)}
    assert run.people == {0, 1, 2}


def test_a_snapshot_beyond_an_unreadable_change_is_taken() -> None:
    run = Run(*live(0), UNREADABLE, snapshot(0, 1, 2, seq=4), batch(after=4), batch(after=4))
    run.to_end()
    assert run.observer.resyncs == ["CHANGE_REFUSED"]
    assert run.people == {0, 1, 2}


def test_a_shrunken_register_beyond_an_unreadable_change_is_told_of() -> None:
    shrunken = snapshot(*range(40), generation="h")
    run = Run(*live(*range(50)), UNREADABLE, shrunken, shrunken, AWAY).to_end()
    assert run.observer.refused == ["CHANGE_REFUSED", "SNAPSHOT_SHRUNKEN", "SNAPSHOT_SHRUNKEN"]
    assert run.observer.resyncs == []
    assert "--accept-jump" in run.states[-2].trouble
    assert len(run.people) == 50


def test_an_unreadable_change_at_the_start_means_no_answers() -> None:
    run = Run(snapshot(0), batch(opt_out(1), after=0, complete=False), UNREADABLE, UNREADABLE)
    assert run.to_end().state.view is None


def test_an_outage_is_survived_where_it_struck() -> None:
    run = Run(*live(0), AWAY, AWAY, batch(opt_out(1), after=0)).to_end()
    assert run.observer.connected == [True, False, True]
    assert run.observer.resyncs == []
    assert run.feed.calls.count(("load",)) == 1
    away = [state for state in run.states if state.trouble == str(AWAY)]
    assert [state.phase for state in away] == [Phase.CATCHING_UP]
    assert run.people == {0, 1}


@pytest.mark.parametrize("error", [FeedEmpty("Empty."), SnapshotRefused("Damaged."), AWAY])
def test_what_cannot_be_loaded_is_tried_again(error: Exception) -> None:
    run = Run(error, error, *live(0)).to_end()
    assert run.states[0].trouble == str(error)
    assert run.states[0].phase is Phase.LOADING
    assert run.people == {0}


def test_a_suspension_comes_with_its_register() -> None:
    run = Run(*live(0), batch(opt_out(1), SUSPEND, after=0), batch(RESUME, after=2)).to_end()
    told = [(state.view.revision.seq, state.suspended) for state in run.states if state.view]
    assert told == [(0, False), (2, True), (3, False)]


def test_a_feed_that_lost_changes_can_still_stop_the_answers() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), opt_out(3), after=0),
        BACK,
        snapshot(0),
        batch(opt_out(1), SUSPEND, after=0),
    ).to_end()
    assert run.observer.resyncs == ["BACKWARDS", "BACKWARDS"]
    assert run.people == {0, 1, 2, 3}
    assert run.state.suspended


def test_what_was_suspended_and_resumed_before_stops_no_answers_when_it_is_read_again() -> None:
    again = batch(SUSPEND, after=0, complete=False), batch(RESUME, after=1), batch(after=2)
    run = Run(*live(0), batch(SUSPEND, RESUME, after=0), GONE, snapshot(0), *again).to_end()
    assert not any(state.suspended for state in run.states)


@pytest.mark.parametrize("people", [50, 40])
def test_a_newer_snapshot_stops_the_answers_whether_or_not_it_can_be_used(people: int) -> None:
    newer = snapshot(*range(people), generation="h", suspended=True)
    run = Run(*live(*range(50)), GONE, newer, AWAY).to_end()
    assert run.observer.refused == (["SNAPSHOT_SHRUNKEN"] if people < 50 else [])
    assert len(run.people) == 50
    assert run.state.suspended


def test_a_snapshot_can_be_suspended() -> None:
    assert Run(snapshot(0, suspended=True), batch(after=0)).to_end().state.suspended


def test_a_newer_suspension_does_not_wait_for_the_end_of_catching_up() -> None:
    run = Run(
        *live(0), GONE, snapshot(0), batch(opt_out(1), SUSPEND, after=0, complete=False)
    ).to_end()
    assert (run.state.view.revision.seq, run.state.suspended) == (0, True)


def test_an_old_suspension_passed_again_stops_nothing() -> None:
    run = Run(
        *live(0),
        batch(SUSPEND, RESUME, opt_out(1), after=0),
        GONE,
        snapshot(0),
        batch(SUSPEND, after=0, complete=False),
        batch(RESUME, opt_out(1), after=1),
        GONE,
    ).to_end()
    assert not any(state.suspended for state in run.states)
    assert run.people == {0, 1}


def test_a_generation_that_lost_what_was_published_is_not_followed() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        BACK,
        snapshot(0),
        batch(opt_out(1), after=0),
    ).to_end()
    assert run.observer.resyncs == ["BACKWARDS", "BACKWARDS"]
    assert run.people == {0, 1, 2}
    assert "ndoo load" in run.state.trouble


@pytest.mark.parametrize("reason", ["BACKWARDS", "REWRITTEN"])
def test_a_generation_that_goes_on_differently_is_not_followed(reason: str) -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        BACK,
        snapshot(0),
        batch(opt_out(7), opt_out(8), opt_out(9), after=0),
        HistoryChanged("Not what was there.", reason=reason),
    ).to_end()
    assert run.feed.calls[-3:-1] == [("read", 2, "2"), ("load",)]
    assert run.people == {0, 1, 2}


def test_numbers_used_twice_after_a_trim_are_a_history_that_goes_on_differently() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        BACK,
        snapshot(0, 7, seq=1),
        batch(opt_out(8), opt_out(9), after=1),
        batch(opt_out(8), opt_out(9), after=1),
    ).to_end()
    assert run.observer.resyncs == ["BACKWARDS", "REWRITTEN"]
    assert run.people == {0, 1, 2}


def test_a_load_that_comes_before_the_proof_leaves_the_old_view_until_it_is_read() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        GONE,
        snapshot(0),
        batch(opt_out(7), opt_out(8), opt_out(9), after=0),
        HistoryChanged("Another.", reason="OTHER_GENERATION"),
        AWAY,
        *(snapshot(0, 1, 2, generation="h"), batch(after=0)),
    ).to_end()
    shown = [state.view.revision for state in run.states if state.view]
    assert {(each.generation, each.seq) for each in shown} == {("g", 0), ("g", 2), ("h", 0)}
    assert run.observer.resyncs == ["TRIMMED", "OTHER_GENERATION"]


def other_in_its_place(*changes: Change) -> Batch:
    """*changes* after a second change that is another than the one read there."""
    return replace(batch(*changes, after=2), own=replace(opt_out(7), seq=2))


def test_another_change_in_the_very_place_of_the_one_read_last_is_seen() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        other_in_its_place(opt_out(8)),
        snapshot(0),
        batch(opt_out(6), opt_out(7), opt_out(8), after=0),
        other_in_its_place(opt_out(8)),
    ).to_end()
    assert run.observer.resyncs == ["REWRITTEN", "REWRITTEN"]
    assert run.people == {0, 1, 2}


def test_what_cannot_be_read_in_the_very_place_of_the_change_read_last_is_seen() -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        replace(batch(opt_out(8), after=2), own=feed.UNREADABLE),
    ).to_end()
    assert run.observer.resyncs == ["REWRITTEN"]
    assert run.people == {0, 1, 2}


def test_another_change_in_the_place_of_the_snapshots_own_is_seen() -> None:
    last = replace(opt_out(2), seq=2)
    begun = snapshot(0, 1, 2, seq=2, last=last)
    run = Run(begun, other_in_its_place(opt_out(8))).to_end()
    assert run.observer.resyncs == ["REWRITTEN"]
    assert run.state.view is None
    own = replace(batch(opt_out(8), after=2), own=replace(last, recorded_ms=5))
    assert Run(begun, own).to_end().people == {0, 1, 2, 8}


def test_the_own_change_where_it_was_read_is_gone_on_from() -> None:
    own = replace(opt_out(2), seq=2)
    following = replace(batch(opt_out(3), after=2), own=own)
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        following,
        GONE,
        snapshot(0),
        batch(opt_out(1), opt_out(2), opt_out(3), after=0),
        replace(batch(after=3), own=following.changes[-1]),
    ).to_end()
    assert run.observer.resyncs == ["TRIMMED"]
    assert run.people == {0, 1, 2, 3}


@pytest.mark.parametrize("answer", [GONE, UNREADABLE, batch(opt_out(3), after=2)])
def test_a_generation_is_followed_where_nothing_speaks_against_it(answer: object) -> None:
    run = Run(
        *live(0),
        batch(opt_out(1), opt_out(2), after=0),
        GONE,
        snapshot(0, 1, 2, seq=2),
        batch(opt_out(3), after=2),
        answer,
    ).to_end()
    assert run.people == {0, 1, 2, 3}


def test_a_bug_leaves_the_last_view_and_starts_over() -> None:
    run = Run(
        *live(0), ValueError(number(0)), snapshot(0, seq=0), batch(opt_out(1), after=0), GONE
    ).to_end()
    assert run.observer.resyncs == ["INTERNAL"]
    trouble = next(state.trouble for state in run.states if "unexpectedly" in state.trouble)
    assert "ValueError" in trouble
    assert number(0) not in trouble
    assert run.people == {0, 1}


def test_a_view_that_cannot_be_built_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True]

    def with_flips(view: views.View, *args: object) -> views.View:
        if broken and broken.pop():
            raise MemoryError
        return real(view, *args)

    real = views.View.with_flips
    monkeypatch.setattr(views.View, "with_flips", with_flips)
    run = Run(
        *live(0),
        batch(opt_out(1), after=0),
        snapshot(0),
        batch(opt_out(1), after=0),
        batch(opt_out(1), after=0),
        batch(opt_out(2), after=1),
    ).to_end()
    assert run.observer.resyncs == ["INTERNAL"]
    assert [state.view.revision.seq for state in run.states if state.view][:1] == [0]
    assert run.people == {0, 1, 2}


def test_an_observer_that_fails_disturbs_nothing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(AWAY, GONE, *live(0), batch(opt_out(1), after=0))
    run.observer.on_connected = lambda connected: int(number(0)) / 0
    run.observer.on_changes = lambda *_: 1 / 0
    assert run.to_end().people == {0, 1}
    assert run.observer.resyncs == ["TRIMMED"]
    assert [record.fields for record in caplog.records] == [{"error": "ZeroDivisionError"}]
    assert number(0) not in caplog.text


def test_a_listener_that_fails_disturbs_nothing() -> None:
    run = Run(*live(0), batch(opt_out(1), SUSPEND, after=0))
    run.replica._listeners = (lambda _: 1 / 0, run.states.append)
    assert run.to_end().people == {0, 1}
    assert run.observer.resyncs == []
    assert run.states[-1].suspended


def test_the_observer_is_told_when_the_newest_change_was_recorded() -> None:
    changes = (replace(opt_out(1), recorded_ms=5_000), replace(opt_out(2), recorded_ms=7_500))
    run = Run(snapshot(0), batch(*changes, after=0), batch(after=2)).to_end()
    assert run.observer.recorded_at == 7.5
    assert run.observer.published == [], "what was recorded before it followed is no lag"


def test_retries_back_off_and_begin_anew_after_a_calm_while() -> None:
    calm = [batch(after=0)] * 5
    run = Run(*[AWAY] * 20, *live(0), *calm, *[AWAY] * 2, batch(after=0)).to_end()
    first, second = run.pauses[:20], run.pauses[-3:-1]
    assert all(0 < pause <= BACKOFF_S_MAX for pause in run.pauses)
    assert first[0] <= 0.05
    assert min(first[10:]) >= BACKOFF_S_MAX / 2
    assert second[0] <= 0.05


def test_rounds_without_progress_back_off_though_changes_are_applied() -> None:
    round_of_nothing = [snapshot(0), batch(opt_out(1), after=0, complete=False), GONE]
    run = Run(*round_of_nothing * 12).to_end()
    assert min(run.pauses[-3:]) >= BACKOFF_S_MAX / 2


@pytest.mark.parametrize("between", [(), live(0)], ids=["a connection", "a history"])
def test_what_breaks_again_and_again_is_asked_ever_more_seldom(between: tuple[Step, ...]) -> None:
    breaks = [*between, batch(after=0), GONE if between else AWAY]
    run = Run(*live(0), *breaks * 12).to_end()
    failures = [pause for pause in run.pauses if pause != GATHER_S]
    assert min(failures[10:]) >= BACKOFF_S_MAX / 2


def test_there_is_a_pause_after_each_publication_and_each_empty_look() -> None:
    run = Run(
        snapshot(0), batch(after=0, complete=False), batch(after=0), batch(opt_out(1), after=0)
    )
    run.to_end()
    assert run.pauses == [GATHER_S] * 3


def test_old_views_are_let_go() -> None:
    seen: list[weakref.ref[views.View]] = []
    kept: list[int] = []

    def look() -> Batch:
        gc.collect()
        kept.append(sum(ref() is not None for ref in seen))
        return batch(opt_out(len(seen)), after=len(seen) - 1)

    run = Run(*live(0), *[look] * 5)
    run.replica._listeners = (
        lambda state: seen.append(weakref.ref(state.view)) if state.view else None,
    )
    run.to_end()
    assert run.observer.resyncs == []
    assert kept == [1] * 5


def test_stop_ends_a_follower_in_its_thread() -> None:
    run = Run(*live(0))
    paused = threading.Event()
    run.follower._pause = lambda seconds: paused.set() or run.follower._stopped.wait(seconds)
    run.feed._steps.extend([AWAY] * 10_000)
    thread = threading.Thread(target=run.follower.run)
    thread.start()
    assert paused.wait(60)
    run.follower.stop()
    run.follower.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert ("close",) in run.feed.calls
