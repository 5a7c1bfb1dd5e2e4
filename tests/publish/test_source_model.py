"""Whoever chose after the source was drawn, by any history of choices, joins, trims and loads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyroaring import BitMap

from ndoo.errors import SnapshotRefused
from ndoo.publish.source import CLOCK_SKEW_MS, InPlace, Terms, settle, whole_persons
from ndoo.register.changes import Change
from ndoo.register.register import Register
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision
from support.people import KEYS, opt_in, opt_out, supersede

PEOPLE = st.integers(0, 3)
ALWAYS_OUT = KEYS[9]  # so that no source is empty
START_MS = 1_700_000_000_000
seen: Counter[str] = Counter()


def register_of(keys: BitMap, links: tuple[tuple[int, ...], ...] = ()) -> Register:
    return Register(Snapshot(Revision("g", 0), "0", "then", keys, links))


class Loads(RuleBasedStateMachine):
    """*truth* is every change with the moment it was made, by the clock of the source; *held* is
    what the feed still holds, dated by its own clock.
    """

    @initialize(skew_ms=st.integers(-CLOCK_SKEW_MS, CLOCK_SKEW_MS))
    def begin(self, skew_ms: int) -> None:
        self.skew_ms = skew_ms
        self.now_ms = START_MS
        self.register = register_of(BitMap([ALWAYS_OUT]))
        self.began_ms: int | None = START_MS + skew_ms
        self.truth: list[tuple[int, Change]] = []
        self.source: list[tuple[int, int, bool]] = []
        self.held: list[Change] = []

    @rule(person=PEOPLE, out=st.booleans())
    def choose(self, person: int, out: bool) -> None:
        self._record(opt_out(person) if out else opt_in(person))

    @rule(old=PEOPLE, new=PEOPLE)
    def join(self, old: int, new: int) -> None:
        self._record(supersede(old, new))

    @rule(person=PEOPLE, out=st.booleans())
    def tell_the_source(self, person: int, out: bool) -> None:
        self._tick()
        self.source.append((self.now_ms, KEYS[person], out))

    @rule(minutes=st.integers(1, 10))
    def wait(self, minutes: int) -> None:
        self.now_ms += minutes * 60_000

    @rule(keep=st.integers(1, 6))
    def trim(self, keep: int) -> None:
        """As snapshots do: one that was there before the last changes has taken the place of the
        one with which the generation began.
        """
        if self.held:
            self.held = self.held[-keep:]
            self.began_ms = None

    @rule(age=st.sampled_from([0, 0, 0, 1, 2, 4, 8]), dated=st.sampled_from([True, True, False]))
    def load(self, age: int, dated: bool) -> None:
        drawn_ms = max(START_MS, self.now_ms - age * 60_000)
        source = self._source_at(drawn_ms)
        in_place = self.register.snapshot("0", "now")
        terms = Terms(drawn_ms if dated else None, accept_jump=True)
        try:
            settled = settle(source, terms, InPlace(in_place, self.began_ms), list(self.held))
        except SnapshotRefused:
            seen["refused"] += 1
            return
        must_be_out = self._out_since(drawn_ms, source) if dated else self._out_by_held(source)
        assert must_be_out <= settled.keys
        seen["dated" if dated else "undated"] += 1
        seen["kept"] += bool(settled.kept)
        seen["released"] += bool(settled.released)
        self._begin_generation(settled.keys, settled.standing)

    def _tick(self) -> None:
        self.now_ms += 1

    def _record(self, change: Change) -> None:
        self._tick()
        self.truth.append((self.now_ms, change))
        seq = self.register.revision.seq + 1
        recorded = replace(change, seq=seq, recorded_ms=self.now_ms + self.skew_ms)
        self.register.apply([recorded])
        self.held.append(recorded)

    def _source_at(self, moment_ms: int) -> BitMap:
        state = {key: out for told_ms, key, out in self.source if told_ms <= moment_ms}
        return BitMap([ALWAYS_OUT, *(key for key, out in state.items() if out)])

    def _out_since(self, drawn_ms: int, source: BitMap) -> BitMap:
        """Who is opted out if the source is taken at its word, and then every change since."""
        before = register_of(BitMap())
        self._apply(before, [change for made_ms, change in self.truth if made_ms <= drawn_ms])
        links = before.snapshot("0", "now").links
        since = register_of(whole_persons(source, links), links)
        self._apply(since, [change for made_ms, change in self.truth if made_ms > drawn_ms])
        return since.snapshot("0", "now").keys

    def _out_by_held(self, source: BitMap) -> BitMap:
        touched = BitMap(
            [key for change in self.held for key in (change.key, change.new_key) if key is not None]
        )
        in_place = self.register.snapshot("0", "now")
        return whole_persons((touched & in_place.keys) | source, in_place.links)

    def _apply(self, register: Register, changes: list[Change]) -> None:
        for change in changes:
            register.apply([replace(change, seq=register.revision.seq + 1)])

    def _begin_generation(self, keys: BitMap, standing: tuple[Change, ...]) -> None:
        links = self.register.snapshot("0", "now").links
        self.register = register_of(keys, links)
        self._tick()
        self.began_ms = self.now_ms + self.skew_ms
        self.held = [replace(change, seq=seq) for seq, change in enumerate(standing, 1)]
        self.register.apply(self.held)
        assert self.register.snapshot("0", "now").keys == keys  # which these alter in nothing


def test_no_source_undoes_an_opt_out_made_since_it_was_drawn() -> None:
    run_state_machine_as_test(
        Loads,
        settings=settings(max_examples=300, stateful_step_count=40, deadline=None, print_blob=True),
    )
    assert min(seen[what] for what in ("refused", "dated", "undated", "kept", "released")) > 10
