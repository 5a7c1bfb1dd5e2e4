"""Numbers of the range kept for tests, and wrong ones around them."""

from __future__ import annotations

import numpy as np

from ndoo import nhs_number
from ndoo.nhs_number import NOT_A_NUMBER, Numbers

_FIRST_KEY = 999_000_000


def valid_numbers(count: int) -> Numbers:
    """The first *count* valid numbers from 999 000 0000 on."""
    keys = np.arange(_FIRST_KEY, _FIRST_KEY + 2 * count + 20, dtype=np.uint32)
    return nhs_number.numbers_of(keys[nhs_number.check_digits(keys) != 10])[:count]


def mixed_numbers(count: int, seed: int) -> tuple[Numbers, set[int]]:
    """*count* numbers in random order, a tenth of them invalid, and the third that is opted out."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(valid_numbers(count))
    opted_out = set(numbers[: count // 3].tolist())
    rng.shuffle(numbers)
    bad = rng.choice(count, count // 10, replace=False)
    numbers[bad[0::3]] += np.uint64(1)
    numbers[bad[1::3]] = NOT_A_NUMBER
    numbers[bad[2::3]] = 0
    return numbers, opted_out
