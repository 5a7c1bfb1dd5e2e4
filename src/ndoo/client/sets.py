"""Sets of keys: NHS numbers in any order become Roaring bitmaps, and Roaring bitmaps become
answers.

A large cohort costs the network a few bits a number as a set, and 64 as a list. Going through
bitmap objects would take some 60 ns a number, so the bytes of the containers are built here
directly, by numpy, on all processors: the keys of each part of the array are sorted, then every
range of 2^22 keys is marked with a byte a key and packed into bits.

Format: https://github.com/RoaringBitmap/RoaringFormatSpec (32 bit).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.client.crew import each_aside
from ndoo.nhs_number import KEY_MAX, Keys, Numbers

MESSAGE_BYTES = 4 * 1024 * 1024
"""About how large a message becomes: large enough for the network, small enough to overlap."""

CONTAINERS_MAX = 1024
"""How many ranges of 65,536 keys a message spans at most: its answer could take 8 KiB for each."""

PAGE_BYTES = 8192
"""A page of 65,536 keys at a bit a key, which is also a bitset container."""

_ARRAY_KEYS_MAX = 4096
_COOKIE = 12346
_RANGE_KEYS = 1 << 22
_RANGE_PAGES = _RANGE_KEYS >> 16
_RANGE_BYTES = _RANGE_KEYS >> 3
_RANGES = KEY_MAX // _RANGE_KEYS + 1
_PAGES = (KEY_MAX >> 16) + 1
_PART_MIN = 1 << 20
_LOOK_UP_BLOCK = 1 << 15

Bits = npt.NDArray[np.uint8]


class KeySet:
    """A set of nine-digit keys: a table of one bit a key, of which only the parts in use take
    memory.
    """

    __slots__ = ("pages", "table")

    def __init__(self) -> None:
        self.table: Bits = np.zeros((_RANGES * _RANGE_PAGES, PAGE_BYTES), dtype=np.uint8)
        self.pages: list[int] = []

    @classmethod
    def of(cls, numbers: Numbers) -> KeySet:
        """The keys of the valid ones among *numbers*, in any order and any number of times."""
        made = cls()
        parts = each_aside(_sorted_keys, _split(numbers), threads=_workers())
        mark = partial(_mark_range, made.table, parts)
        used = each_aside(mark, range(_RANGES), threads=_workers())
        made.pages = [page for pages in used for page in pages]
        return made

    def __len__(self) -> int:
        return sum(count_keys(self.table[page]) for page in self.pages)

    def messages(self) -> Iterator[SetMessage]:
        """The set as Roaring bitmaps of about MESSAGE_BYTES each, keys ascending throughout."""
        containers: list[_Container] = []
        size = 0
        for page in self.pages:
            containers.append(_container(page, self.table[page]))
            size += len(containers[-1].data)
            if size >= MESSAGE_BYTES or len(containers) == CONTAINERS_MAX:
                yield _message(containers)
                containers, size = [], 0
        if containers:
            yield _message(containers)

    def holds(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which of *numbers* are valid and have their key in this set: one boolean a number."""
        return np.concatenate(each_aside(self._holds, _split(numbers), threads=_workers()))

    def _holds(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        keys, found = nhs_number.keys_of(numbers)
        table = self.table.reshape(-1)
        for start in range(0, len(keys), _LOOK_UP_BLOCK):
            block = keys[start : start + _LOOK_UP_BLOCK]
            # The key of what is not valid means nothing, and is looked up no farther than the
            # table.
            bits = table.take(block >> np.uint32(3), mode="clip")
            bits >>= (block & np.uint32(7)).astype(np.uint8)
            found[start : start + _LOOK_UP_BLOCK] &= (bits & np.uint8(1)).view(np.bool_)
        return found


@dataclass(frozen=True, slots=True)
class SetMessage:
    """One message of a set. *data* is a Roaring bitmap of *count* keys in *pages*, ascending."""

    data: bytes = field(repr=False)
    count: int
    pages: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Container:
    page: int
    count: int
    data: bytes


def read_bitmap(data: bytes) -> Iterator[tuple[int, Bits]]:
    """The pages of a Roaring bitmap without runs, ascending, each with its bits.

    Raises ValueError if *data* is anything else, or goes beyond nine-digit keys.
    """
    head = np.frombuffer(data[:8], dtype="<u4")
    if len(head) != 2 or head[0] != _COOKIE or head[1] > _PAGES:
        raise ValueError("not a Roaring bitmap without runs")
    count = int(head[1])
    heads = np.frombuffer(data, dtype="<u2", offset=8, count=2 * count).reshape(count, 2)
    at, last = 8 + 8 * count, -1
    for page, cardinality in heads.tolist():
        if not last < page < _PAGES:
            raise ValueError("the containers of a Roaring bitmap ascend")
        size = PAGE_BYTES if cardinality >= _ARRAY_KEYS_MAX else 2 * (cardinality + 1)
        yield page, _read_container(data[at : at + size], cardinality + 1)
        at, last = at + size, page
    if at != len(data):
        raise ValueError("a Roaring bitmap ends with its last container")


def count_keys(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits.view(np.uint64)).sum(dtype=np.int64))


