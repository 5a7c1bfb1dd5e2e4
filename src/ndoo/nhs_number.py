"""What a valid NHS number is; a number and its key; one of them or an array.

An NHS number has ten digits. The tenth is a check digit: the first nine are weighted 10 down to 2,
summed, and 11 minus the remainder modulo 11 is the check digit, where 11 stands for 0 and 10 means
that these nine digits were never issued (NHS Data Dictionary, "NHS NUMBER"). Ten equal digits are
placeholders that people type, and never valid. The range a number lies in is information, not a
reason to refuse it.

The *key* of a number is its first nine digits, an integer below 10^9 that fits 32 bits. In integers
leading zeros are implied: the integer 26 stands for the ten digits 0000000026.

Text is ten ASCII digits, bare or grouped 3-3-4 by single spaces or by single hyphens. Digits of
other scripts are not digits. Arrays are read without a Python loop over their values.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NUMBER_MAX = 9_999_999_999
KEY_MAX = 999_999_999
REPDIGIT = 1_111_111_111

NOT_A_NUMBER = 2**64 - 1
"""Stands in an array for a text that is not ten digits. It is over NUMBER_MAX, so never valid."""

Numbers = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint32]

_TEXT = re.compile(r"[0-9]{10}|[0-9]{3} [0-9]{3} [0-9]{4}|[0-9]{3}-[0-9]{3}-[0-9]{4}")
_ROW = re.compile(r"[0-9](?:[ -]?[0-9]){9,}")
_GROUPED_CHARS = 12
_BLOCK = 16_384
_SEPARATORS = str.maketrans("", "", " -")


def _weighted_sums(first: int, second: int, third: int) -> tuple[int, ...]:
    """The weighted digit sums of 0 to 999. Looking up three makes one number cheap to check."""
    return tuple(
        number // 100 * first + number // 10 % 10 * second + number % 10 * third
        for number in range(1000)
    )


_HIGH, _MIDDLE, _LOW = _weighted_sums(10, 9, 8), _weighted_sums(7, 6, 5), _weighted_sums(4, 3, 2)


def _sums_of_five(*weights: int) -> npt.NDArray[np.uint8]:
    """The weighted digit sums, modulo 11, of 0 to 99,999."""
    digits = np.indices((10,) * 5).reshape(5, -1)
    return (weights @ digits % 11).astype(np.uint8)


_FIRST_FIVE, _LAST_FIVE = _sums_of_five(10, 9, 8, 7, 6), _sums_of_five(5, 4, 3, 2, 1)


class Fault(enum.Enum):
    """Why a text is not a valid NHS number; the value is a sentence for people."""

    FORMAT = "it is not ten digits, bare or grouped 3-3-4 by single spaces or hyphens"
    PLACEHOLDER = "ten equal digits are a placeholder"
    CHECK_DIGIT = "its check digit is wrong"


def check_digit(key: int) -> int | None:
    """The tenth digit that belongs to nine, or None where there is none (never issued)."""
    if not 0 <= key <= KEY_MAX:
        return None
    thousands, low = divmod(key, 1000)
    high, middle = divmod(thousands, 1000)
    digit = -(_HIGH[high] + _MIDDLE[middle] + _LOW[low]) % 11
    return None if digit == 10 else digit


def is_valid(number: int) -> bool:
    """Whether *number*, read as ten digits with leading zeros, is a valid NHS number."""
    if not 0 <= number <= NUMBER_MAX or number % REPDIGIT == 0:
        return False
    return check_digit(number // 10) == number % 10


def may_be_in(text: str) -> bool:
    """Whether *text* holds ten digits in a row, spaces and hyphens between them aside, that are a
    valid NHS number. Errs on the side of yes: part of a longer row counts.
    """
    for row in _ROW.findall(text):
        digits = row.translate(_SEPARATORS)
        if any(is_valid(int(digits[i : i + 10])) for i in range(len(digits) - 9)):
            return True
    return False


def parse(text: str) -> int | None:
    """The ten digits of *text* as an integer, or None if it is not ten digits. Not yet *valid*."""
    return int(text.translate(_SEPARATORS)) if _TEXT.fullmatch(text) else None


def fault_of(text: str) -> Fault | None:
    """Why *text* is not a valid NHS number, or None if it is one."""
    number = parse(text)
    if number is None:
        return Fault.FORMAT
    if number % REPDIGIT == 0:
        return Fault.PLACEHOLDER
    return None if is_valid(number) else Fault.CHECK_DIGIT


def key_of(text: str) -> int | None:
    """The key of a valid NHS number, or None if *text* is not one."""
    number = parse(text)
    return number // 10 if number is not None and is_valid(number) else None


def check_digits(keys: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The tenth digits of an array of keys; 10 where there is none."""
    array = _integers(keys)
    is_key = array <= KEY_MAX
    rest = np.where(is_key, array, 0).astype(np.uint32)
    total = np.zeros(rest.shape, dtype=np.uint32)
    for weight in range(2, 11):
        rest, digit = np.divmod(rest, np.uint32(10))
        total += digit * np.uint32(weight)
    return np.where(is_key, (11 - total % 11) % 11, 10).astype(np.uint8)


