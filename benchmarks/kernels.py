"""The compiled loop in use, beside the simpler ones that it was chosen over.

Four ways to the same bits, each in one thread:

- *flat table, numpy*: three look-ups for the check digit, one in a table of 10^9 bits;
- *flat table, compiled*: the same in one loop, two look-ups for the check digit;
- *pages, one level*: pages of 65,536 keys, one look-up in the page's bits for each number;
- *pages, two levels*: the one in use; most look-ups end in a summary that fits the caches.
"""

from __future__ import annotations

from collections.abc import Callable

import numba as nb
import numpy as np
import numpy.typing as npt
from numba import uint8, uint32, uint64

from benchmarks.bulk import kernel
from benchmarks.data import Asked, Truth, prove
from benchmarks.harness import Contender, Facts, interleave, ratio
from benchmarks.scale import CHUNK
from benchmarks.workshop import Workshop
from ndoo.nhs_number import KEY_MAX, NUMBER_MAX, REPDIGIT, Keys, Numbers

QUESTION = "What does the two-level look-up gain over simpler kernels?"

IN_USE = "pages, two levels (in use)"
ONE_LEVEL = "pages, one level"
_PAGES = (KEY_MAX >> 16) + 1
_BLOCK = 1024

Bytes = npt.NDArray[np.uint8]
Pair = tuple[Bytes, Bytes]


def measure(shop: Workshop) -> Facts:
    asked = shop.asked
    contenders = [
        flat_numpy(shop.register, asked),
        flat_compiled(shop.register, asked),
        one_level(shop.register, asked),
        in_use(shop, asked),
    ]
    rows = interleave(contenders, shop.scale.rounds, shop.progress)
    return {
        "parameters": {"opt_outs": len(shop.register), "questions": len(asked), "threads": 1},
        "rows": rows,
        "in_use_over": {row["name"]: ratio(rows, IN_USE, row["name"]) for row in rows[:-1]},
    }


def in_use(shop: Workshop, asked: Asked) -> Contender:
    used = kernel(shop, asked)
    return Contender(IN_USE, used.numbers, used.run, used.prove)


def flat_numpy(register: Keys, asked: Asked) -> Contender:
    table = _flat_table(register)
    sums = [_weighted_sums(1000, weights) for weights in ((10, 9, 8), (7, 6, 5), (4, 3, 2))]

    def answer(numbers: Numbers) -> Pair:
        keys, digits = np.divmod(numbers, np.uint64(10))
        in_range = numbers <= NUMBER_MAX
        keys = np.where(in_range, keys, 0).astype(np.uint32)
        thousands, low = np.divmod(keys, np.uint32(1000))
        high, middle = np.divmod(thousands, np.uint32(1000))
        total = sums[0][high] + sums[1][middle] + sums[2][low]
        is_valid = in_range & ((total + digits) % 11 == 0) & (numbers % np.uint64(REPDIGIT) != 0)
        opted_out = (table[keys >> 3] >> (keys & 7).astype(np.uint8)) & 1
        return is_valid & (opted_out == 0), ~is_valid

    def run() -> list[Pair]:
        numbers = asked.numbers
        return [answer(numbers[at : at + CHUNK]) for at in range(0, len(numbers), CHUNK)]

    return _contender("flat table, numpy", asked, run)


def flat_compiled(register: Keys, asked: Asked) -> Contender:
    table = _flat_table(register)
    high, low = _weighted_sums(100_000, (10, 9, 8, 7, 6)), _weighted_sums(10_000, (5, 4, 3, 2))
    return _contender(
        "flat table, compiled",
        asked,
        lambda: [_check_flat(asked.numbers, high, low, table)],
    )


def one_level(register: Keys, asked: Asked) -> Contender:
    used, places = np.unique(register >> 16, return_inverse=True)
    pages = np.zeros(_PAGES, dtype=np.uint32)
    pages[used] = np.arange(1, len(used) + 1)
    detail = np.zeros(((len(used) + 1), 1 << 13), dtype=np.uint8)
    low = register & 0xFFFF
    np.bitwise_or.at(detail, (places + 1, low >> 3), (1 << (low & 7)).astype(np.uint8))
    return _contender(
        ONE_LEVEL, asked, lambda: [_check_pages(asked.numbers, pages, detail.reshape(-1))]
    )


