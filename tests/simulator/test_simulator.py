"""The simulator in short, and proof that it can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ndoo.errors import ChangeRefused
from ndoo.feed import redis as feed_redis
from ndoo.feed.follower import Follower
from ndoo.feed.redis import _Look
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from ndoo.register.replica import Replica
from simulator.faults import KINDS
from simulator.report import Total, run_all, run_one

SEEDS = range(1, 51)  # of each place, each kind of fault is sure of one
PROCESSES = 2
SEEDS_UNTIL_CAUGHT_MAX = 40

Plant = Callable[[pytest.MonkeyPatch], None]


def test_no_schedule_of_faults_leads_to_a_wrong_answer() -> None:
    total = run_all(SEEDS, PROCESSES)
    assert not total.failed, "\n".join(total.lines())
    assert not total.never_fired
    assert total.counts["answered"] > 1000
    assert total.counts["refused"] > 100
    assert total.counts["changes acknowledged"] > 1000


def test_a_seed_tells_the_same_story_twice() -> None:
    for seed in (2, 3):
        first, second = run_one(seed), run_one(seed)
        assert (first.trace, first.counts) == (second.trace, second.counts)


def test_what_never_struck_is_told() -> None:
    total = Total()
    total.add(run_one(1))
    assert set(total.never_fired) == set(KINDS) - set(total.fired)
    assert "never struck" in "\n".join(total.lines())


def no_gap_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Register, "_prove_sequence", lambda self, changes: None)


def add_for_remove(patch: pytest.MonkeyPatch) -> None:
    real = Register._work_out

    def work_out(self: Register, change: Change, *rest: object) -> None:
        if change.kind is Kind.OPT_OUT:
            change = replace(change, kind=Kind.OPT_IN)
        real(self, change, *rest)

    patch.setattr(Register, "_work_out", work_out)


def over_the_unreadable(patch: pytest.MonkeyPatch) -> None:
    real = feed_redis._decode

    def decode(entries: list[object]) -> tuple[tuple[Change, ...], ChangeRefused | None]:
        changes, refused = real(entries)
        if refused is not None and len(changes) + 1 < len(entries):
            following, refused = decode(entries[len(changes) + 1 :])
            changes = tuple(
                replace(change, seq=seq)
                for seq, change in enumerate(changes + following, following[0].seq)
            ) if following else changes  # fmt: skip
        return changes, refused

    patch.setattr(feed_redis, "_decode", decode)
    patch.setattr(Register, "_prove_sequence", lambda self, changes: None)


def published_before_verified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Follower, "_prove_same_history", lambda self, revision: None)


def always_complete(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_Look, "_refuse_lost", lambda self, *position: None)


def as_of_after_the_answer(patch: pytest.MonkeyPatch) -> None:
    real = Follower._publish

    def publish(self: Follower, course: object, view: object, confirmed_at: float | None) -> None:
        real(self, course, view, self._clock())

    patch.setattr(Follower, "_publish", publish)


def suspension_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Register, "suspended", property(lambda self: False))


def never_stale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replica, "_is_stale", lambda self, state, now: False)


@pytest.mark.parametrize(
    "plant",
    [
        no_gap_check,
        add_for_remove,
        over_the_unreadable,
        published_before_verified,
        always_complete,
        as_of_after_the_answer,
        suspension_forgotten,
        never_stale,
    ],
)
def test_a_planted_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(run_one(seed).wrong for seed in range(1, SEEDS_UNTIL_CAUGHT_MAX + 1))
