"""The compiled loop over sets: a Roaring bitmap of keys in, the Roaring bitmap of the cleared ones
out.

It works on the bytes of the portable Roaring format themselves, container by container (65,536 keys
each, exactly one page of the look-up tables), because building bitmap objects would cost more than
the check. The bytes come from outside, so every length, order and cardinality is verified before it
is used; what does not hold is refused with a code, and nothing of a refused bitmap is answered.

Format: https://github.com/RoaringBitmap/RoaringFormatSpec (32 bit).
"""

# Numba's cache of machine code is renewed when this file changes, whatever happens to the files
# that it calls into. So these are written down, and tests/test_tidy.py compares:
#   containers.py 9973490e295698b9
#   kernel.py cd5b4326085ccad1

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numba as nb
import numpy as np
import numpy.typing as npt
from numba import uint64

from ndoo import nhs_number
from ndoo.errors import InputError
from ndoo.nhs_number import KEY_MAX
from ndoo.register.compiled import compiled
from ndoo.register.containers import (
    CONTAINER_BYTES_MAX,
    WORDS,
    put,
    read_container,
    u16,
    u32,
    write_container,
)
from ndoo.register.kernel import count_ones

Bytes = npt.NDArray[np.uint8]

_COOKIE = 12346
_COOKIE_RUNS = 12347
_OFFSETS_FROM = 4  # bitmaps with runs carry offsets only from this many containers
_PAGE_LAST = KEY_MAX >> 16
_LOW_LAST = KEY_MAX & 0xFFFF
_PATTERN_WORDS = 17  # 1,000 bits, and a word that a shift may spill into


class BadSet(InputError):
    """Bytes that are not a Roaring bitmap of nine-digit keys."""

    reason = "BAD_SET"


class _Fault(enum.IntEnum):
    NONE = 0
    NOT_ROARING = 1
    KEY_TOO_LARGE = 2


_SENTENCES = {
    _Fault.NOT_ROARING: "The keys are not a 32-bit Roaring bitmap in the portable format.",
    _Fault.KEY_TOO_LARGE: "The keys hold one of more than nine digits: over 999,999,999.",
}


@dataclass(frozen=True, slots=True)
class SetAnswers:
    """What a view says of a set of keys. *cleared* is a Roaring bitmap in the portable format."""

    count: int
    cleared: bytes = field(repr=False)
    cleared_count: int
    invalid_count: int

    @property
    def opted_out_count(self) -> int:
        return self.count - self.cleared_count - self.invalid_count


def answer_bytes_max(data: Bytes) -> int:
    """How long the answer to *data* may be, by what *data* claims, before any work is done."""
    return 8 + _container_count(data) * (8 + CONTAINER_BYTES_MAX)


