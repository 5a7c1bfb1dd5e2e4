"""Register and views against a model made of sets, step by step, and under many threads."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pyroaring import BitMap

from core import population
from core.model import (
    BATCHES,
    GENERATION,
    NUMBERS,
    PEOPLE,
    Model,
    answers_as,
    audit,
    change,
    numbered,
    register_of,
)
from core.settings import CORE
from ndoo.errors import NdooError, SequenceBroken, SnapshotRefused
from ndoo.register import snapshot, view
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Flips, Register
from ndoo.register.snapshot import Snapshot
from ndoo.register.view import Verdict, View
from ndoo.revision import SEQ_MAX, Revision

FIRED: Counter[str] = Counter()


@pytest.fixture(name="small_arenas")
def _small_arenas(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Arenas with next to no spare slots, and a count of what that causes."""
    FIRED.clear()
    moved, reclaim = View._moved, view._Arena._reclaim

    def counted_move(self: View, slots: int) -> View:
        FIRED["moved"] += 1
        return moved(self, slots)

    def counted_reclaim(self: view._Arena) -> None:
        before = len(self._free)
        reclaim(self)
        FIRED["reclaimed"] += len(self._free) - before
        FIRED["kept"] += bool(self._retired)

    monkeypatch.setattr(view, "_SPARE_SLOTS", 1)
    monkeypatch.setattr(View, "_moved", counted_move)
    monkeypatch.setattr(view._Arena, "_reclaim", counted_reclaim)
    return FIRED


class RegisterMachine(RuleBasedStateMachine):
    """The register, the newest view and some held ones beside the model."""

    @initialize(out=st.sets(st.sampled_from(PEOPLE), min_size=1))
    def start(self, out: set[int]) -> None:
        self.model = Model(out)
        self.register = register_of(sorted(out))
        self.view = View.of(self.register.keys(), self.register.revision)
        self.held: list[tuple[View, set[int]]] = []

    @rule(events=BATCHES)
    def apply(self, events: list[tuple]) -> None:
        before = set(self.model.out)
        flips = self.register.apply(numbered(events, self.register.revision.seq))
        for event in events:
            self.model.apply(event)
        assert flips.opted_out.tolist() == sorted(self.model.out - before)
        assert flips.opted_in.tolist() == sorted(before - self.model.out)
        self.view = self.view.with_flips(flips, self.register.revision)
        FIRED["flips"] += len(flips.opted_out) + len(flips.opted_in)

    @rule(events=BATCHES.filter(bool), at=st.integers(0, 11), off=st.sampled_from([-2, -1, 1, 9]))
    def break_the_sequence(self, events: list[tuple], at: int, off: int) -> None:
        changes = numbered(events, self.register.revision.seq)
        at %= len(changes)
        changes[at:] = [
            change(event, at_seq.seq + off) for event, at_seq in zip(events[at:], changes[at:])
        ]
        revision, suspended = self.register.revision, self.register.suspended
        links = self.register.snapshot("0", "t").links
        with pytest.raises(SequenceBroken) as refused:
            self.register.apply(changes)
        assert refused.value.reason == ("GAP" if off > 0 else "BACKWARDS")
        assert (self.register.revision, self.register.suspended) == (revision, suspended)
        assert self.register.snapshot("0", "t").links == links
        FIRED["broken"] += 1

    @rule(move_views=st.booleans())
    @precondition(lambda self: self.model.out)
    def round_trip(self, move_views: bool) -> None:
        before = self.register.snapshot("12-0", "2026-01-01T00:00:00Z")
        after = snapshot.unpack(snapshot.pack(before))
        assert after == before
        assert after.links == tuple(
            sorted(tuple(sorted(one)) for one in self.model.persons if len(one) > 1)
        )
        self.register = Register(after)
        if move_views:
            self.view = View.of(self.register.keys(), self.register.revision)
        FIRED["links"] += len(after.links)

    @rule()
    @precondition(lambda self: not self.model.out)
    def an_empty_register_is_never_packed(self) -> None:
        with pytest.raises(SnapshotRefused):
            snapshot.pack(self.register.snapshot("0", "t"))

    @rule()
    def hold(self) -> None:
        self.held.append((self.view, set(self.model.out)))

    @rule(place=st.integers(0, 99))
    @precondition(lambda self: self.held)
    def let_go(self, place: int) -> None:
        self.held.pop(place % len(self.held))

    @invariant()
    def register_is_as_the_model(self) -> None:
        assert self.register.keys().tolist() == sorted(self.model.out)
        assert len(self.register) == len(self.model.out)
        assert all((key in self.register) == (key in self.model.out) for key in PEOPLE)
        assert self.register.suspended == self.model.suspended
        assert self.register.last == self.model.last

    @invariant()
    def views_answer_as_at_their_revision(self) -> None:
        assert self.view.revision == self.register.revision
        for one, out in [(self.view, self.model.out), *self.held]:
            answers_as(one, out)
        audit([self.view, *(one for one, _ in self.held)])


