"""Numbers: against a published implementation, scalar against array, text in all its forms."""

from __future__ import annotations

import random
import re
from string import digits

import nhs_number as oracle
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core import reference
from core.settings import CORE
from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, NOT_A_NUMBER, NUMBER_MAX, REPDIGIT, Fault

VALID = 9_990_000_026
REPDIGITS = [REPDIGIT * digit for digit in range(10)]
KEYS = st.integers(0, KEY_MAX)
FULL_WIDTH = str.maketrans(digits, "".join(chr(0xFF10 + digit) for digit in range(10)))

NOT_TEN_DIGITS = [
    "",
    " ",
    "9",
    "999000002",
    "99900000260",
    "9" * 400,
    " 9990000026",
    "9990000026 ",
    "9990000026\n",
    "9990000026\x00",
    "\x009990000026",
    "99900\x0000026",
    "+999000002",
    "-999000002",
    "+9990000026",
    "999e000002",
    "999.000002",
    "9990_00002",
    "999,000,002",
    "999 000-0026",
    "999-000 0026",
    "999 0000026",
    "999000 0026",
    "99 9000 0026",
    "9990 000 026",
    "999  000 026",
    "999\t000\t0026",
    "999\u00a0000\u00a00026",
    "999\u2011000\u20110026",
    "999\u2013000\u20130026",
    "\u202a9990000026",
    "\ufeff9990000026",
    "9990000026".translate(FULL_WIDTH),
    "999 000 0026".translate(FULL_WIDTH),
    "999000002\uff16",
    "999000002\u00b2",
    "999000002\u0666",
    "999000002\U0001d7d4",
    "\ud8009990000026",
    "999000002\udcff",
    "999\ud800000\ud8000026",
    "ninety-nine",
    "999000002:",
    "99900000/6",
    "999/000/0026",
    "999.000.0026",
    # Characters that become the digits of a number when cut to their lowest byte.
    *("".join(chr(more + ord(char)) for char in "9990000026") for more in (0x100, 0x2500, 0x10000)),
    *("".join(chr(more + ord(char)) for char in "999-000-0026") for more in (0x100, 0x10000)),
    "999000002" + chr(0x100 + ord("6")),
]


def chi_without_a_date(number: int) -> bool:
    """The oracle refuses numbers in Scotland's range whose first six digits are not a date."""
    text = f"{number:010d}"
    in_range = 100_000_000 <= number <= 3_112_999_999
    return in_range and not oracle.is_valid(text) and oracle.calculate_checksum(text[:9]) == int(
        text[9]
    )  # fmt: skip


def valid_as_published(number: int) -> bool:
    """The published implementation's word, with the two differences that are meant."""
    if number in REPDIGITS:
        return False  # it takes placeholders; they pass the check digit
    return oracle.is_valid(f"{number:010d}") or chi_without_a_date(number)


@pytest.mark.parametrize("seed", range(4))
def test_validity_is_that_of_the_published_implementation(seed: int):
    rng = random.Random(seed)
    numbers = [rng.randint(0, NUMBER_MAX) for _ in range(5_000)]
    near = [
        number + off
        for number in (rng.randint(0, KEY_MAX) * 10 for _ in range(300))
        for off in range(10)
    ]
    edges = [
        edge + off
        for edge in (0, 10, 10**5, 10**8, 10**9, 3_113_000_000, 4 * 10**9, 10**10 - 10)
        for off in range(10)
    ]
    for number in numbers + near + edges:
        assert nhs_number.is_valid(number) == valid_as_published(number)


def test_validity_of_arrays_is_that_of_one():
    rng = np.random.default_rng(5)
    numbers = np.concatenate(
        [
            rng.integers(0, 10**10, 30_000, dtype=np.uint64),
            np.array(REPDIGITS, dtype=np.uint64),
            np.array([10**10, 10**10 + VALID, 2**63, 2**64 - 1, NOT_A_NUMBER], dtype=np.uint64),
            VALID + np.arange(0, 2**64 - 10**10, 10**17, dtype=np.uint64),
        ]
    )
    assert nhs_number.valid(numbers).tolist() == [
        nhs_number.is_valid(number) for number in numbers.tolist()
    ]