def claimed_count(data: Bytes) -> int:
    """How many keys *data* claims to hold. What does not bear that out, `check_set` refuses."""
    count = _container_count(data)
    has_runs = int.from_bytes(data[:2].tobytes(), "little") == _COOKIE_RUNS
    start = 4 + (count + 7) // 8 if has_runs else 8
    header = data[start : start + 4 * count]
    cardinalities = header[: len(header) // 4 * 4].view("<u2")[1::2]  # each less one
    return int(cardinalities.sum(dtype=np.int64)) + len(cardinalities)


def check_set(
    data: Bytes, pages: npt.NDArray[np.uint32], detail: npt.NDArray[np.uint8]
) -> SetAnswers:
    """Answer the Roaring bitmap *data* from the tables of a view. Runs without the GIL.

    Raises BadSet. No bytes at all stand for no keys. The answer takes up to CONTAINER_BYTES_MAX
    bytes for each container, whatever the size of *data*: look at `answer_bytes_max` first.
    """
    if not len(data):
        return SetAnswers(0, _EMPTY, 0, 0)
    count = _container_count(data)
    if count > min(_PAGE_LAST + 1, len(data)):
        raise BadSet(_SENTENCES[_Fault.NOT_ROARING])
    out = np.empty(answer_bytes_max(data), dtype=np.uint8)
    fault, start, end, received, cleared, invalid = _check_set(
        data, count, pages, detail.view(np.uint64), _NEVER_ISSUED, out
    )
    if fault:
        raise BadSet(_SENTENCES[_Fault(fault)])
    return SetAnswers(int(received), out[start:end].tobytes(), int(cleared), int(invalid))


def _container_count(data: Bytes) -> int:
    cookie = int.from_bytes(data[:4].tobytes(), "little")
    if cookie & 0xFFFF == _COOKIE_RUNS:
        return (cookie >> 16) + 1
    return int.from_bytes(data[4:8].tobytes(), "little")


def _never_issued_patterns() -> npt.NDArray[np.uint64]:
    """For each remainder of the first six digits: which of the 1,000 keys after them were never
    issued.

    The weighted sum of the first six digits, modulo 11, decides together with the last three; so
    eleven patterns of 1,000 bits serve all keys.
    """
    patterns = np.zeros((11, _PATTERN_WORDS), dtype=np.uint64)
    last = np.arange(1000)
    weighted = 4 * (last // 100) + 3 * (last // 10 % 10) + 2 * (last % 10)
    for remainder in range(11):
        bits = np.zeros(_PATTERN_WORDS * 64, dtype=np.uint8)
        bits[:1000] = (remainder + weighted) % 11 == 1
        patterns[remainder] = np.packbits(bits, bitorder="little").view(np.uint64)
    return patterns


_EMPTY = _COOKIE.to_bytes(4, "little") + bytes(4)
_NEVER_ISSUED = _never_issued_patterns()
_REPDIGIT_KEYS = np.arange(10, dtype=np.uint64) * np.uint64(nhs_number.REPDIGIT // 10)

_DATA = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_PAGES = nb.types.Array(nb.uint32, 1, "C", readonly=True)
_DETAIL = nb.types.Array(nb.uint64, 1, "C", readonly=True)


@nb.njit(nogil=True)
def _mark_issued(page, patterns, issued):
    """Set the bits of *issued* for the keys of *page* that are somebody's number or could be."""
    for i in range(uint64(WORDS)):
        issued[i] = ~uint64(0)
    first = page << uint64(16)
    last = min(first + uint64(0xFFFF), uint64(KEY_MAX))
    thousand = first // uint64(1000)
    while thousand * uint64(1000) <= last:
        remainder = uint64(0)
        rest = thousand
        for weight in range(uint64(5), uint64(11)):
            remainder += weight * (rest % uint64(10))
            rest //= uint64(10)
        _take_away(patterns[remainder % uint64(11)], thousand * uint64(1000), first, issued)
        thousand += uint64(1)
    for repdigit in _REPDIGIT_KEYS:
        if repdigit >> uint64(16) == page:
            low = repdigit & uint64(0xFFFF)
            issued[low >> uint64(6)] &= ~(uint64(1) << (low & uint64(63)))


@nb.njit(nogil=True)
def _take_away(pattern, begin, first, issued):
    """Unset in *issued*, whose first bit is key *first*, the bits of *pattern*, whose first is
    *begin*.
    """
    ahead = begin + uint64(64) * uint64(WORDS) - first  # shifted up by a page, to stay unsigned
    shift = ahead & uint64(63)
    word = ahead >> uint64(6)
    for i in range(uint64(_PATTERN_WORDS)):
        bits = pattern[i] << shift
        if shift and i:
            bits |= pattern[i - uint64(1)] >> (uint64(64) - shift)
        at = word + i
        if at >= uint64(WORDS) and at < uint64(2 * WORDS):
            issued[at - uint64(WORDS)] &= ~bits


@nb.njit(nogil=True)
def _is_over_nine_digits(page, words):
    if page < uint64(_PAGE_LAST):
        return False
    if page > uint64(_PAGE_LAST):
        return True
    for i in range(uint64(_LOW_LAST + 1) >> uint64(6), uint64(WORDS)):
        if words[i] != uint64(0):
            return True
    return False


@nb.njit(nogil=True)
def _places(data, count):
    """Where the heads, the offsets and the containers of *data* begin; all 0 if it is no bitmap.

    The place of the offsets is that of the containers where the format has no offsets.
    """
    none = uint64(0), uint64(0), uint64(0)
    size = uint64(len(data))
    if size < uint64(4):
        return none
    has_runs = u16(data, uint64(0)) == uint64(_COOKIE_RUNS)
    heads = uint64(4) + ((count + uint64(7)) >> uint64(3)) if has_runs else uint64(8)
    offsets = heads + uint64(4) * count
    has_offsets = (not has_runs) or count >= uint64(_OFFSETS_FROM)
    containers = offsets + uint64(4) * count if has_offsets else offsets
    if containers > size or not (has_runs or u32(data, uint64(0)) == uint64(_COOKIE)):
        return none
    return heads, offsets, containers


@nb.njit(nogil=True)
def _answer_page(words, issued, detail, base):
    """Leave in *words* the cleared keys of a page; return how many are valid, and cleared."""
    valid, cleared = uint64(0), uint64(0)
    for i in range(uint64(WORDS)):
        valid_bits = words[i] & issued[i]
        cleared_bits = valid_bits & detail[base + i]
        valid += count_ones(valid_bits)
        cleared += count_ones(cleared_bits)
        words[i] = cleared_bits
    return valid, cleared


@nb.njit(nogil=True)
def _write_heads(out, kept, written, containers):
    """Write cookie, heads and offsets right in front of *containers*; return where they begin."""
    start = containers - uint64(8) - uint64(8) * written
    put(out, start, uint64(_COOKIE), 4)
    put(out, start + uint64(4), written, 4)
    for i in range(written):
        head = start + uint64(8) + uint64(4) * i
        put(out, head, kept[i, 0], 2)
        put(out, head + uint64(2), kept[i, 1] - uint64(1), 2)
        put(out, head + uint64(4) * written, kept[i, 2] - start, 4)
    return start


@compiled(
    nb.types.UniTuple(nb.uint64, 6)(
        _DATA, nb.uint64, _PAGES, _DETAIL, nb.uint64[:, ::1], nb.uint8[::1]
    ),
    nogil=True,
)
def _check_set(data, count, pages, detail, patterns, out):
    """Answer *data*, of *count* containers, into *out*.

    Returns a fault, where in *out* the answer begins and ends, and how many keys are received,
    cleared and invalid. *out* holds 8 bytes, and 8 and CONTAINER_BYTES_MAX for each container.
    """
    zero, not_roaring, too_large = uint64(0), uint64(1), uint64(2)
    refused = zero, zero, zero, zero, zero
    has_runs = len(data) >= 2 and u16(data, zero) == uint64(_COOKIE_RUNS)
    heads, offsets, at = _places(data, count)
    if at == zero:
        return not_roaring, *refused
    has_offsets = offsets != at
    words = np.empty(WORDS, np.uint64)
    issued = np.empty(WORDS, np.uint64)
    received, cleared, invalid = zero, zero, zero
    containers = uint64(8) + uint64(8) * count
    end = containers
    kept = np.empty((count, uint64(3)), np.uint64)  # page, keys and place of each one written
    written, next_page = zero, zero
    for i in range(count):
        page = u16(data, heads + uint64(4) * i)
        keys = u16(data, heads + uint64(4) * i + uint64(2)) + uint64(1)
        is_run = has_runs and (data[uint64(4) + (i >> uint64(3))] >> (i & uint64(7))) & 1 == 1
        if page < next_page or (has_offsets and u32(data, offsets + uint64(4) * i) != at):
            return not_roaring, *refused
        next_page = page + uint64(1)
        at = read_container(data, at, is_run, keys, words)
        if at == zero:
            return not_roaring, *refused
        if _is_over_nine_digits(page, words):
            return too_large, *refused
        _mark_issued(page, patterns, issued)
        valid, may_clear = _answer_page(words, issued, detail, uint64(pages[page]) * uint64(WORDS))
        received += keys
        invalid += keys - valid
        cleared += may_clear
        if may_clear != zero:
            kept[written, 0], kept[written, 1], kept[written, 2] = page, may_clear, end
            written += uint64(1)
            end = write_container(words, may_clear, out, end)
    if at != uint64(len(data)):
        return not_roaring, *refused
    return zero, _write_heads(out, kept, written, containers), end, received, cleared, invalid
