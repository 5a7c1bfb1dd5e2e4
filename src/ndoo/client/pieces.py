"""Pieces of a column: what can be read from place to place, as integers that are NHS numbers or
certainly are not.
"""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.nhs_number import NOT_A_NUMBER, NUMBER_MAX, Numbers

_NONE = type(None)
_NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """*length* values; `read(start, stop)` gives those in between as numbers, a new array.

    NOT_A_NUMBER, or anything else that is not valid, stands for what is no NHS number. *owner*
    keeps the memory that is read.
    """

    length: int
    read: Callable[[int, int], Numbers] = field(repr=False)
    owner: object = field(default=None, repr=False)


def wrong_kind(what: str) -> TypeError:
    """The error for a column of a type that cannot hold NHS numbers."""
    return TypeError(
        f"NHS numbers cannot be read from {what}; give a column of 64-bit integers or of texts."
    )


def from_array(array: npt.NDArray[Any]) -> Numbers:
    """The numbers in one array of numpy, of any type that can hold them. Raises TypeError."""
    match array.dtype.kind:
        case "i" | "u" if array.dtype.itemsize >= _NUMBER_BYTES:
            return array.astype(np.uint64)
        case "f" if array.dtype.itemsize >= _NUMBER_BYTES:
            return from_floats(array)
        case "U" | "S":
            return nhs_number.from_texts(array)
        case "O" | "T":
            return from_objects(array.tolist())
    # Ten digits do not fit 32 bits: a number would have become somebody else's on its way there.
    raise wrong_kind(f"an array of {array.dtype}")


def from_floats(values: npt.NDArray[Any]) -> Numbers:
    """Whole numbers as they are: a float of 64 bits holds ten digits exactly, and NaN for none."""
    is_whole = (values >= 0) & (values <= NUMBER_MAX)
    whole = np.where(is_whole, values, 0).astype(np.uint64)
    return np.where(is_whole & (whole == values), whole, np.uint64(NOT_A_NUMBER))


def from_decimals(words: npt.NDArray[np.uint64]) -> Numbers:
    """Integers of 128 bits, as pairs of words, the low one first."""
    return np.where(words[1::2] == 0, words[::2], np.uint64(NOT_A_NUMBER))


def from_objects(values: Sequence[object]) -> Numbers:
    """Python objects of any kinds. Raises TypeError if there is a boolean among them."""
    kinds = set(map(type, values)) - {_NONE}
    if kinds == {int}:
        with contextlib.suppress(OverflowError):  # then one by one
            whole = [-1 if value is None else value for value in values]
            return np.array(whole, dtype=np.int64).astype(np.uint64)
    numbers = nhs_number.from_texts([value if isinstance(value, str) else "" for value in values])
    if kinds - {str}:
        for place, value in enumerate(values):
            if not isinstance(value, str):
                numbers[place] = number_of(value)
    return numbers


def number_of(value: object) -> int:
    """One value as a number, NOT_A_NUMBER if it is none. Raises TypeError if it is a boolean."""
    match value:
        case str():
            parsed = nhs_number.parse(value)
            return NOT_A_NUMBER if parsed is None else parsed
        case bytes():
            return number_of(value.decode("latin-1"))
        case bool() | np.bool_():
            raise wrong_kind("booleans")
        case int() | np.integer() | float() | decimal.Decimal():
            with contextlib.suppress(ValueError, OverflowError):  # NaN and infinity
                whole = int(value)
                return whole if whole == value and 0 <= whole <= NUMBER_MAX else NOT_A_NUMBER
    return NOT_A_NUMBER
