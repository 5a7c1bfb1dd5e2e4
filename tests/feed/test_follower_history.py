"""The follower hands every flip to a history of the line of changes that it follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ndoo.errors import NotAnswering, RevisionGone
from ndoo.feed.feed import Batch, HistoryChanged
from ndoo.register.changes import Change
from ndoo.register.history import FEED_CLOCK_S_OFF_MAX
from ndoo.register.replica import State
from support.people import KEYS, opt_in, opt_out
from support.scripted import Run, Step, batch, people_seen, snapshot


def recorded(moment: float, *changes: Change, after: int, complete: bool = True) -> Batch:
    """As `batch`, recorded at *moment* (Unix seconds)."""
    stamped = [replace(change, recorded_ms=int(moment * 1000)) for change in changes]
    return batch(*stamped, after=after, complete=complete)


def people_at(state: State, seq: int) -> set[int]:
    """Who is opted out at revision *seq*, as *state* and its history tell."""
    state.history.as_of(seq)
    return people_seen(replace(state, view=state.history.view_at(seq, state.view)))


def is_gone(state: State, seq: int) -> bool:
    try:
        people_at(state, seq)
    except RevisionGone:
        return True
    return False


def test_every_revision_that_was_published_or_lies_between_is_kept():
    run = Run(
        snapshot(1, seq=5),
        batch(after=5),
        batch(opt_out(2), opt_in(1), opt_out(3), after=5),
        batch(opt_in(2), after=8, complete=False),
        batch(opt_out(1), after=9),
    ).to_end()
    seen = [people_at(run.state, seq) for seq in range(5, 11)]
    assert seen == [{1}, {1, 2}, {2}, {2, 3}, {3}, {1, 3}]
    assert is_gone(run.state, 4)


def test_a_replica_that_starts_answers_back_to_its_snapshot():
    run = Run(
        snapshot(1, seq=5),
        recorded(500.0, opt_out(2), opt_out(3), after=5, complete=False),
        recorded(700.0, opt_in(3), after=7),
    ).to_end()
    assert [people_at(run.state, seq) for seq in range(5, 9)] == [{1}, {1, 2}, {1, 2, 3}, {1, 2}]
    as_of = [run.state.history.as_of(seq) for seq in range(5, 9)]
    assert as_of == [moment - FEED_CLOCK_S_OFF_MAX for moment in (500, 500, 700)] + [
        run.state.as_of
    ]


def test_a_batch_that_is_not_known_to_be_the_last_makes_no_revision_newer():
    run = Run(
        snapshot(1),
        batch(after=0),
        batch(opt_out(2), after=0, complete=False),
        batch(opt_out(3), after=1),
    ).to_end()
    confirmed = [state.as_of for state in run.states if state.view and state.view.revision.seq == 0]
    assert run.state.history.as_of(1) == run.state.history.as_of(0) == confirmed[-1]
    assert run.state.history.as_of(2) == run.state.as_of > confirmed[-1]


def test_a_history_that_broke_is_not_gone_back_in():
    run = Run(
        snapshot(1, seq=5),
        batch(opt_out(2), after=5),
        HistoryChanged("It was rewritten.", reason="TRIMMED"),
        snapshot(1, 2, seq=6),
        batch(opt_out(3), after=6),
        batch(after=6),  # proves that what was published before is still there
    ).to_end()
    assert run.people == {1, 2, 3}
    assert is_gone(run.state, 5)
    before = next(state for state in run.states if state.view and state.view.revision.seq == 6)
    assert people_at(before, 6) == {1, 2}
    assert before.history is not run.state.history


def test_a_state_is_never_shown_with_the_history_of_another():
    run = Run(
        snapshot(1, seq=5),
        batch(opt_out(2), after=5),
        HistoryChanged("It was loaded again.", reason="OTHER_GENERATION"),
        snapshot(*range(40), generation="new"),
        batch(opt_out(50), after=0),
    ).to_end()
    shown = [state for state in run.states if state.view is not None]
    assert {state.view.revision.generation for state in shown} == {"g", "new"}
    for state in shown:
        assert state.history._generation == state.view.revision.generation
        assert people_at(state, state.view.revision.seq) == people_seen(state)
    with pytest.raises(RuntimeError, match="same history"):
        shown[0].history.view_at(0, run.state.view)


def test_a_history_of_no_time_is_no_hindrance():
    run = Run(snapshot(1), *(batch(opt_out(seq + 2), after=seq) for seq in range(4)), history_s=0.0)
    assert run.to_end().people == {1, 2, 3, 4, 5}
    assert run.observer.resyncs == []
    assert is_gone(run.state, 3)


def test_what_was_known_before_the_clock_was_set_back_is_gone():
    """How old it is nobody knows; what comes then is as old as the clock says."""
    moment = [1000.0]

    def at(now: float, *changes: Change, after: int) -> Step:
        return lambda: moment.__setitem__(0, now) or batch(*changes, after=after)

    run = Run(
        snapshot(1),
        at(1000, opt_out(2), after=0),
        at(5000, opt_out(3), after=1),
        at(2000, opt_out(4), after=2),
        at(2500, opt_out(5), after=3),
        clock=lambda: moment[0],
    ).to_end()
    assert [state.as_of for state in run.states if state.view] == [1000, 1000, 1000, 2000]
    assert [state.era for state in run.states if state.view] == [0, 0, 0, 1]
    assert is_gone(run.state, 3)
    assert people_at(run.state, 4) == {1, 2, 3, 4, 5}
    with pytest.raises(NotAnswering):
        run.replica.refuse_if_stale(run.states[1], 2000.0)


def test_what_was_kept_counts_up():
    run = Run(snapshot(1), batch(after=0), batch(opt_out(2), after=0)).to_end()
    earlier = run.state.history.view_at(0, run.state.view)
    assert earlier.opt_outs == 1
    assert (earlier.keys() == np.array([KEYS[1]])).all()
