"""Any revision of the last while, from replicas that cut the same changes into other batches."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.model import (
    BATCHES,
    GENERATION,
    NUMBERS,
    PEOPLE,
    Model,
    answers_as,
    audit,
    change,
    register_of,
)
from core.settings import CORE
from ndoo.errors import RevisionGone
from ndoo.register import history as history_module
from ndoo.register import view as view_module
from ndoo.register.changes import Change, Kind
from ndoo.register.digest import digest_of
from ndoo.register.history import FEED_CLOCK_S_OFF_MAX, GRAIN_S, History, inverse_of
from ndoo.register.register import Flips, Register
from ndoo.register.view import View
from ndoo.revision import Revision

HISTORY_S = 100.0
FIRED: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    FIRED.clear()
    monkeypatch.setattr(history_module, "CHUNK_FLIPS", 5)
    monkeypatch.setattr(view_module, "_SPARE_SLOTS", 2)


class Truth:
    """Every change of one feed, when it was recorded, and who was out after it."""

    def __init__(self, out: set[int]) -> None:
        self.model = Model(out)
        self.changes: list[Change] = []
        self.out_at: list[set[int]] = [set(out)]

    def record(self, event: tuple, moment: float) -> None:
        made = change(event, len(self.changes) + 1)
        self.changes.append(replace(made, recorded_ms=round(moment * 1000)))
        self.model.apply(event)
        self.out_at.append(set(self.model.out))

    def overtaken_at(self, seq: int) -> float:
        """When the change after *seq* was recorded."""
        after = self.changes[seq:]
        return after[0].recorded_ms / 1000 if after else float("inf")


class Follows:
    """A replica: takes the changes in batches of its own and keeps their history."""

    def __init__(self, register: Register, flips_max: int) -> None:
        self.register = register
        self.began_at = register.revision.seq
        self.history = History(register.revision, HISTORY_S, flips_max)
        self.view = View.of(register.keys(), register.revision)
        self.confirmed: list[tuple[int, float]] = []

    def take(self, truth: Truth, count: int, now: float) -> None:
        at = self.register.revision.seq
        batch = truth.changes[at : at + count]
        applied = self.register.apply(batch)
        self.history.record(batch, applied)
        self.view = self.view.with_flips(applied, self.register.revision)
        if len(truth.changes) == self.register.revision.seq:
            self.history.confirm(self.register.revision.seq, now)
            self.confirmed.append((self.register.revision.seq, now))

    def at(self, seq: int) -> tuple[View, float] | None:
        """What this replica says of *seq*, and as of when; None if it holds it no more."""
        try:
            return self.history.view_at(seq, self.view), self.history.as_of(seq)
        except RevisionGone:
            return None


class HistoryMachine(RuleBasedStateMachine):
    """Three replicas of one feed, asked for anything at any time."""

    @initialize(out=st.sets(st.sampled_from(PEOPLE), min_size=1), caps=st.booleans())
    def start(self, out: set[int], caps: bool) -> None:
        self.now = 1000.0
        self.truth = Truth(out)
        self.flips_max = 30 if caps else 10_000
        self.replicas = [Follows(register_of(sorted(out)), self.flips_max) for _ in range(3)]
        self.held: list[tuple[View, int]] = []

    @rule(events=BATCHES, gap=st.sampled_from([0.0, 0.125, 1.0, 30.0]))
    def write(self, events: list[tuple], gap: float) -> None:
        for event in events:
            self.now = round(self.now + gap, 3)  # as exact as the moments of a feed
            self.truth.record(event, self.now)

    @rule(
        who=st.integers(0, 2), count=st.integers(0, 40), s=st.sampled_from([0.0, 0.25, 5.0, 60.0])
    )
    def follow(self, who: int, count: int, s: float) -> None:
        self.now = round(self.now + s, 3)
        self.replicas[who].take(self.truth, count, self.now)

    @rule(who=st.integers(0, 2))
    @precondition(lambda self: all(len(one.register) for one in self.replicas))
    def restart(self, who: int) -> None:
        snapshot = self.replicas[who].register.snapshot("0", "t")
        self.replicas[who] = Follows(Register(snapshot), self.flips_max)
        FIRED["restarted"] += 1

    @rule(seq=st.integers(0, 1000), hold=st.booleans())
    def ask(self, seq: int, hold: bool) -> None:
        seq %= len(self.truth.out_at)
        reached = [one for one in self.replicas if one.view.revision.seq >= seq]
        answers = [answer for one in reached if (answer := one.at(seq)) is not None]
        FIRED["gone"] += len(reached) - len(answers)
        FIRED["earlier"] += sum(one.view.revision.seq > seq for one in reached)
        for view, as_of in answers:
            self.is_true(view, seq, as_of)
        FIRED["agreed"] += len(answers) > 1
        if hold and answers:
            self.held.append((answers[0][0], seq))

    def is_true(self, view: View, seq: int, as_of: float) -> None:
        out = self.truth.out_at[seq]
        assert view.revision == Revision(GENERATION, seq)
        answers_as(view, out)
        assert view.digest() == digest_of(np.array(sorted(out), dtype=np.uint32))
        assert as_of <= min(self.truth.overtaken_at(seq), self.now)

    @rule(place=st.integers(0, 99))
    @precondition(lambda self: self.held)
    def let_go(self, place: int) -> None:
        self.held.pop(place % len(self.held))

    @invariant()
    def held_views_answer_as_at_their_revision(self) -> None:
        for view, seq in self.held:
            answers_as(view, self.truth.out_at[seq])
        for one in self.replicas:
            answers_as(one.view, self.truth.out_at[one.view.revision.seq])
        audit([one.view for one in self.replicas] + [view for view, _ in self.held])

    @invariant()
    def what_was_the_newest_within_the_time_is_kept(self) -> None:
        for one in self.replicas:
            latest = max((moment for _, moment in one.confirmed), default=0.0)
            for seq, moment in one.confirmed:
                if moment > latest - HISTORY_S and self.flips_max > 1_000:
                    answer = one.at(seq)
                    assert answer is not None
                    self.is_true(answer[0], seq, answer[1])
                    assert answer[1] >= moment - GRAIN_S
                    FIRED["kept"] += 1


def test_every_replica_answers_any_revision_as_it_was():
    run_state_machine_as_test(HistoryMachine, settings=settings(CORE, max_examples=60))
    for happening in ("restarted", "gone", "earlier", "agreed", "kept"):
        assert FIRED[happening], f"nothing in this run ever was {happening}"


def toggled(seq: int) -> Change:
    """Change *seq*: one person after the other changes their mind."""
    turn, person = divmod(seq - 1, len(PEOPLE))
    return Change(Kind.OPT_IN if turn % 2 else Kind.OPT_OUT, seq, PEOPLE[person])


def out_after(seq: int) -> set[int]:
    turns, persons = divmod(seq, len(PEOPLE))
    return {key for place, key in enumerate(PEOPLE) if (turns + (place < persons)) % 2}


def followed(register: Register, history: History, up_to: int) -> Flips:
    changes = [toggled(seq) for seq in range(register.revision.seq + 1, up_to + 1)]
    applied = register.apply(changes)
    history.record(changes, applied)
    return applied


def test_views_are_made_from_every_thread_while_changes_are_published():
    seed = 20_241_105
    register = register_of([])
    history = History(register.revision, HISTORY_S)
    history.confirm(0, 1.0)
    newest = [View.of(register.keys(), register.revision)]
    rng = random.Random(seed)

    def write() -> None:
        while register.revision.seq < 6_000:
            applied = followed(register, history, register.revision.seq + rng.randint(1, 7))
            newest[0] = newest[0].with_flips(applied, register.revision)
            history.confirm(register.revision.seq, 1.0)

    def read(number: int) -> int:
        chosen, held, asked = random.Random(seed + number), [], 0
        while not asked or not writing.done():
            latest = newest[0]
            seq = chosen.randint(0, latest.revision.seq)
            held = [*held[-3:], (history.view_at(seq, latest), seq)]
            for view, at in held:
                answers_as(view, out_after(at))
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(write)
        reading = [threads.submit(read, number) for number in range(3)]
        writing.result()
        assert all(one.result() for one in reading)
    answers_as(newest[0], out_after(register.revision.seq))


@CORE
@given(st.lists(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_the_inverse_leads_back(toggles: list[int], before: set[int]):
    out, steps = set(before), []
    for key in toggles:
        out ^= {key}
        steps.append(key << 1 | (key in out))
    back = inverse_of(np.array(steps, dtype=np.uint32))
    opted_out, opted_in = set(back.opted_out.tolist()), set(back.opted_in.tolist())
    assert opted_in <= out
    assert not opted_out & out
    assert (out | opted_out) - opted_in == before
    assert back.opted_out.tolist() == sorted(opted_out)
    assert back.opted_in.tolist() == sorted(opted_in)


def history_of(changes: int, flips_max: int = 10_000) -> tuple[Register, History]:
    register = register_of([])
    history = History(register.revision, HISTORY_S, flips_max)
    history.confirm(0, 1.0)
    followed(register, history, changes)
    history.confirm(changes, 2.0)
    return register, history


def is_gone(history: History, seq: int, register: Register) -> bool:
    view = View.of(register.keys(), register.revision)
    try:
        history.view_at(seq, view)
    except RevisionGone:
        with pytest.raises(RevisionGone):
            history.as_of(seq)
        return True
    answers_as(history.view_at(seq, view), out_after(seq))
    history.as_of(seq)
    return False


def test_over_the_cap_the_oldest_go():
    register, history = history_of(37, flips_max=20)  # chunks of 5: the last 17 are held
    assert [seq for seq in range(38) if not is_gone(history, seq, register)] == [*range(20, 38)]


def test_flips_of_one_change_are_undone_together_though_chunks_divide_them():
    register = register_of([])
    history = History(register.revision, HISTORY_S, flips_max=20)
    history.confirm(0, 1.0)
    joins = [Change(Kind.SUPERSEDE, n, PEOPLE[0], PEOPLE[n]) for n in range(1, 7)]
    choices = [Change(Kind.OPT_OUT if n % 2 else Kind.OPT_IN, n, PEOPLE[3]) for n in range(7, 11)]
    applied = register.apply([*joins, *choices])
    history.record([*joins, *choices], applied)
    view = View.of(register.keys(), register.revision)
    assert len(applied.steps) == 4 * 7
    person = set(PEOPLE[:7])
    kept = {8: set(), 9: person, 10: set()}
    for seq in range(11):
        if seq in kept:
            answers_as(history.view_at(seq, view), kept[seq])
        else:
            with pytest.raises(RevisionGone):
                history.view_at(seq, view)


def test_what_was_overtaken_before_the_time_is_gone():
    register, history = history_of(10)
    assert not is_gone(history, 0, register)
    followed(register, history, 20)
    history.confirm(20, 50.0)
    history.confirm(20, 101.5)  # nothing new, but an hour has passed since revision 0 was newest
    assert [seq for seq in range(21) if is_gone(history, seq, register)] == []
    history.confirm(20, 102.0)
    assert [seq for seq in range(21) if is_gone(history, seq, register)] == [*range(10)]
    history.confirm(20, 500.0)
    assert [seq for seq in range(21) if is_gone(history, seq, register)] == [*range(20)]


def test_a_history_of_no_time_keeps_nothing():
    register = register_of([])
    history = History(register.revision, 0.0)
    followed(register, history, 4)
    followed(register, history, 9)
    history.confirm(9, 1.0)
    for seq in range(9):
        with pytest.raises(RevisionGone):
            history.as_of(seq)
    assert not history._chunks


def test_catching_up_with_days_keeps_the_moments_of_the_last_while_only():
    days = [1000.0 + 2 * seq for seq in range(10_000)]
    register = register_of([])
    history = History(register.revision, HISTORY_S)
    changes = recorded(range(1, len(days) + 1), days)
    history.record(changes, register.apply(changes))
    assert len(history._marks) <= HISTORY_S / GRAIN_S + 1
    newest = register.revision.seq
    for seq in (newest - 1, newest - 40):
        assert history.as_of(seq) == days[seq] - FEED_CLOCK_S_OFF_MAX
    with pytest.raises(RevisionGone):
        history.as_of(newest // 2)


def test_the_moment_of_a_revision_is_the_last_at_which_it_was_known_to_be_the_newest():
    register, history = history_of(3)
    history.confirm(3, 30.0)
    followed(register, history, 8)
    history.confirm(8, 31.5)
    followed(register, history, 9)
    history.confirm(9, 40.0)
    assert [history.as_of(seq) for seq in range(10)] == [1.0] * 3 + [30.0] * 5 + [31.5] + [40.0]


def recorded(seqs: range, moments: list[float]) -> list[Change]:
    return [
        replace(toggled(seq), recorded_ms=int(moment * 1000)) for seq, moment in zip(seqs, moments)
    ]


def caught_up(moments: list[float], confirmed_at: float) -> History:
    """A history that began at a snapshot and read what had been recorded at *moments*."""
    register = register_of([])
    history = History(register.revision, HISTORY_S)
    changes = recorded(range(1, len(moments) + 1), moments)
    history.record(changes, register.apply(changes))
    history.confirm(len(changes), confirmed_at)
    return history


def test_what_a_replica_did_not_see_itself_is_as_old_as_the_feed_says():
    history = caught_up([1010, 1020, 1020.5, 1030], 1040.0)
    earlier = [1010, 1020, 1020, 1030]
    assert [history.as_of(seq) for seq in range(4)] == [
        moment - FEED_CLOCK_S_OFF_MAX for moment in earlier
    ]
    assert history.as_of(4) == 1040.0


def test_revisions_of_which_nobody_says_when_are_not_held():
    history = caught_up([0, 0, 0], 1040.0)
    for seq in range(3):
        with pytest.raises(RevisionGone):
            history.as_of(seq)
    assert history.as_of(3) == 1040.0


def test_a_writer_whose_clock_went_back_or_ahead_makes_no_revision_newer_than_it_is():
    history = caught_up([1010, 1080, 1020, 1200], 1050.0)
    at = [moment - FEED_CLOCK_S_OFF_MAX for moment in (1010, 1010, 1020)]
    assert [history.as_of(seq) for seq in range(3)] == at
    assert history.as_of(3) == at[2]  # the one after it claims to come from the future
    assert history.as_of(4) == 1050.0


def test_a_clock_set_back_takes_back_what_it_had_said():
    register, history = history_of(3)
    history.confirm(3, 5_000.0)
    followed(register, history, 4)
    history.confirm(4, 1.5)
    for seq in range(3):
        with pytest.raises(RevisionGone):
            history.as_of(seq)
    assert history.as_of(4) == 1.5


def test_a_history_with_a_hole_is_refused():
    register, history = history_of(3)
    changes = [toggled(seq) for seq in (5, 6)]
    with pytest.raises(RuntimeError, match="next change"):
        history.record(changes, register_of([]).apply([toggled(1)]))
    followed(register, History(register.revision, HISTORY_S), 7)
    ahead = View.of(register.keys(), register.revision)
    with pytest.raises(RuntimeError, match="same history"):
        history.view_at(1, ahead)  # the history has not heard of 4 to 7
    other = View.of(np.array(PEOPLE[:3], np.uint32), Revision("other", 3))
    with pytest.raises(RuntimeError, match="same history"):
        history.view_at(1, other)


def test_a_view_that_does_not_count_up_is_not_used():
    register, history = history_of(3)
    wrong = View.of(np.array(PEOPLE[10:12], np.uint32), register.revision)
    with pytest.raises(RuntimeError, match="every opt-out"):
        history.view_at(1, wrong)


def test_an_hour_of_marks_is_one_a_second():
    history = History(Revision(GENERATION, 0), 3600.0)
    for seq in range(1, 40_001):
        history._recorded = seq
        history.confirm(seq, 1000 + seq / 100)
    assert 350 < len(history._marks) < 450
    for seq in (5, 777, 39_999):
        assert 0 <= 1000 + seq / 100 - history.as_of(seq) <= GRAIN_S + 0.02


def test_the_digest_is_as_written():
    keys = np.array([999_000_002, 999_000_004, 999_070_000], dtype=np.uint32)
    by_hand = hashlib.sha256(b"".join(int(key).to_bytes(4, "little") for key in keys)).digest()
    assert digest_of(keys) == by_hand
    assert View.of(keys, Revision("a", 1)).digest() == by_hand
    assert View.of(keys, Revision("b", 7)).digest() == by_hand
    assert digest_of(keys[:2]) != by_hand


@CORE
@given(st.sets(st.integers(0, 999_999_999) | st.integers(999_000_000, 999_000_300)))
def test_the_keys_of_a_view_are_those_it_was_made_of(keys: set[int]):
    ascending = np.array(sorted(keys), dtype=np.uint32)
    assert (View.of(ascending, Revision("a", 1)).keys() == ascending).all()


def test_a_view_whose_tables_are_damaged_has_no_digest():
    view = View.of(np.array(PEOPLE[:3], np.uint32), Revision("a", 1))
    slot = int(view._pages[PEOPLE[0] >> 16])
    view._arena.detail[slot * 8192] ^= 1
    with pytest.raises(RuntimeError, match="every opt-out"):
        view.digest()
    assert view.check(int(NUMBERS[0]))