def numbers_of(keys: npt.ArrayLike) -> Numbers:
    """The NHS numbers of an array of keys. Raises ValueError if no valid number has such a key."""
    array, digits = _integers(keys), check_digits(keys)
    if np.any(digits == 10) or np.any(array % np.uint64(REPDIGIT // 10) == 0):
        raise ValueError("no NHS number has these nine digits")
    return array * np.uint64(10) + digits


def valid(numbers: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of an array of integers are valid NHS numbers. Raises TypeError if not integers."""
    return keys_of(numbers)[1]


def keys_of(numbers: npt.ArrayLike) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """The keys of an array of integers, and which of them are of a valid NHS number.

    The key of what is not valid means nothing. Costs some 6 ns a number, without the GIL for the
    most part. Raises TypeError if not integers.
    """
    array = _integers(numbers)
    keys = np.empty(array.shape, dtype=np.uint32)
    is_valid = np.empty(array.shape, dtype=np.bool_)
    flat, flat_keys, flat_valid = array.reshape(-1), keys.reshape(-1), is_valid.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        _split(flat[part], flat_keys[part], flat_valid[part])
    return keys, is_valid


def _split(numbers: Numbers, keys: Keys, is_valid: npt.NDArray[np.bool_]) -> None:
    """One block of `keys_of`, small enough for the processor's caches.

    The digits are looked up five and five. To work them out by arithmetic is no faster in a full
    block, and takes over twice as long for 64 numbers, where what counts is the steps of numpy.
    """
    capped = np.minimum(numbers, np.uint64(NUMBER_MAX))
    first, last = np.divmod(capped, np.uint64(100_000))
    total = _FIRST_FIVE[first.view(np.int64)]
    total += _LAST_FIVE[last.view(np.int64)]
    np.equal(total % np.uint8(11), 0, out=is_valid)
    is_valid &= numbers <= np.uint64(NUMBER_MAX)
    is_valid &= capped % np.uint64(REPDIGIT) != 0
    np.floor_divide(capped, np.uint64(10), out=keys, casting="unsafe")


def _integers(values: npt.ArrayLike) -> Numbers:
    """*values* unsigned. What is negative becomes far too large, and so stays invalid."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError("NHS numbers and keys in an array are integers below 2^64")
    return array.astype(np.uint64, copy=False)


def from_texts(texts: Sequence[str] | npt.NDArray[np.str_] | npt.NDArray[np.bytes_]) -> Numbers:
    """A column of texts as an array of numbers, in order.

    NOT_A_NUMBER where a text is not ten digits, bare or grouped. *texts* is a list of strings or a
    numpy array of strings or bytes. For the buffers of an Arrow column, call `from_fields`.
    """
    if isinstance(texts, np.ndarray):
        return _from_fixed_width(texts)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    joined = "".join(texts)
    # Characters outside Latin-1 become "?", one byte each, so positions stay true.
    buffer = np.frombuffer(joined.encode("latin-1", errors="replace"), dtype=np.uint8)
    return from_fields(buffer, np.cumsum(lengths) - lengths, lengths)


def _from_fixed_width(texts: npt.NDArray[np.str_] | npt.NDArray[np.bytes_]) -> Numbers:
    if texts.dtype.kind not in "US" or texts.ndim != 1:
        raise TypeError("a column of texts is a one-dimensional array of strings or bytes")
    kind = np.dtype("u4" if texts.dtype.kind == "U" else "u1").newbyteorder(texts.dtype.byteorder)
    width = texts.dtype.itemsize // kind.itemsize
    if len(texts) == 0 or width == 0:
        return np.full(len(texts), NOT_A_NUMBER, dtype=np.uint64)
    chars = np.ascontiguousarray(texts).view(kind)
    buffer = np.minimum(chars, 255).astype(np.uint8)
    lengths = np.char.str_len(texts).astype(np.int64)
    return from_fields(buffer, np.arange(len(texts), dtype=np.int64) * width, lengths)


def from_fields(
    buffer: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Numbers:
    """The fields of *buffer* at *starts* with *lengths* (bytes) as an array of numbers, in order.

    NOT_A_NUMBER where a field is not ten ASCII digits, bare or grouped. Fields may overlap and lie
    in any order. Raises IndexError if one lies outside *buffer*.
    """
    if np.any(starts < 0) or np.any(lengths < 0) or np.any(starts + lengths > len(buffer)):
        raise IndexError("a field lies outside the buffer")
    numbers = np.full(len(starts), NOT_A_NUMBER, dtype=np.uint64)
    bare = np.flatnonzero(lengths == 10)
    _read_digits(buffer, starts[bare], range(10), numbers, bare)
    grouped = np.flatnonzero(lengths == _GROUPED_CHARS)
    first, second = buffer[starts[grouped] + 3], buffer[starts[grouped] + 7]
    separated = (first == second) & ((first == ord(" ")) | (first == ord("-")))
    grouped = grouped[separated]
    _read_digits(buffer, starts[grouped], (0, 1, 2, 4, 5, 6, 8, 9, 10, 11), numbers, grouped)
    return numbers


def _read_digits(
    buffer: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    places: Sequence[int],
    numbers: Numbers,
    rows: npt.NDArray[np.int64],
) -> None:
    value = np.zeros(len(rows), dtype=np.uint64)
    all_digits = np.ones(len(rows), dtype=np.bool_)
    for place in places:
        digit = buffer[starts + place] - np.uint8(ord("0"))  # wraps below "0" to above 9
        all_digits &= digit <= 9
        value = value * np.uint64(10) + digit
    numbers[rows[all_digits]] = value[all_digits]