def keys_agree(numbers: np.ndarray) -> None:
    """Fail unless `keys_of` and `valid` say of *numbers* what the plain reference says."""
    keys, is_valid = nhs_number.keys_of(numbers)
    expected = reference.is_valid(numbers)
    assert np.array_equal(is_valid, expected)
    assert np.array_equal(nhs_number.valid(numbers), expected)
    assert np.array_equal(keys[expected], (numbers // 10)[expected])


@pytest.mark.parametrize("seed", range(2))
def test_the_digits_of_an_array_for_every_half(seed: int):
    for numbers in reference.every_half(seed):
        keys_agree(numbers)


def test_the_digits_of_an_array_around_every_step():
    halves = np.arange(100_003, dtype=np.uint64)
    fives = np.arange(10, dtype=np.uint64) * np.uint64(11_111)
    for off in (-2, -1, 0, 1, 2):
        keys_agree(halves * np.uint64(100_000) + np.uint64(off % 2**64))
        keys_agree(fives * np.uint64(100_001) + np.uint64(off % 2**64))
    keys_agree(halves * np.uint64(100_001))
    keys_agree((fives[:, None] * np.uint64(100_000) + halves).ravel())
    keys_agree((halves[:, None] * np.uint64(100_000) + fives).ravel())


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 40_000])
def test_arrays_of_any_size_and_shape(size: int):
    rng = np.random.default_rng(size)
    numbers = rng.integers(0, 10**10, size, dtype=np.uint64)
    numbers[::3] = rng.integers(0, 2**64, len(numbers[::3]), dtype=np.uint64)
    keys_agree(numbers)
    keys_agree(numbers[::-2])
    keys_agree(np.stack([numbers, numbers[::-1]]))
    keys_agree(np.asfortranarray(np.stack([numbers, numbers[::-1]])))


def test_each_key_has_one_valid_number_or_none():
    rng = random.Random(6)
    for key in [rng.randint(0, KEY_MAX) for _ in range(2_000)]:
        digit = nhs_number.check_digit(key)
        numbers = range(key * 10, key * 10 + 10)
        expected = [] if digit is None else [key * 10 + digit]
        assert [number for number in numbers if nhs_number.is_valid(number)] == [
            number for number in expected if number not in REPDIGITS
        ]


def test_the_check_digit_of_every_three_digits_in_each_place():
    rng = random.Random(8)
    for place in (1, 1_000, 1_000_000):
        for three in range(1_000):
            rest = rng.randint(0, KEY_MAX)
            key = rest - rest // place % 1_000 * place + three * place
            weighted = sum(int(d) * w for d, w in zip(f"{key:09d}", range(10, 1, -1)))
            digit = (11 - weighted % 11) % 11
            assert nhs_number.check_digit(key) == (None if digit == 10 else digit)


