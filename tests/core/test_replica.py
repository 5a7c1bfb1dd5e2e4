"""When the replica may answer: with a view, not suspended, and known to be complete recently."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import population
from core.settings import CORE
from ndoo.errors import NotAnswering
from ndoo.register.replica import CLOCK_BACK_S_MAX, Phase, Replica, State
from ndoo.register.view import View
from ndoo.revision import Revision

LIMIT = 86_400.0
AS_OF = 1_800_000_000.0
VIEW = View.of(np.array(population.keys_in_pages(2, 2), dtype=np.uint32), Revision("replica", 1))
LIVE = State(Phase.LIVE, VIEW, AS_OF, suspended=False, trouble="")
FOLLOWING = [Phase.LOADING, Phase.CATCHING_UP, Phase.LIVE]


def replica_with(state: State, limit: float = LIMIT) -> Replica:
    replica = Replica(limit)
    replica.publish(state)
    return replica


def reason(replica: Replica, now: float) -> str:
    with pytest.raises(NotAnswering) as refused:
        replica.answering_state(now)
    return refused.value.reason


@pytest.mark.parametrize("now", [0.0, AS_OF, -1.0, math.nan, math.inf])
def test_before_the_first_view_there_are_no_answers(now: float):
    replica = Replica(LIMIT)
    assert reason(replica, now) == "NOT_LOADED"
    assert replica.phase(now) is Phase.LOADING


@pytest.mark.parametrize("phase", FOLLOWING)
def test_a_phase_without_a_view_gives_no_answers(phase: Phase):
    replica = replica_with(State(phase, None, AS_OF, suspended=False, trouble=""))
    assert reason(replica, AS_OF) == "NOT_LOADED"
    assert replica.phase(AS_OF) is (Phase.LOADING if phase is Phase.LIVE else phase)
    with pytest.raises(NotAnswering):
        _ = replica.state.verified


@pytest.mark.parametrize("phase", FOLLOWING)
def test_the_last_verified_register_answers_within_its_age_limit(phase: Phase):
    state = replace(LIVE, phase=phase)
    replica = replica_with(state)
    for age in (0.0, 1.0, LIMIT / 2, LIMIT):
        assert replica.answering_state(AS_OF + age) is state
        assert replica.phase(AS_OF + age) is phase
    for age in (LIMIT + 0.001, LIMIT + 1, LIMIT * 1_000):
        assert reason(replica, AS_OF + age) == "STALE"
        assert replica.phase(AS_OF + age) is Phase.STALE


def test_suspended_wins_over_everything():
    for state in (LIVE, replace(LIVE, view=None), replace(LIVE, phase=Phase.LOADING)):
        replica = replica_with(replace(state, suspended=True))
        for now in (AS_OF, AS_OF + 2 * LIMIT, math.nan):
            assert reason(replica, now) == "SUSPENDED"
            assert replica.phase(now) is Phase.SUSPENDED
    replica.publish(LIVE)
    assert replica.answering_state(AS_OF) is LIVE


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 0.0, -AS_OF])
def test_a_clock_that_says_nothing_usable_gives_no_answers(now: float):
    replica = replica_with(LIVE)
    assert reason(replica, now) == "STALE"
    assert replica.phase(now) is Phase.STALE


@pytest.mark.parametrize("as_of", [math.nan, math.inf, -math.inf, 0.0])
def test_a_time_that_says_nothing_usable_gives_no_answers(as_of: float):
    assert reason(replica_with(replace(LIVE, as_of=as_of)), AS_OF) == "STALE"


@pytest.mark.parametrize("limit", [math.nan, -1.0])
def test_a_limit_that_says_nothing_usable_gives_no_answers(limit: float):
    assert reason(replica_with(LIVE, limit), AS_OF) == "STALE"


@pytest.mark.parametrize("back", [1.0, CLOCK_BACK_S_MAX + 1, LIMIT, 10 * LIMIT])
def test_a_clock_set_back_does_not_make_a_stale_register_fresh(back: float):
    replica = replica_with(LIVE)
    too_late = AS_OF + LIMIT + 0.5
    assert reason(replica, too_late) == "STALE"
    for now in (too_late - back, AS_OF, AS_OF + LIMIT):
        assert reason(replica, now) == "STALE"
        assert replica.phase(now) is Phase.STALE
    # The same knowledge published again is no newer; knowledge of a later moment is.
    replica.publish(replace(LIVE, phase=Phase.LOADING))
    assert reason(replica, AS_OF) == "STALE"
    replica.publish(replace(LIVE, as_of=AS_OF + 1))
    assert replica.answering_state(AS_OF + 1).as_of == AS_OF + 1


def test_a_clock_set_back_does_not_make_an_ageing_register_young():
    replica = replica_with(LIVE)
    for age in (0.0, LIMIT * 0.9, LIMIT * 0.9 - CLOCK_BACK_S_MAX):
        assert replica.answering_state(AS_OF + age) is LIVE
    for age in (LIMIT * 0.9 - CLOCK_BACK_S_MAX - 1, 0.0, LIMIT * 0.9):
        assert reason(replica, AS_OF + age) == "STALE"
        assert replica.phase(AS_OF + age) is Phase.STALE
    replica.publish(replace(LIVE, as_of=AS_OF + 1))
    assert replica.answering_state(AS_OF + 1).as_of == AS_OF + 1


def test_knowledge_from_the_future_is_not_trusted():
    replica = replica_with(LIVE)
    slightly = AS_OF - CLOCK_BACK_S_MAX
    assert replica.answering_state(slightly) is LIVE
    assert reason(replica, slightly - 0.5) == "STALE"
    # Nor when the clock arrives there: when it was true is not known.
    assert reason(replica, AS_OF + 1) == "STALE"
    confirm(replica, slightly - 0.5)
    assert replica.answering_state(slightly).as_of == slightly - 0.5


@CORE
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-3 * LIMIT, 3 * LIMIT)),
            st.floats(-3 * LIMIT, 3 * LIMIT) | st.sampled_from([math.nan, math.inf]),
        ),
        max_size=20,
    )
)
def test_whatever_the_clock_does_an_answer_has_an_age_within_the_limit(
    steps: list[tuple[float | None, float]],
):
    replica = replica_with(LIVE)
    seen = [-math.inf]  # since the last confirmation
    pinned: list[State] = []
    refused: set[State] = set()
    for known, now in [(known, AS_OF + now) for known, now in steps]:
        pinned.append(replica.state)
        if known is not None:
            confirm(replica, AS_OF + known)
            seen = seen[:1] if replica.state is not pinned[-1] else seen
        state = replica.state
        seen.append(now)
        unknown = not math.isfinite(now) or now < max(*seen, state.as_of) - CLOCK_BACK_S_MAX
        for one in [state, *pinned]:
            if unknown or now - one.as_of > LIMIT or one.era != state.era:
                refused.add(one)
            if one in refused:
                with pytest.raises(NotAnswering):
                    replica.refuse_if_stale(one, now)
            else:
                replica.refuse_if_stale(one, now)


def confirm(replica: Replica, moment: float) -> None:
    """Publish as the follower does, whose clock says *moment*."""
    state = replica.state
    if replica.clock_was_set_back(moment):
        replica.publish(replace(state, as_of=moment, era=state.era + 1))
    elif moment > state.as_of:
        replica.publish(replace(state, as_of=moment))


def test_what_a_call_holds_is_not_made_young_by_a_clock_set_back():
    """Nor when the feed has confirmed anew: that makes the newest state young, and no other."""
    replica = replica_with(LIVE)
    confirm(replica, AS_OF + 80_000)
    newest = replica.state
    assert replica.answering_state(AS_OF + LIMIT) is newest
    replica.refuse_if_stale(LIVE, AS_OF + LIMIT)
    for held in (LIVE, newest):
        with pytest.raises(NotAnswering):
            replica.refuse_if_stale(held, AS_OF + 1_000)
    confirm(replica, AS_OF + 1_000)
    assert replica.answering_state(AS_OF + 1_000) is replica.state
    for now in (AS_OF + 1_000, AS_OF + 80_000):
        for held in (LIVE, newest):
            with pytest.raises(NotAnswering):
                replica.refuse_if_stale(held, now)
        assert replica.answering_state(now) is replica.state


def test_an_older_state_that_is_refused_leaves_the_newest_refused():
    replica = replica_with(LIVE)
    newer = replace(LIVE, as_of=AS_OF + 10)
    replica.publish(newer)
    assert reason(replica, AS_OF + 10 + LIMIT + 1) == "STALE"
    with pytest.raises(NotAnswering):
        replica.refuse_if_stale(LIVE, AS_OF + LIMIT + 1)
    assert reason(replica, AS_OF + LIMIT) == "STALE"


def test_listeners_hear_each_state_after_it_stands():
    replica = Replica(LIMIT)
    heard: list[tuple[State, State]] = []
    replica.listen(lambda state: heard.append((state, replica.state)))
    replica.listen(lambda state: heard.append((state, replica.state)))
    replica.publish(LIVE)
    assert heard == [(LIVE, LIVE), (LIVE, LIVE)]
    assert replica.state is LIVE


def test_every_listener_hears_whatever_another_raises():
    replica = Replica(LIMIT)
    heard: list[State] = []
    replica.listen(lambda _: 1 / 0)
    replica.listen(heard.append)
    with pytest.raises(ZeroDivisionError):
        replica.publish(LIVE)
    assert heard == [LIVE]
    assert replica.state is LIVE


def test_a_state_taken_before_stays_what_it_was():
    replica = replica_with(LIVE)
    taken = replica.answering_state(AS_OF)
    replica.publish(State())
    assert taken is LIVE
    replica.refuse_if_stale(taken, AS_OF)
    with pytest.raises(NotAnswering):
        replica.refuse_if_stale(taken, AS_OF + LIMIT + 1)
