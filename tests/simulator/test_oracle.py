"""The oracle, where one revision has two states: what it calls wrong, and what it does not."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from ndoo.register.replica import Phase, Replica, State
from ndoo.register.view import View
from ndoo.revision import Revision
from simulator.clocks import Clock
from simulator.oracle import AGE_S_MAX, Oracle
from simulator.schedule import Schedule
from simulator.storage import ALWAYS_OUT
from simulator.truth import Truth
from support.people import KEYS, number

SUSPEND, RESUME = {"op": "suspend"}, {"op": "resume"}
OPT_OUT = {"op": "opt_out", "nhs": number(1)}


class Scene:
    """One replica, and a storage that is written to and fails over, a second at a time."""

    def __init__(self) -> None:
        self.schedule = Schedule(random.Random(1))
        self.truth = Truth()
        self.clock = Clock(self.schedule, 0.0)
        self.oracle = Oracle("replica", self.truth, self.clock, lambda: 1)
        self.replica = Replica(AGE_S_MAX)
        self.replica.listen(self.oracle.on_state)
        self.truth.begin("g", 0, (), {}, suspended=False, now=0.0)

    def recorded(self, change: Mapping[str, str]) -> None:
        self.schedule.now += 1
        self.truth.record(change, self.schedule.now)

    def failed_over(self) -> None:
        self.schedule.now += 1
        self.truth.go_back(0, self.schedule.now)

    def published(self, *people: int, as_of: float) -> None:
        keys = np.array(sorted([*ALWAYS_OUT, *(KEYS[each] for each in people)]), np.uint32)
        self.replica.publish(State(Phase.LIVE, View.of(keys, Revision("g", 1)), as_of))

    def wrong(self) -> list[str]:
        self.oracle.ask(self.replica)
        return self.oracle.wrong


def test_who_follows_one_of_two_histories_may_answer_if_that_one_is_not_suspended() -> None:
    scene = Scene()
    scene.recorded(SUSPEND)
    scene.failed_over()
    scene.recorded(RESUME)
    scene.published(as_of=scene.clock())
    assert not scene.wrong()


def test_an_answer_while_all_that_it_may_be_of_is_suspended_is_wrong() -> None:
    scene = Scene()
    for _ in range(2):
        scene.failed_over()
        scene.recorded(SUSPEND)
    scene.published(as_of=scene.clock())
    assert "answered while suspended" in scene.wrong()[0]


def test_what_was_lost_between_question_and_answer_need_not_be_in_it() -> None:
    scene = Scene()
    scene.recorded(OPT_OUT)
    asked_at = scene.clock()
    scene.failed_over()
    scene.recorded(RESUME)
    scene.published(as_of=asked_at)
    assert not scene.wrong()


def test_an_answer_that_lacks_what_storage_had_and_has_is_wrong() -> None:
    scene = Scene()
    scene.recorded(RESUME)
    scene.recorded(OPT_OUT)
    scene.published(as_of=scene.clock())
    assert "at which storage had come to g:2" in scene.wrong()[0]
