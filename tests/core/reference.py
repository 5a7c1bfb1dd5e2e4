"""What the kernel should say, worked out the plain way: digit by digit, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ndoo.register import kernel
from ndoo.register.view import PAGES, Answers

WEIGHTS = (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)


def is_valid(numbers: np.ndarray) -> np.ndarray:
    """Ten digits, not all alike, whose sum weighted 10 down to 1 is a multiple of 11.

    (The check digit weighs 1: it is what makes the sum of all ten a multiple of 11.)
    """
    in_range = numbers < 10**10
    digits = [(np.where(in_range, numbers, 0) // 10**place) % 10 for place in range(9, -1, -1)]
    total = sum(digit * weight for digit, weight in zip(digits, WEIGHTS))
    alike = np.logical_and.reduce([digit == digits[0] for digit in digits])
    return in_range & (total % 11 == 0) & ~alike


def every_half(seed: int) -> Iterator[np.ndarray]:
    """Numbers with every upper five digits, beside lower five of each remainder, and vice versa."""
    rng = np.random.default_rng(seed)
    every = np.arange(100_000, dtype=np.uint64)
    for half in _one_of_each_remainder(rng, WEIGHTS[5:]):
        yield every * np.uint64(100_000) + half
    for half in _one_of_each_remainder(rng, WEIGHTS[:5]):
        yield half * np.uint64(100_000) + every


def _one_of_each_remainder(rng: np.random.Generator, weights: tuple[int, ...]) -> list[np.uint64]:
    weighed = np.array(
        [
            sum(int(digit) * weight for digit, weight in zip(f"{half:05d}", weights)) % 11
            for half in range(100_000)
        ]
    )
    return [np.uint64(rng.choice(np.flatnonzero(weighed == rest))) for rest in range(11)]


@dataclass(frozen=True)
class Expected:
    """One boolean a number."""

    cleared: np.ndarray
    invalid: np.ndarray


def answer(numbers: np.ndarray, opted_out: np.ndarray) -> Expected:
    """The verdicts on *numbers* when exactly the keys *opted_out* are opted out."""
    valid = is_valid(numbers)
    return Expected(valid & ~np.isin(numbers // 10, opted_out), ~valid)


def agree(answers: Answers, expected: Expected) -> None:
    """Fail unless *answers* say just what is *expected*, in every bit and count."""
    invalid = answers.invalid or bytes(len(answers.cleared))
    count = len(expected.cleared)
    assert answers.count == count
    assert answers.cleared == bits(expected.cleared)
    assert invalid == bits(expected.invalid)
    assert answers.cleared_count == expected.cleared.sum()
    assert answers.invalid_count == expected.invalid.sum()
    assert answers.opted_out_count == count - expected.cleared.sum() - expected.invalid.sum()


def bits(flags: np.ndarray) -> bytes:
    return np.packbits(flags, bitorder="little").tobytes()


@dataclass(frozen=True)
class Tables:
    """Look-up tables with random content in every page, over *slots* slots that the pages share."""

    pages: np.ndarray
    summary: np.ndarray
    detail: np.ndarray

    @classmethod
    def random(cls, seed: int, slots: int = 61) -> Tables:
        rng = np.random.default_rng(seed)
        detail = rng.integers(0, 256, slots * kernel.DETAIL_BYTES, dtype=np.uint8)
        detail[rng.random(len(detail)) < 0.8] = 255
        pages = rng.integers(0, slots, PAGES, dtype=np.uint32)
        return cls(pages, summary_of(detail), detail)

    def check(self, numbers: np.ndarray) -> Answers:
        """The kernel's answers from these tables, into memory full of set bits."""
        words = kernel.words_for(len(numbers))
        cleared, invalid = np.full((2, words), 2**64 - 1, dtype=np.uint64)
        counts = kernel.check(numbers, self.pages, self.summary, self.detail, cleared, invalid)
        size = (len(numbers) + 7) // 8
        for array in (cleared, invalid):
            assert not any(array.tobytes()[size:])
        return Answers(
            len(numbers), cleared.tobytes()[:size], invalid.tobytes()[:size], *map(int, counts)
        )

    def expected(self, numbers: np.ndarray) -> Expected:
        valid = is_valid(numbers)
        keys = np.where(valid, numbers // 10, 0)
        slots = self.pages[keys // kernel.PAGE_KEYS]
        permissions = np.unpackbits(self.detail, bitorder="little").astype(bool)
        may_clear = permissions[slots * np.uint64(kernel.PAGE_KEYS) + keys % kernel.PAGE_KEYS]
        return Expected(valid & may_clear, ~valid)


def summary_of(detail: np.ndarray) -> np.ndarray:
    """One bit for each two bytes of *detail*: set where both of them are full."""
    return np.packbits((detail.reshape(-1, 2) == 255).all(axis=1), bitorder="little")