def test_what_is_no_key_has_no_check_digit():
    beyond = [-1, KEY_MAX + 1, VALID, 2**32, 2**32 + VALID // 10, 2**63, -(2**63)]
    assert [nhs_number.check_digit(key) for key in beyond] == [None] * len(beyond)
    unsigned = np.array([key % 2**64 for key in beyond], dtype=np.uint64)
    assert nhs_number.check_digits(unsigned).tolist() == [10] * len(beyond)
    with pytest.raises(ValueError, match="nine digits"):
        nhs_number.numbers_of(np.array([VALID], dtype=np.uint64))


@CORE
@given(st.lists(KEYS, max_size=40))
def test_numbers_of_keys(keys: list[int]):
    tenth = [nhs_number.check_digit(key) for key in keys]
    assert nhs_number.check_digits(keys).tolist() == [10 if d is None else d for d in tenth]
    usable = [
        key for key, d in zip(keys, tenth) if d is not None and nhs_number.is_valid(key * 10 + d)
    ]
    numbers = nhs_number.numbers_of(usable)
    assert nhs_number.valid(numbers).all()
    assert (numbers // 10).tolist() == usable
    if len(usable) < len(keys):
        with pytest.raises(ValueError, match="nine digits"):
            nhs_number.numbers_of(keys)


def test_placeholders_are_never_valid():
    assert not any(map(nhs_number.is_valid, REPDIGITS))
    assert not nhs_number.valid(REPDIGITS).any()
    for placeholder in REPDIGITS[1:]:
        with pytest.raises(ValueError, match="nine digits"):
            nhs_number.numbers_of([placeholder // 10])
        assert nhs_number.fault_of(f"{placeholder:010d}") is Fault.PLACEHOLDER
        assert nhs_number.key_of(f"{placeholder:010d}") is None


@pytest.mark.parametrize(
    "numbers",
    [[VALID + 0.5], [float(VALID)], [True], ["9990000026"], [None], [2**64], [2**80]],
    ids=["fraction", "float", "bool", "text", "none", "65 bits", "81 bits"],
)
def test_arrays_of_anything_but_integers_are_refused(numbers: list[object]):
    # A float would be cut to an integer, which may be somebody else's number.
    with pytest.raises((TypeError, OverflowError)):
        nhs_number.valid(numbers)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
def test_negative_integers_are_invalid(dtype: type):
    info = np.iinfo(dtype)
    assert not nhs_number.valid(np.array([-1, -2, info.min, info.min + 1], dtype=dtype)).any()
    assert not any(map(nhs_number.is_valid, [-1, -VALID, info.min]))


def forms(number: int) -> list[str]:
    text = f"{number:010d}"
    return [text] + [sep.join((text[:3], text[3:6], text[6:])) for sep in " -"]


@CORE
@given(st.integers(0, NUMBER_MAX))
def test_three_forms_of_text(number: int):
    for text in forms(number):
        assert nhs_number.parse(text) == number
        fault = nhs_number.fault_of(text)
        assert (fault is None) == nhs_number.is_valid(number)
        assert (nhs_number.key_of(text) is None) == (fault is not None)
    assert nhs_number.from_texts(forms(number)).tolist() == [number] * 3


@pytest.mark.parametrize("text", NOT_TEN_DIGITS, ids=ascii)
def test_other_text_is_no_number(text: str):
    assert nhs_number.parse(text) is None
    assert nhs_number.key_of(text) is None
    assert nhs_number.fault_of(text) is Fault.FORMAT
    # Beside a good row: what is not read must neither borrow from it nor displace it.
    read = nhs_number.from_texts(["9990000026", text, "999 000 0042", text, "999-000-0018"])
    assert read.tolist() == [VALID, NOT_A_NUMBER, 9990000042, NOT_A_NUMBER, 9990000018]
    if not text.endswith("\x00"):  # which numpy cannot tell from its padding
        column = np.array(["9990000026", text, "999 000 0042"])
        assert nhs_number.from_texts(column).tolist() == [VALID, NOT_A_NUMBER, 9990000042]


def test_the_published_implementation_differs_in_text_as_we_know():
    full_width = "9990000026".translate(FULL_WIDTH)
    assert oracle.is_valid(full_width)  # ours refuses: a join on it would miss
    assert oracle.is_valid(" 9990000026\n")  # ours leaves trimming to whoever reads the file
    assert oracle.is_valid("9" * 10)  # ours refuses placeholders
    assert nhs_number.key_of(full_width) is None
    assert nhs_number.key_of(" 9990000026\n") is None
    assert nhs_number.key_of("9" * 10) is None


@CORE
@given(st.text(digits + " -+.\u0660\uff19\x00n", max_size=14) | st.text(max_size=14))
def test_text_is_read_as_published_but_for_spaces_and_other_digits(text: str):
    published = oracle.standardise_format(text)
    plain = text.isascii() and text == text.strip()
    assert nhs_number.parse(text) == (int(published) if published and plain else None)


ANY_TEXT = st.one_of(
    st.sampled_from(NOT_TEN_DIGITS),
    st.integers(0, NUMBER_MAX).map(lambda number: f"{number:010d}"),
    st.integers(0, NUMBER_MAX).flatmap(lambda number: st.sampled_from(forms(number))),
    st.text(digits + " -", min_size=9, max_size=13),
    st.text(max_size=13),
    st.text(st.characters(categories=["Cs", "Nd", "So"]), min_size=9, max_size=13),
)


def read_one_by_one(texts: list[str]) -> list[int]:
    numbers = map(nhs_number.parse, texts)
    return [NOT_A_NUMBER if number is None else number for number in numbers]


@CORE
@given(st.lists(ANY_TEXT, max_size=30))
def test_columns_of_text_keep_every_row_in_its_place(texts: list[str]):
    assert nhs_number.from_texts(texts).tolist() == read_one_by_one(texts)


@CORE
@given(st.lists(ANY_TEXT, max_size=30), st.sampled_from("<>="))
def test_numpy_columns_of_text(texts: list[str], byteorder: str):
    kept = [text.rstrip("\x00") for text in texts]  # numpy pads with NUL and cannot tell
    encodable = [text for text in kept if not re.search("[\ud800-\udfff]", text)]
    column = np.array(encodable, dtype=f"{byteorder}U16" if encodable else "U1")
    expected = read_one_by_one([text[:16] for text in encodable])
    assert nhs_number.from_texts(column).tolist() == expected
    assert nhs_number.from_texts(column[::-1]).tolist() == expected[::-1]
    ascii_texts = [text[:16] for text in encodable if text.isascii()]
    as_bytes = np.array([text.encode() for text in ascii_texts], dtype="S16")
    assert nhs_number.from_texts(as_bytes).tolist() == read_one_by_one(ascii_texts)


def test_columns_of_bytes_that_are_not_ascii():
    column = np.array(["999000002²".encode("latin-1"), b"9990000026", b"\xff" * 10, b""])
    assert nhs_number.from_texts(column).tolist() == [NOT_A_NUMBER, VALID] + [NOT_A_NUMBER] * 2


@pytest.mark.parametrize(
    "column",
    [
        np.array([VALID]),
        np.array([["9990000026"]]),
        np.array("9990000026"),
        np.array(["9990000026"], dtype=object),
        np.array([9990000026.0]),
    ],
    ids=["integers", "two dimensions", "no dimension", "objects", "floats"],
)
def test_arrays_that_are_not_columns_of_text_are_refused(column: np.ndarray):
    with pytest.raises(TypeError):
        nhs_number.from_texts(column)


def test_empty_columns():
    for column in ([], np.array([], dtype="U10"), np.array([], dtype="S10")):
        assert nhs_number.from_texts(column).tolist() == []
    assert nhs_number.from_texts(np.array(["", ""])).tolist() == [NOT_A_NUMBER] * 2


FIELD_BYTES = st.lists(
    st.sampled_from([b"9990000026", b"999 000 0042", b"999-000-0018", b"-", b" ", b"\x00", b"7"])
    | st.binary(max_size=5),
    max_size=12,
).map(b"".join)


@CORE
@given(FIELD_BYTES, st.data())
def test_fields_of_any_buffer(raw: bytes, data: st.DataObject):
    bounds = st.integers(0, len(raw))
    spans = data.draw(st.lists(st.tuples(bounds, bounds).map(sorted), max_size=12))
    spans += [(at, at + size) for size in (10, 12) for at in range(len(raw) - size + 1)]
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    lengths = np.array([end - start for start, end in spans], dtype=np.int64)
    buffer = np.frombuffer(raw, dtype=np.uint8)
    read = nhs_number.from_fields(buffer, starts, lengths)
    assert read.tolist() == read_one_by_one([raw[a:b].decode("latin-1") for a, b in spans])


def test_fields_beyond_the_buffer_are_an_error():
    buffer = np.frombuffer(b"9990000026", dtype=np.uint8)
    for start, length in [(1, 10), (0, 11), (0, 12), (-1, 1), (-10, 10), (10, 1), (5, -1)]:
        with pytest.raises(IndexError):
            nhs_number.from_fields(buffer, np.array([0, start]), np.array([10, length]))


def test_arrays_of_a_million():
    rng = np.random.default_rng(7)
    keys = rng.integers(0, 10**9, 1_000_000, dtype=np.uint32)
    keys = keys[nhs_number.check_digits(keys) != 10]
    keys = keys[keys % (REPDIGIT // 10) != 0]
    numbers = nhs_number.numbers_of(keys)
    assert nhs_number.valid(numbers).all()
    next_digit = numbers - numbers % 10 + (numbers % 10 + 1) % 10
    assert not nhs_number.valid(next_digit).any()
    assert np.array_equal(nhs_number.from_texts(np.char.zfill(numbers.astype("U10"), 10)), numbers)


@CORE
@given(KEYS, st.text(alphabet="x./ ", max_size=3), st.text(alphabet="1234567890 -", max_size=4))
def test_a_valid_number_is_noticed_wherever_it_stands(key: int, before: str, after: str) -> None:
    digit = nhs_number.check_digit(key)
    assume(digit is not None and nhs_number.is_valid(key * 10 + digit))
    plain = f"{key * 10 + digit:010}"
    for written in (plain, f"{plain[:3]} {plain[3:6]} {plain[6:]}", "-".join(plain)):
        assert nhs_number.may_be_in(before + written + after)
        assert nhs_number.may_be_in(after.strip(" -") + written + before)


@pytest.mark.parametrize(
    "text", ["", "research", "2026-11-22", "DARS-NIC-123456-X1Y2Z-v1.0", "99900000", "9990000027"]
)
def test_what_holds_no_valid_number_is_let_be(text: str) -> None:
    assert not nhs_number.may_be_in(text)