def _read_container(data: bytes, count: int) -> Bits:
    if len(data) == PAGE_BYTES and count > _ARRAY_KEYS_MAX:
        bits = np.frombuffer(data, dtype=np.uint8)
    else:
        flags = np.zeros(PAGE_BYTES * 8, dtype=np.uint8)
        flags[np.frombuffer(data, dtype="<u2")] = 1
        bits = np.packbits(flags, bitorder="little")
    if count_keys(bits) != count:
        raise ValueError("a container does not hold as many keys as it says")
    return bits


def _sorted_keys(numbers: Numbers) -> Keys:
    keys, is_valid = nhs_number.keys_of(numbers)
    if not is_valid.all():
        keys = keys[is_valid]
    keys.sort()
    return keys


def _mark_range(table: Bits, parts: list[Keys], index: int) -> list[int]:
    """Set the bits of the keys in one range of 2^22; return the pages that hold any."""
    begin = index * _RANGE_KEYS
    flags = None
    for keys in parts:
        first, last = np.searchsorted(keys, np.array([begin, begin + _RANGE_KEYS], dtype=np.uint32))
        if first < last:
            flags = np.zeros(_RANGE_KEYS, dtype=np.uint8) if flags is None else flags
            flags[keys[first:last] - np.uint32(begin)] = 1
    if flags is None:
        return []
    pages = slice(index * _RANGE_PAGES, (index + 1) * _RANGE_PAGES)
    table[pages] = np.packbits(flags, bitorder="little").reshape(_RANGE_PAGES, PAGE_BYTES)
    return (np.flatnonzero(table[pages].any(axis=1)) + pages.start).tolist()


def _container(page: int, bits: Bits) -> _Container:
    count = count_keys(bits)
    if count > _ARRAY_KEYS_MAX:
        return _Container(page, count, bits.tobytes())
    used = np.flatnonzero(bits)  # few: only their bits are looked at one by one
    byte, bit = np.nonzero(np.unpackbits(bits[used, None], axis=1, bitorder="little"))
    return _Container(page, count, (used[byte] * 8 + bit).astype("<u2").tobytes())


def _message(containers: list[_Container]) -> SetMessage:
    heads = np.array([(c.page, c.count - 1) for c in containers], dtype="<u2")
    sizes = np.array([len(c.data) for c in containers], dtype="<u4")
    offsets = 8 + 8 * len(containers) + np.cumsum(sizes) - sizes
    head = np.array([_COOKIE, len(containers)], dtype="<u4").tobytes()
    data = b"".join(
        [head, heads.tobytes(), offsets.astype("<u4").tobytes(), *(c.data for c in containers)]
    )
    return SetMessage(data, sum(c.count for c in containers), tuple(c.page for c in containers))


def _split(numbers: Numbers) -> list[Numbers]:
    """*numbers* in parts of which each is worth a task."""
    return np.array_split(numbers, max(1, min(_workers(), len(numbers) // _PART_MIN)))


def _workers() -> int:
    return os.cpu_count() or 1
