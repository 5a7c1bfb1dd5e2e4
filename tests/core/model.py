"""A register and its views in the plainest terms, to hold the real ones against."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import strategies as st
from pyroaring import BitMap

from core import population
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from ndoo.register.snapshot import Snapshot
from ndoo.register.view import ALL_CLEARED, NOBODY_CLEARED, Verdict, View
from ndoo.revision import Revision

PEOPLE = population.keys_in_pages(5, 4)
NUMBERS = population.numbers(PEOPLE)
GENERATION = "model"

INDEX = st.integers(0, len(PEOPLE) - 1)
EVENTS = st.one_of(
    st.tuples(st.sampled_from([Kind.OPT_OUT, Kind.OPT_IN]), INDEX),
    st.tuples(st.just(Kind.OPT_OUT), INDEX),
    st.tuples(st.just(Kind.SUPERSEDE), INDEX, INDEX),
    st.tuples(st.sampled_from([Kind.SUSPEND, Kind.RESUME])),
)
BATCHES = st.lists(EVENTS, max_size=12)


def change(event: tuple, seq: int) -> Change:
    return Change(event[0], seq, *(PEOPLE[index] for index in event[1:]))


def numbered(events: list[tuple], after: int) -> list[Change]:
    return [change(event, seq) for seq, event in enumerate(events, after + 1)]


def register_of(keys: list[int], **more: object) -> Register:
    return Register(
        Snapshot(Revision(GENERATION, 0), "0", "2026-01-01T00:00:00Z", BitMap(keys), **more)
    )


class Model:
    """Who is out, and which keys are one person, in the plainest terms."""

    def __init__(self, out: set[int]) -> None:
        self.out = set(out)
        self.persons = [{key} for key in PEOPLE]
        self.suspended = False
        self.last: Change | None = None

    def apply(self, event: tuple) -> None:
        seq = self.last.seq if self.last is not None else 0
        self.last = change(event, seq + 1)
        kind = event[0]
        keys = [PEOPLE[index] for index in event[1:]]
        match kind:
            case Kind.OPT_OUT:
                self.out |= self.person(keys[0])
            case Kind.OPT_IN:
                self.out -= self.person(keys[0])
            case Kind.SUPERSEDE:
                joined = self.person(keys[0]) | self.person(keys[1])
                self.persons = [one for one in self.persons if not one & joined] + [joined]
                if joined & self.out:
                    self.out |= joined
            case Kind.SUSPEND | Kind.RESUME:
                self.suspended = kind is Kind.SUSPEND

    def person(self, key: int) -> set[int]:
        return next(one for one in self.persons if key in one)


def answers_as(current: View, out: set[int]) -> None:
    """Fail unless *current* says of everybody, one by one and in bulk, what *out* says."""
    expected = [Verdict.OPTED_OUT if key in out else Verdict.CLEARED for key in PEOPLE]
    assert [current.check(number) for number in NUMBERS.tolist()] == expected
    answers = current.check_many(NUMBERS)
    bits = np.unpackbits(np.frombuffer(answers.cleared, np.uint8), bitorder="little")
    assert bits[: len(PEOPLE)].tolist() == [verdict is Verdict.CLEARED for verdict in expected]
    assert answers.invalid == b""
    assert answers.opted_out_count == current.opt_outs == len(out)


def audit(views: list[View]) -> None:
    """Fail if a slot that a living view uses could be written again."""
    for arena in {id(one._arena): one._arena for one in views}.values():
        free = Counter(arena._free)
        retired = Counter(arena._retired)
        assert max((free + retired).values(), default=1) == 1, "a slot would be taken back twice"
        assert not {NOBODY_CLEARED, ALL_CLEARED} & {*free, *retired}
        for one in views:
            if one._arena is arena:
                assert not free.keys() & set(one._pages.tolist()), "a slot in use is free"
