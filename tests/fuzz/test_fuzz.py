"""A short, repeatable run of each target: all that is stored, and some of it bent."""

from __future__ import annotations

import random

import pytest

from fuzz import corpus
from fuzz.mutation import mutated
from fuzz.target import Target
from fuzz.targets import TARGETS

SEED = 20_240_229
RUNS = 1000


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_a_finding(name: str):
    target = TARGETS[name]
    seeds = [*corpus.stored(target), *corpus.found(target)]
    assert seeds
    rng = random.Random(f"{SEED} {name}")
    for data in [*seeds, *(mutated(rng, seeds, target.bytes_max) for _ in range(RUNS))]:
        _run(target, data)


def _run(target: Target, data: bytes) -> None:
    try:
        target.run(data)
    except Exception as finding:
        raise AssertionError(f"{target.name}: a finding at {data!r}") from finding


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_stored_is_what_the_targets_make(name: str):
    target = TARGETS[name]
    stored = (corpus.HERE / "corpus" / f"{name}.txt").read_text("ascii")
    assert stored == corpus.text_of(target), "write it anew with python -m fuzz --corpus"
    assert len(stored) < 64 * 1024


def test_nothing_is_stored_that_no_target_reads():
    for place in ("corpus", "found"):
        names = {path.stem for path in (corpus.HERE / place).iterdir()}
        assert names <= set(TARGETS), place


def test_a_finding_is_noticed():
    def tells(data: bytes) -> None:
        raise ValueError(data)

    with pytest.raises(AssertionError, match="a finding at b'x'"):
        _run(Target(tells, lambda: [b"x"]), b"x")