def test_register_and_views_are_as_the_model(small_arenas: Counter[str]):
    run_state_machine_as_test(RegisterMachine, settings=settings(CORE, max_examples=80))
    for happening in ("flips", "broken", "links", "moved", "reclaimed", "kept"):
        assert small_arenas[happening], f"nothing in this run ever {happening}"


def flips(opted_out: list[int], opted_in: list[int]) -> Flips:
    return Flips(np.array(opted_out, dtype=np.uint32), np.array(opted_in, dtype=np.uint32))


def revision(seq: int) -> Revision:
    return Revision(GENERATION, seq)


def out_at(seq: int) -> set[int]:
    """Key number i changes its mind at every (i + 2)nd revision."""
    return {key for i, key in enumerate(PEOPLE) if seq // (i + 2) % 2}


def flips_at(seq: int) -> Flips:
    before, after = out_at(seq - 1), out_at(seq)
    return flips(sorted(after - before), sorted(before - after))


def test_readers_never_see_a_wrong_answer_while_views_are_published(small_arenas: Counter[str]):
    newest = [View.of(np.array([], dtype=np.uint32), revision(0))]

    def write() -> None:
        for seq in range(1, 4_001):
            newest[0] = newest[0].with_flips(flips_at(seq), revision(seq))

    def read(held: int) -> set[int]:
        views: list[View] = []
        for turn in count():
            views.append(newest[0])
            for one in (views[-1], views[turn % len(views)]):
                answers_as(one, out_at(one.revision.seq))
            del views[: len(views) - held]
            if not writing.running() or turn == 5_000:
                return {turn}
        return set()

    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(write)
        reading = [threads.submit(read, held) for held in (1, 4, 16)]
        writing.result()
        assert all(one.result() for one in reading)
    assert newest[0].revision.seq == 4_000
    assert small_arenas["reclaimed"] > 0


def test_a_view_that_dies_while_slots_are_taken_back_frees_none_of_its_followers(
    small_arenas: Counter[str],
):
    first = View.of(np.array(PEOPLE[:1], dtype=np.uint32), revision(0))
    held = first.with_flips(flips(PEOPLE[1:2], []), revision(1))
    newest = held.with_flips(flips([], PEOPLE[:1]), revision(2))
    arena = newest._arena
    looks = iter([first])
    arena._views[0] = lambda: next(looks, None)  # a reader lets go between two looks
    arena._reclaim()
    audit([held, newest])
    assert next(looks, None) is None, "the view was not looked at"


def test_a_view_that_is_held_does_not_make_the_list_of_views_grow(small_arenas: Counter[str]):
    held = newest = View.of(np.array(PEOPLE[:1], dtype=np.uint32), revision(0))
    for seq in range(1, 1000):
        newest = newest.with_flips(flips([], []), revision(seq))
    arena = newest._arena
    assert arena is held._arena
    assert len(arena._views) < 200
    assert not arena._retired
    audit([held, newest])


def test_a_batch_that_fails_half_way_leaves_the_view_and_its_pages_alone():
    current = View.of(np.array(PEOPLE[:8], dtype=np.uint32), revision(0))
    bad = Flips(np.array(PEOPLE[8:9], np.uint32), np.array(PEOPLE[:1], np.uint64))
    with pytest.raises(TypeError):
        current.with_flips(bad, revision(1))
    answers_as(current, set(PEOPLE[:8]))
    following = current.with_flips(flips(PEOPLE[8:9], PEOPLE[:1]), revision(1))
    audit([current, following])
    answers_as(current, set(PEOPLE[:8]))
    answers_as(following, set(PEOPLE[1:9]))


def test_a_batch_over_more_pages_than_are_spare(small_arenas: Counter[str]):
    many = population.keys_in_pages(60, 1, seed=7)
    current = View.of(np.array(many[:1], dtype=np.uint32), revision(0))
    following = current.with_flips(flips(many[1:], []), revision(1))
    assert small_arenas["moved"] == 1
    assert following.check_many(population.numbers(many)).cleared_count == 0
    assert current.check_many(population.numbers(many)).cleared_count == len(many) - 1


def test_only_the_newest_view_is_continued():
    current = View.of(np.array(PEOPLE[:1], dtype=np.uint32), revision(0))
    following = current.with_flips(flips(PEOPLE[1:2], []), revision(1))
    with pytest.raises(RuntimeError, match="newest"):
        current.with_flips(flips(PEOPLE[2:3], []), revision(1))
    answers_as(following, set(PEOPLE[:2]))


@pytest.mark.parametrize("keys", [[5, 5], [10**9 + 65_536], [2**32 - 1]])
def test_a_view_of_keys_that_its_tables_cannot_hold_is_refused(keys: list[int]):
    with pytest.raises((RuntimeError, IndexError)):
        View.of(np.array(keys, dtype=np.uint32), revision(0))


def test_what_is_not_a_number_is_invalid():
    current = View.of(np.array(PEOPLE[:1], dtype=np.uint32), revision(0))
    wrong = [None, -1, 0, int(NUMBERS[1]) + 1 - 2 * (int(NUMBERS[1]) % 10 == 9), 10**10, 2**64]
    assert [current.check(number) for number in wrong] == [Verdict.INVALID] * len(wrong)


@pytest.mark.parametrize(
    ("seqs", "reason"),
    [([2], "GAP"), ([0], "BACKWARDS"), ([1, 1], "BACKWARDS"), ([1, 2, 4], "GAP"), ([9], "GAP")],
)
def test_nothing_of_a_broken_batch_is_applied(seqs: list[int], reason: str):
    register = register_of(PEOPLE[:1])
    batch = [Change(Kind.OPT_OUT, seq, PEOPLE[5]) for seq in seqs]
    with pytest.raises(SequenceBroken) as refused:
        register.apply(batch)
    assert refused.value.reason == reason
    assert register.revision == revision(0)
    assert register.keys().tolist() == PEOPLE[:1]


def test_a_number_in_the_place_of_a_sequence_number_is_not_told():
    with pytest.raises(SequenceBroken) as refused:
        register_of(PEOPLE[:1]).apply([Change(Kind.OPT_OUT, 9990000026, PEOPLE[5])])
    assert "999" not in str(refused.value)


def test_a_change_of_no_known_shape_is_never_passed_over():
    register = register_of(PEOPLE[:1])
    odd = Change(Kind.OPT_OUT, 2, PEOPLE[1])
    object.__setattr__(odd, "key", np.uint32(PEOPLE[1]))
    with pytest.raises(ValueError, match="passed over"):
        register.apply([Change(Kind.OPT_OUT, 1, PEOPLE[2]), odd])
    assert register.revision == revision(0)
    assert register.keys().tolist() == PEOPLE[:1]


def test_no_sequence_number_follows_the_last():
    last = Snapshot(Revision(GENERATION, SEQ_MAX), "0", "t", BitMap(PEOPLE[:1]))
    register = Register(last)
    with pytest.raises((ValueError, NdooError)):
        register.apply([Change(Kind.OPT_OUT, SEQ_MAX + 1, PEOPLE[1])])
    assert register.keys().tolist() == PEOPLE[:1]


def test_snapshots_and_registers_do_not_share_what_they_hold():
    first = Snapshot(revision(0), "0", "t", BitMap(PEOPLE[:1]))
    register = Register(first)
    register.apply([Change(Kind.OPT_OUT, 1, PEOPLE[1])])
    second = register.snapshot("1", "t")
    register.apply([Change(Kind.OPT_OUT, 2, PEOPLE[2])])
    assert [len(first.keys), len(second.keys), len(register)] == [1, 2, 3]


def test_the_worked_example_of_one_person_with_three_numbers():
    register = register_of([PEOPLE[0]])
    old, new, newest, other = PEOPLE[0], PEOPLE[4], PEOPLE[8], PEOPLE[12]
    changed = register.apply(
        [
            Change(Kind.SUPERSEDE, 1, old, new),  # opted out under the old number: now under both
            Change(Kind.SUPERSEDE, 2, new, newest),
        ]
    )
    assert changed.opted_out.tolist() == [new, newest]
    changed = register.apply([Change(Kind.OPT_IN, 3, newest)])  # the latest choice, for all three
    assert changed.opted_in.tolist() == [old, new, newest]
    changed = register.apply(
        [
            Change(Kind.OPT_OUT, 4, other),
            Change(Kind.SUPERSEDE, 5, other, old),  # merged with somebody who is out: all are out
        ]
    )
    assert changed.opted_out.tolist() == [old, new, newest, other]
    assert register.snapshot("0", "t").links == ((old, new, newest, other),)
    changed = register.apply([Change(Kind.OPT_IN, 6, old), Change(Kind.OPT_OUT, 7, newest)])
    assert changed.opted_out.tolist() == changed.opted_in.tolist() == []
    assert len(register) == 4


def test_an_old_view_that_is_held_pins_its_own_pages_and_no_later_ones(
    small_arenas: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    """A long stream must not make every publication after it copy the whole register."""
    monkeypatch.setattr(view, "_SPARE_SLOTS", 2)
    person = PEOPLE[:1]
    held = newest = View.of(np.array(person, dtype=np.uint32), revision(0))
    for seq in range(1, 301):
        newest = newest.with_flips(
            flips([], person) if seq % 2 else flips(person, []), revision(seq)
        )
        audit([held, newest])
    assert small_arenas["moved"] == 0
    assert small_arenas["reclaimed"] > 0
    number = int(NUMBERS[0])
    assert held.check(number) is Verdict.OPTED_OUT
    assert newest.check(number) is Verdict.OPTED_OUT
