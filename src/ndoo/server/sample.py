"""A few of the keys of a message, to learn how a client asks.

They lie together, at a place that depends on the message and on a number that this process drew: so
whoever sends cannot foresee what is looked at, and the same message gives the same keys.
"""

from __future__ import annotations

import secrets

import numpy as np

from ndoo.nhs_number import NUMBER_MAX, Keys, Numbers
from ndoo.register.sets import Bytes

KEYS_MAX = 256
"""Enough to tell a count from a cohort. More would cost a message of 64 Ki numbers a tenth of its
time.
"""

_SECRET = secrets.randbits(61) | 1
_PRIME = 2**61 - 1
_COOKIE_RUNS = 12347
_OFFSETS_FROM = 4
_ARRAY_KEYS_MAX = 4096
_BITSET_BYTES = 8192
_BITSET_BYTES_MOSTLY = 1024  # hold KEYS_MAX keys, as a bitset has more than 4,096


def of_numbers(numbers: Numbers) -> Keys:
    """Up to KEYS_MAX keys, in their order; what is no number is left out."""
    start = 0
    if len(numbers) > KEYS_MAX:
        start = _place(int(numbers[0]), len(numbers), len(numbers) - KEYS_MAX + 1)
    some = numbers[start : start + KEYS_MAX]
    return (some[some <= NUMBER_MAX] // 10).astype(np.uint32)


def of_set(data: Bytes) -> Keys:
    """The first KEYS_MAX keys of one container of *data*, a Roaring bitmap that was verified.

    A container is the more often looked at the more keys it holds, so that many cannot be hidden
    behind few. Format: https://github.com/RoaringBitmap/RoaringFormatSpec (32 bit).
    """
    if not len(data):
        return np.empty(0, np.uint32)
    cookie, plain_count = (int(word) for word in data[:8].view("<u4"))
    has_runs = cookie & 0xFFFF == _COOKIE_RUNS
    count = (cookie >> 16) + 1 if has_runs else plain_count
    if not count:
        return np.empty(0, np.uint32)
    heads_at = 4 + (count + 7) // 8 if has_runs else 8
    end = heads_at + 4 * count
    heads = data[heads_at:end].view("<u2").reshape(-1, 2)
    totals = np.cumsum(heads[:, 1].astype(np.int64) + 1)
    total = int(totals[-1])
    which = int(np.searchsorted(totals, _place(len(data), total, total), side="right"))
    runs = np.unpackbits(data[4:heads_at], bitorder="little") if has_runs else np.zeros(count)
    if not has_runs or count >= _OFFSETS_FROM:
        at = int(data[end + 4 * which : end + 4 * which + 4].view("<u4")[0])
    else:
        at = end
        for each in range(which):
            at += _bytes_of(data[at:], int(heads[each, 1]) + 1, bool(runs[each]))
    page, others = heads[which].tolist()
    return np.uint32(page << 16) + _lows(data[at:], others + 1, bool(runs[which]))[:KEYS_MAX]


def _bytes_of(container: Bytes, count: int, is_run: bool) -> int:
    if is_run:
        return 2 + 4 * int(container[:2].view("<u2")[0])
    return 2 * count if count <= _ARRAY_KEYS_MAX else _BITSET_BYTES


def _lows(container: Bytes, count: int, is_run: bool) -> Keys:
    """The first keys of a container, at least KEYS_MAX if it has so many, without upper halves."""
    if is_run:
        runs = int(container[:2].view("<u2")[0])
        pairs = container[2 : 2 + 4 * min(runs, KEYS_MAX)].view("<u2").reshape(-1, 2).tolist()
        return np.concatenate(
            [np.arange(low, low + min(more + 1, KEYS_MAX), dtype=np.uint32) for low, more in pairs]
        )
    if count <= _ARRAY_KEYS_MAX:
        return container[: 2 * min(count, KEYS_MAX)].view("<u2").astype(np.uint32)
    bits = np.unpackbits(container[:_BITSET_BYTES_MOSTLY], bitorder="little")
    if np.count_nonzero(bits) < KEYS_MAX:
        bits = np.unpackbits(container[:_BITSET_BYTES], bitorder="little")
    return np.flatnonzero(bits).astype(np.uint32)


def _place(content: int, size: int, places: int) -> int:
    """One of so many *places*, by what is asked and a number that nobody is told."""
    return (_SECRET * (content * 4_294_967_311 + size) % _PRIME) % places
