"""The watch against a plain model that remembers everything; and what metrics make of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.ops.watch import Sign, Watch

SILENCE_S = 86_400.0
JUMP = 0.02
HOUR = 3600.0
START = 1_000_000.0


def test_nothing_is_warned_of_at_first() -> None:
    assert Watch().warnings(START) == frozenset()
    assert Watch().last_news == 0


def test_silence_begins_and_ends() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(100, START)
    assert watch.warnings(START + SILENCE_S) == frozenset()
    assert watch.warnings(START + SILENCE_S + 1) == {Sign.FEED_SILENT}
    watch.on_news(START + SILENCE_S, START + SILENCE_S + 1)
    assert watch.warnings(START + SILENCE_S + 1) == frozenset()
    assert watch.last_news == START + SILENCE_S


def test_silence_is_counted_from_when_the_change_was_recorded() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.on_news(START - SILENCE_S - 1, START)
    watch.look(100, START)
    assert watch.warnings(START) == {Sign.FEED_SILENT}


def test_a_change_of_unknown_time_ends_silence() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(100, START)
    watch.on_news(0.0, START + SILENCE_S + 1)
    assert watch.warnings(START + SILENCE_S + 1) == frozenset()
    assert watch.last_news == 0


def test_a_writer_whose_clock_is_ahead_does_not_hide_silence() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.on_news(START + 10 * SILENCE_S, START)
    assert watch.warnings(START + SILENCE_S + 1) == {Sign.FEED_SILENT}


@pytest.mark.parametrize("after", [1_021, 979])
def test_a_jump_is_told_for_an_hour(after: int) -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(1_000, START)
    watch.look(after, START + 100)
    assert watch.warnings(START + 100) == {Sign.JUMP}
    watch.look(after, START + HOUR)
    assert watch.warnings(START + HOUR) == {Sign.JUMP}
    watch.look(after, START + 100 + HOUR + 120)
    assert watch.warnings(START + 100 + HOUR + 120) == frozenset()


@pytest.mark.parametrize("after", [1_020, 980])
def test_what_the_limit_allows_is_no_jump(after: int) -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(1_000, START)
    watch.look(after, START + 100)
    assert watch.warnings(START + 100) == frozenset()


def test_a_jump_after_hours_without_a_look_is_one() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(1_000, START)
    watch.look(2_000, START + 10 * HOUR)
    assert Sign.JUMP in watch.warnings(START + 10 * HOUR)


def test_limits_of_zero_turn_the_warnings_off() -> None:
    watch = Watch(0.0, 0.0)
    watch.look(1, START)
    watch.look(1_000, START + 1)
    assert watch.warnings(START + 1000 * SILENCE_S) == frozenset()


def test_a_clock_set_back_leaves_it_watching() -> None:
    watch = Watch(SILENCE_S, JUMP)
    watch.look(1_000, START + 1000 * HOUR)
    watch.look(1_000, START)
    watch.look(2_000, START + 60)
    assert watch.warnings(START + 60) == {Sign.JUMP}
    for step in range(1, 200):
        watch.look(2_000, START + 60 + step * 60)
    assert watch.warnings(START + 4 * HOUR) == frozenset()


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.tuples(st.floats(0.01, 2 * HOUR), st.integers(0, 60)), min_size=1, max_size=60))
def test_jumps_are_those_of_a_model_that_forgets_nothing(steps: list[tuple[float, int]]) -> None:
    """Of the last hour, to the minute."""
    watch = Watch(SILENCE_S, JUMP)
    now, looks = START, [(START, 1_000)]
    watch.look(1_000, START)
    for passed, moved in steps:
        now += passed
        looks.append((now, 970 + moved))
        watch.look(970 + moved, now)

        def in_force(moment: float, looks: list[tuple[float, int]] = looks[:-1]) -> int:
            return [count for at, count in looks if at <= moment][-1] if moment >= START else 0

        minutes = math.floor((now - START) / 60)
        moments = [START + 60 * minute for minute in range(max(0, minutes - 59), minutes + 1)]
        # A count that was in force at a minute, unless it came at that very moment.
        expected = any(
            abs(970 + moved - in_force(moment)) > JUMP * in_force(moment) for moment in moments
        )
        assert (Sign.JUMP in watch.warnings(now)) == expected
