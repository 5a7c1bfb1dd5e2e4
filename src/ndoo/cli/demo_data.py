"""What the demo asks about: made-up people from a seed, and the truth, known by construction.

Numbers lie in the ranges that are issued, so they look like the real thing; none is written down.
Everything is drawn in arrays, small enough to stay in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, NOT_A_NUMBER, NUMBER_MAX, REPDIGIT, Keys, Numbers

OPTED_OUT_SHARE = 0.054
INVALID_SHARE = 0.01

_BLOCK = 131_072
_PLACES = 300_000_000  # in the ranges 400 to 499 and 600 to 799 million
_LOWER_PLACES = 100_000_000
_CLEARED, _OPTED_OUT, _INVALID = 0, 1, 2

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Questions:
    """Numbers in random order and the truth about each, one bit a number as in the answers."""

    numbers: Numbers = field(repr=False)
    cleared: Bits = field(repr=False)
    invalid: Bits = field(repr=False)


def draw_register(rng: np.random.Generator, count: int) -> Keys:
    """*count* distinct keys of valid numbers, ascending."""
    keys = np.empty(0, dtype=np.uint32)
    while len(keys) < count:
        more = _keys(_draw_valid(rng, count + _BLOCK))
        keys = np.sort(np.concatenate([keys, more]))
        keys = keys[np.diff(keys, prepend=np.uint32(0)) != 0]
    surplus = rng.choice(len(keys), len(keys) - count, replace=False)
    return np.delete(keys, surplus)


def draw_questions(rng: np.random.Generator, register: Keys, count: int) -> Questions:
    """*count* numbers: 5.4 % of people in *register*, 1 % invalid, the rest of other people."""
    kinds = np.full(count, _CLEARED, dtype=np.uint8)
    opted_out, invalid = int(count * OPTED_OUT_SHARE), int(count * INVALID_SHARE)
    kinds[:opted_out] = _OPTED_OUT
    kinds[opted_out : opted_out + invalid] = _INVALID
    rng.shuffle(kinds)
    people = _People(register)
    numbers = np.empty(count, dtype=np.uint64)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        numbers[part] = people.draw(rng, kinds[part])
    return Questions(
        numbers,
        np.packbits(kinds == _CLEARED, bitorder="little"),
        np.packbits(kinds == _INVALID, bitorder="little"),
    )


def draw_other(rng: np.random.Generator, register: Keys) -> int:
    """The key of somebody who is not in *register*."""
    return int(_People(register).draw_others(rng, 1)[0]) // 10


class _People:
    """Those in the register, and everybody else."""

    def __init__(self, register: Keys) -> None:
        self._register = nhs_number.numbers_of(register)
        self._table = np.zeros(KEY_MAX // 8 + 1, dtype=np.uint8)
        bits = np.left_shift(1, register & 7).astype(np.uint8)
        np.bitwise_or.at(self._table, register >> 3, bits)

    def draw(self, rng: np.random.Generator, kinds: npt.NDArray[np.uint8]) -> Numbers:
        """One number of each of *kinds*."""
        numbers = np.empty(len(kinds), dtype=np.uint64)
        for kind, draw in (
            (_CLEARED, self.draw_others),
            (_OPTED_OUT, self._draw_opted_out),
            (_INVALID, _draw_invalid),
        ):
            at = np.flatnonzero(kinds == kind)
            numbers[at] = draw(rng, len(at))
        return numbers

    def draw_others(self, rng: np.random.Generator, count: int) -> Numbers:
        numbers = np.empty(0, dtype=np.uint64)
        while len(numbers) < count:
            more = _draw_valid(rng, count + 1024)
            keys = _keys(more)
            opted_out = (self._table[keys >> 3] >> (keys & 7).astype(np.uint8)) & 1
            numbers = np.concatenate([numbers, more[opted_out == 0]])
        return numbers[:count]

    def _draw_opted_out(self, rng: np.random.Generator, count: int) -> Numbers:
        return self._register[rng.integers(0, len(self._register), count)]


def _draw_valid(rng: np.random.Generator, count: int) -> Numbers:
    """About *count* valid numbers; some may come twice."""
    parts = []
    for start in range(0, count, _BLOCK):
        keys = _draw_places(rng, min(_BLOCK, count - start))
        digits = nhs_number.check_digits(keys)
        numbers = keys * np.uint64(10) + digits
        parts.append(numbers[(digits != 10) & (numbers % np.uint64(REPDIGIT) != 0)])
    return np.concatenate(parts)


def _keys(numbers: Numbers) -> Keys:
    return (numbers // np.uint64(10)).astype(np.uint32)


def _draw_places(rng: np.random.Generator, count: int) -> Keys:
    """Keys in the issued ranges, whether or not there is a number with these digits."""
    places = rng.integers(0, _PLACES, count, dtype=np.uint32)
    return places + np.where(places < _LOWER_PLACES, np.uint32(400_000_000), np.uint32(500_000_000))


def _draw_invalid(rng: np.random.Generator, count: int) -> Numbers:
    """A quarter each: a wrong check digit, a placeholder, too many digits, no number at all."""
    keys = _draw_places(rng, count)
    wrong = (nhs_number.check_digits(keys) + rng.integers(1, 10, count, dtype=np.uint8)) % 10
    return np.choose(
        np.arange(count) % 4,
        [
            keys * np.uint64(10) + wrong,
            rng.integers(0, 10, count, dtype=np.uint64) * np.uint64(REPDIGIT),
            rng.integers(NUMBER_MAX + 1, NOT_A_NUMBER, count, dtype=np.uint64),
            np.full(count, NOT_A_NUMBER, dtype=np.uint64),
        ],
    )
