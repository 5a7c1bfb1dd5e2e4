"""The compiled kernel against the plain reference, number for number and bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import reference
from core.reference import Tables
from core.settings import CORE
from ndoo.nhs_number import KEY_MAX, NOT_A_NUMBER, REPDIGIT
from ndoo.register import kernel
from ndoo.register.view import PAGES, View
from ndoo.revision import Revision

REVISION = Revision("kernel", 1)
SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 2047, 2048, 2049, 4096, 6143, 100_000)
TABLES = Tables.random(1)
HUGE = np.array(
    [2**bits + off for bits in range(34, 64) for off in (-1, 0, 1)]
    + [NOT_A_NUMBER, NOT_A_NUMBER - 1, 10**10, 10**10 + 1, 2**64 - 10, 18 * 10**18],
    dtype=np.uint64,
)


def as_array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def valid_numbers(rng: np.random.Generator, count: int) -> np.ndarray:
    numbers = rng.integers(0, 10**10, count * 12, dtype=np.uint64)
    return numbers[reference.is_valid(numbers)][:count]


def agree(tables: Tables, numbers: np.ndarray) -> None:
    reference.agree(tables.check(numbers), tables.expected(numbers))


@pytest.mark.parametrize("size", SIZES)
def test_any_size(size: int):
    rng = np.random.default_rng(size)
    # Mostly valid, so that a bit too many or too few at an edge is a wrong "cleared".
    numbers = np.concatenate([valid_numbers(rng, size), rng.integers(0, 2**64, 9, dtype=np.uint64)])
    agree(TABLES, rng.permutation(numbers)[:size])


@pytest.mark.parametrize("offset", range(8))
def test_read_only_numbers_at_any_address(offset: int):
    rng = np.random.default_rng(offset)
    numbers = valid_numbers(rng, 2_100)
    raw = bytes(offset) + numbers.tobytes()
    view = np.frombuffer(raw, dtype=np.uint64, offset=offset)
    assert not view.flags.writeable
    agree(TABLES, view)


def test_beyond_ten_digits_is_invalid_whatever_its_low_digits():
    rng = np.random.default_rng(3)
    valid = valid_numbers(rng, 2_000)
    wrapped = np.concatenate([valid + np.uint64(2**bits) for bits in range(34, 64)])
    tens = np.concatenate([valid + np.uint64(k * 10**10) for k in (1, 2, 9, 10, 99, 10**8, 10**9)])
    for numbers in (HUGE, wrapped, tens, rng.permutation(np.concatenate([wrapped, valid, HUGE]))):
        agree(TABLES, numbers)
    assert TABLES.check(tens).invalid_count == len(tens)
    assert TABLES.check(wrapped).cleared_count == 0


def test_around_every_multiple_of_100_000():
    # Division into halves is monotone: right on both sides of each step, it is right everywhere.
    multiples = np.arange(100_003, dtype=np.uint64) * np.uint64(100_000)
    for base in (multiples, np.array([2**31, 2**32, 2**33], dtype=np.uint64)):
        for off in (-2, -1, 0, 1, 2):
            agree(TABLES, base + np.uint64(off % 2**64))


def test_repdigits_and_their_neighbours():
    repdigits = np.arange(10, dtype=np.uint64) * np.uint64(REPDIGIT)
    assert TABLES.check(repdigits).invalid_count == 10
    for off in range(-20, 21):
        agree(TABLES, repdigits + np.uint64(off % 2**64))
    # Five equal digits twice, and halves that look alike, are not ten equal digits.
    halves = np.arange(100_000, dtype=np.uint64)
    agree(TABLES, halves * np.uint64(100_001))
    fives = np.arange(10, dtype=np.uint64) * np.uint64(11_111)
    agree(TABLES, (fives[:, None] * np.uint64(100_000) + fives).ravel())
    agree(TABLES, (fives[:, None] * np.uint64(100_000) + halves).ravel())
    agree(TABLES, (halves[:, None] * np.uint64(100_000) + fives).ravel())


@pytest.mark.parametrize("seed", range(2))
def test_digit_arithmetic_for_every_half(seed: int):
    """Every upper half with lower halves of each residue modulo 11, and the other way round.

    Validity depends on the sum of what the two halves contribute, modulo 11. A half that is weighed
    wrongly is valid with the wrong one of eleven residues.
    """
    for numbers in reference.every_half(seed):
        agree(TABLES, numbers)


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "one", "few"])
def test_bulk_in_any_order(order: str):
    rng = np.random.default_rng(11)
    numbers = valid_numbers(rng, 50_000)
    arranged = {
        "random": numbers,
        "ascending": np.sort(numbers),
        "descending": np.ascontiguousarray(np.sort(numbers)[::-1]),
        "one": np.full(50_000, numbers[0]),
        "few": rng.choice(numbers[:5], 50_000),
    }
    agree(TABLES, arranged[order])


NUMBERS = st.lists(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.integers(0, 10**10),
        st.integers(0, 10**5).map(lambda half: half * 10**5),
        st.sampled_from(HUGE.tolist()),
        st.integers(0, KEY_MAX).map(lambda key: key * 10 + (-weigh_key(key)) % 11 % 10),
    ),
    max_size=150,
)


def weigh_key(key: int) -> int:
    return sum(int(digit) * weight for digit, weight in zip(f"{key:09d}", reference.WEIGHTS)) % 11


@CORE
@given(NUMBERS)
def test_anything(numbers: list[int]):
    agree(TABLES, as_array(numbers))


def test_the_answer_to_a_number_does_not_depend_on_its_neighbours():
    # A block is filled, then overwritten by a shorter one: nothing of it may shine through.
    rng = np.random.default_rng(13)
    numbers = valid_numbers(rng, 2 * kernel.BLOCK + 1)
    both = TABLES.expected(numbers)
    for size in (kernel.BLOCK + 1, kernel.BLOCK + 63, 2 * kernel.BLOCK, 2 * kernel.BLOCK + 1):
        answers = TABLES.check(numbers[:size])
        assert answers.cleared == reference.bits(both.cleared[:size])


def test_tables_of_zeros_clear_nobody():
    numbers = valid_numbers(np.random.default_rng(17), 10_000)
    nothing = Tables(
        np.zeros(PAGES, np.uint32),
        np.zeros(kernel.SUMMARY_BYTES, np.uint8),
        np.zeros(kernel.DETAIL_BYTES, np.uint8),
    )
    answers = nothing.check(numbers)
    assert not any(answers.cleared)
    assert answers.cleared_count == 0
    assert answers.opted_out_count == len(numbers)


def test_a_summary_that_knows_nothing_costs_time_but_changes_no_answer():
    numbers = valid_numbers(np.random.default_rng(19), 10_000)
    blind = Tables(TABLES.pages, np.zeros_like(TABLES.summary), TABLES.detail)
    reference.agree(blind.check(numbers), TABLES.expected(numbers))


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([9_990_000_026], dtype=np.int64),
        np.array([999_000_002], dtype=np.uint32),
        np.array([9_990_000_026.0]),
        np.array([9_990_000_026], dtype=">u8"),
        np.array([[9_990_000_026]], dtype=np.uint64),
        np.array([9_990_000_026] * 4, dtype=np.uint64)[::2],
        np.array(["9990000026"]),
        [9_990_000_026],
        b"\x00" * 8,
        None,
    ],
    ids=["int64", "uint32", "float", "big-endian", "2-d", "strided", "text", "list", "raw", "none"],
)
def test_anything_but_plain_numbers_is_refused(numbers: object):
    cleared, invalid = kernel.empty_bits(8), kernel.empty_bits(8)
    with pytest.raises((TypeError, ValueError, NotImplementedError)):
        kernel.check(numbers, TABLES.pages, TABLES.summary, TABLES.detail, cleared, invalid)
    assert not cleared.any()


@CORE
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 500), max_size=30)), max_size=8))
def test_marking_keeps_detail_and_summary_in_step(marks: list[tuple[bool, list[int]]]):
    # Keys of two pages, close together, so that bytes fill and empty again.
    pages = np.array([2, 1], dtype=np.uint32)
    detail = np.full(3 * kernel.DETAIL_BYTES, 255, dtype=np.uint8)
    summary = np.full(3 * kernel.SUMMARY_BYTES, 255, dtype=np.uint8)
    opted_out: set[int] = set()
    for out, offsets in marks:
        keys = [kernel.PAGE_KEYS - 250 + offset for offset in offsets]
        kernel.mark(np.array(keys, dtype=np.uint32), out, pages, summary, detail)
        opted_out = opted_out | set(keys) if out else opted_out - set(keys)
    permissions = np.unpackbits(detail, bitorder="little")
    by_key = np.concatenate([np.split(permissions, 3)[slot] for slot in pages])
    assert np.flatnonzero(by_key == 0).tolist() == sorted(opted_out)
    assert np.array_equal(summary, reference.summary_of(detail))
    # Slot 1 is known to hold nobody, so its keys are not counted; count the other page alone.
    in_first = sum(key < kernel.PAGE_KEYS for key in opted_out)
    assert kernel.count_opted_out(pages, detail) == in_first


@pytest.mark.parametrize("seed", range(3))
def test_a_view_answers_as_the_reference(seed: int):
    rng = np.random.default_rng(seed)
    register = np.unique(valid_numbers(rng, 30_000) // 10).astype(np.uint32)
    hits = rng.choice(register, 20_000).astype(np.uint64) * 10
    near = hits + rng.integers(0, 2_000, len(hits), dtype=np.uint64)
    asked = np.concatenate([near, valid_numbers(rng, 20_000)])
    check_digits = (reference.is_valid(hits + np.uint64(d)) for d in range(10))
    asked = np.concatenate([asked, *(hits[ok] + np.uint64(d) for d, ok in enumerate(check_digits))])
    asked = rng.permutation(asked)
    view = View.of(register, REVISION)
    reference.agree(view.check_many(asked), reference.answer(asked, register))
    some = asked[:2_000]
    verdicts = [view.check(number) for number in some.tolist()]
    expected = reference.answer(some, register)
    assert [verdict == 1 for verdict in verdicts] == expected.cleared.tolist()
    assert [verdict == 3 for verdict in verdicts] == expected.invalid.tolist()


def test_dense_runs_and_the_edges_of_pages():
    bounds = np.arange(0, KEY_MAX, 97 * kernel.PAGE_KEYS)
    around = (bounds[:, None] + np.arange(-70, 70)).ravel()
    last = np.arange(KEY_MAX - 200, KEY_MAX + 1)
    keys = np.unique(np.concatenate([around, last]))
    keys = keys[(keys >= 0) & (keys % 3 > 0)].astype(np.uint32)
    view = View.of(keys, REVISION)
    asked_keys = np.arange(0, 400, dtype=np.uint64)
    starts = np.concatenate([bounds[bounds > 200] - 200, [KEY_MAX - 399, 0]]).astype(np.uint64)
    asked_keys = (starts[:, None] + asked_keys).ravel()
    asked = (asked_keys[:, None] * np.uint64(10) + np.arange(10, dtype=np.uint64)).ravel()
    reference.agree(view.check_many(asked), reference.answer(asked, keys))
