"""Compiled reading and writing of Roaring containers, from bytes that may be hostile.

A container holds up to 65,536 keys that share their upper bits, as a sorted array, a bitset or
runs. Every length, order and cardinality is verified before it is used.

Format: https://github.com/RoaringBitmap/RoaringFormatSpec (32 bit).
"""

from __future__ import annotations

import numba as nb
from numba import uint8, uint64

from ndoo.register.kernel import count_ones, count_trailing_zeros

WORDS = 1024
"""64-bit words of a bitset container."""

CONTAINER_BYTES_MAX = 8 * WORDS
ARRAY_KEYS_MAX = 4096


@nb.njit(nogil=True)
def u16(data, at):
    return uint64(data[at]) | uint64(data[at + uint64(1)]) << uint64(8)


@nb.njit(nogil=True)
def u32(data, at):
    return u16(data, at) | u16(data, at + uint64(2)) << uint64(16)


@nb.njit(nogil=True)
def put(out, at, value, size):
    for i in range(uint64(size)):
        out[at + i] = uint8((value >> (uint64(8) * i)) & uint64(255))


@nb.njit(nogil=True)
def _read_array(data, at, count, words):
    """Set the bits of an array container; False unless its keys ascend."""
    words[:] = uint64(0)
    previous = uint64(0)
    for i in range(uint64(count)):
        low = u16(data, at + uint64(2) * i)
        if i and low <= previous:
            return False
        previous = low
        words[low >> uint64(6)] |= uint64(1) << (low & uint64(63))
    return True


@nb.njit(nogil=True)
def _read_bitset(data, at, count, words):
    """Copy a bitset container; False unless it holds *count* keys."""
    total = uint64(0)
    for i in range(uint64(WORDS)):
        word = uint64(0)
        for byte in range(uint64(8)):
            word |= uint64(data[at + uint64(8) * i + byte]) << (uint64(8) * byte)
        words[i] = word
        total += count_ones(word)
    return total == count


@nb.njit(nogil=True)
def _read_runs(data, at, runs, count, words):
    """Set the bits of a run container; False unless its runs ascend and hold *count* keys."""
    words[:] = uint64(0)
    total = uint64(0)
    free = uint64(0)  # the first key that the next run may begin at
    for i in range(uint64(runs)):
        start = u16(data, at + uint64(4) * i)
        end = start + u16(data, at + uint64(4) * i + uint64(2))
        if start < free or end > uint64(0xFFFF):
            return False
        for low in range(start, end + uint64(1)):
            words[low >> uint64(6)] |= uint64(1) << (low & uint64(63))
        total += end - start + uint64(1)
        free = end + uint64(2)
    return total == count


@nb.njit(nogil=True)
def read_container(data, at, is_run, count, words):
    """Read the container at *at* into *words*; return where the next begins, or 0 if bad."""
    size = uint64(len(data))
    if is_run:
        if at + uint64(2) > size:
            return uint64(0)
        runs = u16(data, at)
        end = at + uint64(2) + uint64(4) * runs
        whole = end <= size and _read_runs(data, at + uint64(2), runs, count, words)
    elif count <= uint64(ARRAY_KEYS_MAX):
        end = at + uint64(2) * count
        whole = end <= size and _read_array(data, at, count, words)
    else:
        end = at + uint64(CONTAINER_BYTES_MAX)
        whole = end <= size and _read_bitset(data, at, count, words)
    return end if whole else uint64(0)


@nb.njit(nogil=True)
def write_container(words, count, out, at):
    """Write *words* in the form that the format demands for *count* keys; return where it ends."""
    if count > uint64(ARRAY_KEYS_MAX):
        for i in range(uint64(WORDS)):
            put(out, at + uint64(8) * i, words[i], 8)
        return at + uint64(CONTAINER_BYTES_MAX)
    for i in range(uint64(WORDS)):
        word = words[i]
        while word != uint64(0):
            put(out, at, (i << uint64(6)) | count_trailing_zeros(word), 2)
            word &= word - uint64(1)
            at += uint64(2)
    return at
