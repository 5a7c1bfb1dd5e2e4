"""Sets of keys as Roaring bitmaps: the compiled loop against bitmaps and sets of Python."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap, BitMap64

from core import hostile, population
from core.settings import CORE
from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, REPDIGIT
from ndoo.register.sets import BadSet, SetAnswers, claimed_count
from ndoo.register.view import View
from ndoo.revision import Revision

REVISION = Revision("sets", 1)
RNG = np.random.default_rng(population.SEED)
CROWD = np.concatenate(
    [
        RNG.integers(0, KEY_MAX + 1, 20_000),
        np.arange(KEY_MAX - 3_000, KEY_MAX + 1, 3),
        np.arange(0, 3_000, 3),
        np.arange(7 * 65_536, 7 * 65_536 + 30_000, 2),
    ]
)
OPTED_OUT = np.unique(CROWD).astype(np.uint32)
VIEW = View.of(OPTED_OUT, REVISION)
OUT = BitMap(OPTED_OUT)


def issued(keys: np.ndarray) -> np.ndarray:
    """Which keys belong to a valid number."""
    return (nhs_number.check_digits(keys) != 10) & (keys % (REPDIGIT // 10) != 0)


def ask(data: bytes) -> SetAnswers:
    return VIEW.check_set(np.frombuffer(data, dtype=np.uint8))


def agree(keys: BitMap, data: bytes) -> None:
    """Fail unless the answer to *data*, which holds *keys*, is right in every key and count."""
    listed = np.array(keys.to_array(), dtype=np.uint64)
    valid = BitMap(listed[issued(listed)].astype(np.uint32))
    answers = ask(data)
    cleared = BitMap.deserialize(answers.cleared)
    assert cleared == valid - OUT
    assert cleared.serialize() == answers.cleared, "not in the portable form"
    assert answers.count == len(keys) == claimed_count(np.frombuffer(data, dtype=np.uint8))
    assert answers.cleared_count == len(cleared)
    assert answers.invalid_count == len(keys) - len(valid)
    assert answers.opted_out_count == len(valid & OUT)


def both_forms(keys: BitMap) -> list[bytes]:
    optimised = keys.copy()
    optimised.run_optimize()
    return [keys.serialize(), optimised.serialize()]


STARTS = st.integers(0, KEY_MAX) | st.sampled_from(
    [0, 65_530, 7 * 65_536, KEY_MAX - 40, int(OPTED_OUT[500]), REPDIGIT // 10 * 9 - 20]
)
RANGES = st.lists(st.tuples(STARTS, st.integers(1, 300)), max_size=8)


@CORE
@given(st.sets(st.integers(0, KEY_MAX)), RANGES)
def test_any_set(keys: set[int], ranges: list[tuple[int, int]]):
    everyone = BitMap(keys)
    for start, size in ranges:
        everyone |= BitMap(range(start, min(start + size, KEY_MAX + 1)))
    for data in both_forms(everyone):
        agree(everyone, data)


@pytest.mark.parametrize("count", [1, 100, 4_095, 4_096, 4_097, 30_000, 65_535, 65_536])
@pytest.mark.parametrize("page", [0, 7, 9_999, KEY_MAX // 65_536 - 1])
def test_containers_of_every_kind(page: int, count: int):
    lows = np.random.default_rng(count).choice(65_536, count, replace=False)
    keys = BitMap((lows + page * 65_536).astype(np.uint32))
    for data in both_forms(keys):
        agree(keys, data)
    run = BitMap(range(page * 65_536, page * 65_536 + count))
    for data in both_forms(run):
        agree(run, data)


def test_every_never_issued_key_is_invalid():
    """All keys of pages that begin at every place within a thousand, and around repdigits."""
    pages = {
        0,
        KEY_MAX >> 16,
        *range(100, 225, 2),
        *(d * (REPDIGIT // 10) >> 16 for d in range(10)),
    }
    for page in sorted(pages):
        keys = BitMap(range(page << 16, min(page + 1 << 16, KEY_MAX + 1)))
        agree(keys, keys.serialize())


def test_everybody_at_once():
    keys = BitMap(np.unique(RNG.integers(0, KEY_MAX + 1, 300_000)).astype(np.uint32)) | OUT
    for data in both_forms(keys):
        agree(keys, data)


def test_data_at_any_address():
    keys = BitMap(CROWD[:5_000].astype(np.uint32))
    for offset in range(8):
        data = np.frombuffer(bytes(offset) + keys.serialize(), dtype=np.uint8)[offset:]
        answers = VIEW.check_set(data)
        assert answers == ask(keys.serialize())


def test_no_bytes_and_no_keys():
    for data in (b"", BitMap().serialize()):
        answers = ask(data)
        assert len(BitMap.deserialize(answers.cleared)) == 0
        assert (answers.count, answers.cleared_count, answers.invalid_count) == (0, 0, 0)


def test_sets_and_numbers_get_the_same_answers():
    numbers = population.numbers([int(key) for key in CROWD[issued(CROWD.astype(np.uint64))]])
    one_by_one = VIEW.check_many(np.sort(np.unique(numbers)))
    in_a_set = ask(BitMap((numbers // 10).astype(np.uint32)).serialize())
    assert one_by_one.cleared_count == in_a_set.cleared_count
    assert in_a_set.invalid_count == 0


@pytest.mark.parametrize("key", [KEY_MAX + 1, KEY_MAX + 5_000, 15_259 << 16, 2**31, 2**32 - 1])
def test_a_key_of_more_than_nine_digits_is_refused(key: int):
    for others in (BitMap(), BitMap(CROWD[:50].astype(np.uint32))):
        with pytest.raises(BadSet, match="nine digits"):
            ask((others | BitMap([key])).serialize())


def test_inconsistent_bitmaps_are_refused():
    for name, raw, _ in hostile.inconsistent_bitmaps():
        with pytest.raises(BadSet):
            print(name, ask(raw))  # noqa: T201


def test_offsets_that_lead_elsewhere_are_refused():
    # Readers that follow the offsets would see other keys than readers that do not.
    good = hostile.array_bitmap([1, 3, 5])
    for offset in (0, 15, 17, 18, 2**32 - 1):
        with pytest.raises(BadSet):
            ask(good[:12] + offset.to_bytes(4, "little") + good[16:])


@pytest.mark.parametrize("keys", [BitMap(range(5)), BitMap(CROWD[:2_000].astype(np.uint32))])
def test_any_length_but_the_whole_is_refused(keys: BitMap):
    for raw in both_forms(keys):
        for size in {*range(1, min(len(raw), 300)), *range(300, len(raw), 97), len(raw) - 1}:
            with pytest.raises(BadSet):
                ask(raw[:size])
        for more in (b"\x00", raw):
            with pytest.raises(BadSet):
                ask(raw + more)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00",
        b"\x3a\x30",
        b"\x3a\x30\x00\x00",
        b"\x3b\x30\xff\xff",
        b"\xff" * 64,
        b"\x3a\x30\x00\x00" + b"\xff" * 60,
        BitMap64([1, 2]).serialize(),
        b"999 000 0026",
    ],
    ids=ascii,
)
def test_what_is_not_roaring_is_refused(raw: bytes):
    with pytest.raises(BadSet):
        ask(raw)


def main(seed: int) -> None:
    """Ask with many mutated bitmaps: refused, or answered as what they hold."""
    rng = random.Random(seed)
    sparse = BitMap(CROWD[:40].astype(np.uint32))
    mixed = BitMap(CROWD.astype(np.uint32)) & BitMap(range(8 * 65_536))
    mixed |= BitMap(range(900_000, 910_000)) | sparse
    outcome = {"refused": 0, "read": 0}
    for raw in (*both_forms(sparse), *both_forms(mixed)):
        for _ in range(500):
            bad = hostile.mutated(rng, raw) or b"\x00"  # no bytes at all are no keys
            try:
                ask(bad)
            except BadSet:
                outcome["refused"] += 1
                continue
            agree(BitMap.deserialize(bad), bad)
            outcome["read"] += 1
    print(json.dumps(outcome))  # noqa: T201


@pytest.mark.parametrize("seed", range(3))
def test_hostile_sets_are_refused_or_answered_as_what_they_hold(seed: int):
    # In a process of its own, since what might happen is a crash of the reader.
    call = (
        f"import sys; sys.path[:0] = ['tests']; from core import test_sets; test_sets.main({seed})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", call],
        capture_output=True,
        check=False,
        cwd=str(hostile.ROOT),
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2_000:]
    outcome = json.loads(ran.stdout)
    assert outcome["refused"] > 1_000, outcome
    assert outcome["read"] > 5, outcome
