"""People for tests: keys of valid numbers, drawn from a seed."""

from __future__ import annotations

import numpy as np

from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX
from ndoo.register import kernel

SEED = 20_240_229


def keys_in_pages(pages: int, keys_per_page: int, seed: int = SEED) -> list[int]:
    """Keys of valid numbers, some to a page and close together, in pages far apart."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for page in rng.choice(KEY_MAX // kernel.PAGE_KEYS, pages, replace=False):
        start = int(page) * kernel.PAGE_KEYS + int(rng.integers(0, 60_000))
        near = np.arange(start, start + 200, dtype=np.uint64)
        near = near[nhs_number.check_digits(near) != 10]
        chosen += rng.choice(near[: 3 * keys_per_page], keys_per_page, replace=False).tolist()
    return sorted(chosen)


def numbers(keys: list[int]) -> np.ndarray:
    return nhs_number.numbers_of(np.array(keys, dtype=np.uint32))