def _contender(name: str, asked: Asked, run: Callable[[], list[Pair]]) -> Contender:
    def proven(parts: list[Pair]) -> Facts:
        cleared, invalid = (np.concatenate(masks).view(np.bool_) for masks in zip(*parts))
        return prove(Truth(cleared, invalid), asked.truth)

    return Contender(name, len(asked), run, proven)


def _flat_table(register: Keys) -> Bytes:
    table = np.zeros((KEY_MAX >> 3) + 1, dtype=np.uint8)
    np.bitwise_or.at(table, register >> 3, (1 << (register & 7)).astype(np.uint8))
    return table


def _weighted_sums(count: int, weights: tuple[int, ...]) -> Bytes:
    """The weighted digit sums of 0 to *count* - 1, modulo 11."""
    rest = np.arange(count)
    total = np.zeros(count, dtype=np.int64)
    for weight in reversed(weights):
        rest, digit = np.divmod(rest, 10)
        total += weight * digit
    return (total % 11).astype(np.uint8)


@nb.njit(nogil=True, cache=True)
def _check_flat(numbers: Numbers, high: Bytes, low: Bytes, table: Bytes) -> Pair:
    cleared = np.empty(len(numbers), np.uint8)
    invalid = np.empty(len(numbers), np.uint8)
    for i in range(len(numbers)):
        number = numbers[i]
        in_range = number <= uint64(NUMBER_MAX)
        number = number if in_range else uint64(0)
        key = uint32(number // uint64(10))
        front = key // uint32(10_000)
        total = uint32(high[front]) + uint32(low[key - front * uint32(10_000)])
        digit = uint32(number - uint64(key) * uint64(10))
        is_valid = in_range & ((total + digit) % uint32(11) == 0)
        is_valid &= number % uint64(REPDIGIT) != 0
        opted_out = (table[key >> uint32(3)] >> (key & uint32(7))) & 1
        cleared[i] = uint8(is_valid & (opted_out == 0))
        invalid[i] = uint8(not is_valid)
    return cleared, invalid


@nb.njit(nogil=True, cache=True)
def _check_pages(numbers: Numbers, pages: np.ndarray, detail: Bytes) -> Pair:
    """Digits as the loop in use reads them, by arithmetic alone; then one look-up a number."""
    cleared = np.empty(len(numbers), np.uint8)
    invalid = np.empty(len(numbers), np.uint8)
    keys = np.empty(_BLOCK, np.uint32)
    for start in range(uint64(0), uint64(len(numbers)), uint64(_BLOCK)):
        count = min(uint64(_BLOCK), uint64(len(numbers)) - start)
        for i in range(count):
            number = numbers[start + i]
            in_range = number <= uint64(NUMBER_MAX)
            number = number if in_range else uint64(0)
            h = uint32(number // uint64(100_000))
            l = uint32(number - uint64(h) * uint64(100_000))  # noqa: E741
            h1, h2, h3, h4 = h // 10, h // 100, h // 1000, h // 10000
            l1, l2, l3, l4 = l // 10, l // 100, l // 1000, l // 10000
            total = uint32(6 * h + 2 * h1 + 4 * h2 + 6 * h3 + 8 * h4)
            total += uint32(l + 3 * l1 + 5 * l2 + 7 * l3 + 9 * l4)
            all_alike = (h == l) & (h == h4 * 11_111)
            invalid[start + i] = not (in_range & (total % uint32(11) == 0) & (not all_alike))
            keys[i] = uint32(h * 10_000 + l1)
        for i in range(count):
            key = uint64(keys[i])
            slot = uint64(pages[key >> uint64(16)])
            byte = detail[(slot << uint64(13)) + ((key >> uint64(3)) & uint64(8191))]
            opted_out = (byte >> (key & uint64(7))) & uint64(1)
            cleared[start + i] = (opted_out == 0) & (invalid[start + i] == 0)
    return cleared, invalid
