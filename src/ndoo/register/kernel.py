"""The compiled loops over the look-up tables: numbers in, cleared bits and invalid bits out.

The tables hold one bit a key, in pages of 65,536 keys (`view` builds and owns them):

- `pages[key >> 16]` is the slot of the key's page;
- `detail[slot]`, 8 KiB: bit set, the key may be cleared; bit unset, it is opted out;
- `summary[slot]`, 512 bytes: one bit for two bytes of `detail`; set, all 16 keys may be cleared.

A set bit is the permission, so memory that was never written clears nobody. The summary is exact,
not probabilistic: it lets most look-ups end in a table small enough for the processor's caches (2.3
MB for 3.6 million opt-outs, where `detail` takes 37.5 MB), which makes random look-ups about three
times as fast (docs/adr/0003-look-up-tables.md).

`check` works in blocks that stay in the first-level cache, in three passes that a compiler can
vectorise: digits to key and validity; the summary; then, only for the one in five that the summary
leaves open, the detail. Everything here runs without the GIL, allocates only its block buffers, and
neither logs nor raises.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import float64, int64, uint8, uint32, uint64
from numba.extending import intrinsic

from ndoo.register.compiled import compiled

PAGE_BITS = 16
PAGE_KEYS = 1 << PAGE_BITS
DETAIL_BYTES = PAGE_KEYS // 8
SUMMARY_BYTES = DETAIL_BYTES // 16

BLOCK = 2048
"""Numbers a pass. Measured: 512 to 4,096 lie within a tenth of each other."""

_NUMBER_MAX = 9_999_999_999
_INVERSE_OF_11 = 3_123_612_579  # x * this (mod 2^32) <= (2^32 - 1) / 11 exactly if 11 divides x
_QUOTIENT_OF_11_MAX = 390_451_572

# Numbers straight from a message are read-only and lie at any address.
_WIRE = nb.types.Array(nb.uint64, 1, "C", readonly=True, aligned=False)
_BYTES = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_PAGES = nb.types.Array(nb.uint32, 1, "C", readonly=True)
_OUT = nb.uint64[::1]
_OUT_BYTES = nb.uint8[::1]
_KEYS = nb.types.Array(nb.uint32, 1, "C", readonly=True)


@intrinsic
def count_trailing_zeros(_typing: Any, word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return nb.types.uint64(nb.types.uint64), generate


@intrinsic
def count_ones(_typing: Any, word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return nb.types.uint64(nb.types.uint64), generate


@intrinsic
def _bits_of_64_bytes(_typing: Any, array: Any, start: Any) -> Any:
    """64 bytes of a uint8 array as 64 bits, set where the byte is not zero: one or two
    instructions.
    """
    lanes = ir.VectorType(ir.IntType(8), 64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), lanes.as_pointer())
        loaded = builder.load(address, align=1)
        return builder.bitcast(
            builder.icmp_unsigned("!=", loaded, ir.Constant(lanes, [0] * 64)), ir.IntType(64)
        )

    return nb.types.uint64(array, nb.types.uint64), generate


@nb.njit(nogil=True)
def _read_digits(numbers, start, count, keys, is_valid, high, low):
    """Split *count* numbers into five and five digits, and from those derive key and validity.

    With h and l the two halves and h1 = h // 10, h2 = h // 100 and so on, the weighted digit sum is
    6h + 2h1 + 4h2 + 6h3 + 8h4 + l + 3l1 + 5l2 + 7l3 + 9l4 modulo 11, which a vector unit computes
    without tables; a number is valid if it is a multiple of 11.
    """
    for i in range(uint64(count)):
        number = numbers[start + i]
        in_range = number <= uint64(_NUMBER_MAX)
        number = number if in_range else uint64(0)
        # Exact: a double holds 34 bits, and the half keeps the quotient off whole numbers.
        half = uint64(int64((float64(int64(number)) + 0.5) * 1e-5))
        high[i] = uint32(half)
        low[i] = uint32(number - half * uint64(100_000))
        is_valid[i] = in_range
    for i in range(uint64(count)):
        h, l = high[i], low[i]  # noqa: E741
        h1, h2, h3, h4 = h // uint32(10), h // uint32(100), h // uint32(1000), h // uint32(10000)
        l1, l2, l3, l4 = l // uint32(10), l // uint32(100), l // uint32(1000), l // uint32(10000)
        total = uint32(
            uint32(6) * h + uint32(2) * h1 + uint32(4) * h2 + uint32(6) * h3 + uint32(8) * h4
            + l + uint32(3) * l1 + uint32(5) * l2 + uint32(7) * l3 + uint32(9) * l4
        )  # fmt: skip
        check_digit_right = uint32(total * uint32(_INVERSE_OF_11)) <= uint32(_QUOTIENT_OF_11_MAX)
        all_alike = (h == l) & (h == uint32(h4 * uint32(11_111)))
        is_valid[i] &= check_digit_right & (not all_alike)
        keys[i] = uint32(h * uint32(10_000) + l1)


@nb.njit(nogil=True)
def _look_up_summary(count, keys, pages, summary, may_clear):
    for i in range(uint64(count)):
        key = uint64(keys[i])
        byte = summary[
            (uint64(pages[key >> uint64(16)]) << uint64(9)) + ((key >> uint64(7)) & uint64(511))
        ]
        may_clear[i] = (byte >> ((key >> uint64(4)) & uint64(7))) & uint64(1)


@nb.njit(nogil=True)
def _look_up_detail(keys, start, open_bits, pages, detail):
    """The bits of one word that may be cleared after all, among those the summary left open."""
    cleared = uint64(0)
    while open_bits != uint64(0):
        bit = count_trailing_zeros(open_bits)
        open_bits &= open_bits - uint64(1)
        key = uint64(keys[start + bit])
        byte = uint64(
            detail[
                (uint64(pages[key >> uint64(16)]) << uint64(13))
                + ((key >> uint64(3)) & uint64(8191))
            ]
        )
        cleared |= ((byte >> (key & uint64(7))) & uint64(1)) << bit
    return cleared


@compiled(nb.types.UniTuple(nb.uint64, 2)(_WIRE, _PAGES, _BYTES, _BYTES, _OUT, _OUT), nogil=True)
def check(numbers, pages, summary, detail, cleared, invalid):
    """Answer *numbers* into the words of *cleared* and *invalid*; return how many are which.

    *cleared* and *invalid* are uint64 arrays of ceil(len(numbers) / 64) words, one bit a number,
    least significant first; unused bits of the last word are unset. Integers over 9,999,999,999 are
    invalid. The tables must cover every nine-digit key; a key is never looked up beyond them.
    """
    keys = np.zeros(BLOCK, np.uint32)
    high = np.empty(BLOCK, np.uint32)
    low = np.empty(BLOCK, np.uint32)
    is_valid = np.zeros(BLOCK, np.uint8)
    may_clear = np.zeros(BLOCK, np.uint8)
    total = uint64(len(numbers))
    cleared_count = uint64(0)
    invalid_count = uint64(0)
    for start in range(uint64(0), total, uint64(BLOCK)):
        count = min(uint64(BLOCK), total - start)
        _read_digits(numbers, start, count, keys, is_valid, high, low)
        _look_up_summary(count, keys, pages, summary, may_clear)
        for word in range((count + uint64(63)) >> uint64(6)):
            first = word << uint64(6)
            present = count - first
            mask = ~uint64(0) if present >= uint64(64) else (uint64(1) << present) - uint64(1)
            valid_bits = _bits_of_64_bytes(is_valid, first) & mask
            cleared_bits = _bits_of_64_bytes(may_clear, first) & valid_bits
            cleared_bits |= _look_up_detail(keys, first, valid_bits & ~cleared_bits, pages, detail)
            invalid_bits = mask & ~valid_bits
            at = (start >> uint64(6)) + word
            cleared[at] = cleared_bits
            invalid[at] = invalid_bits
            cleared_count += count_ones(cleared_bits)
            invalid_count += count_ones(invalid_bits)
    return cleared_count, invalid_count


@compiled(nb.void(_KEYS, nb.boolean, _PAGES, _OUT_BYTES, _OUT_BYTES), nogil=True)
def mark(keys, opted_out, pages, summary, detail):
    """Set or take away the permission bits of *keys* in their pages, and bring the summary up to
    date.
    """
    for key32 in keys:
        key = uint64(key32)
        slot = uint64(pages[key >> uint64(16)])
        at = (slot << uint64(13)) + ((key >> uint64(3)) & uint64(8191))
        bit = uint8(uint64(1) << (key & uint64(7)))
        byte = uint8(detail[at] & ~bit) if opted_out else uint8(detail[at] | bit)
        detail[at] = byte
        summary_at = (slot << uint64(9)) + ((key >> uint64(7)) & uint64(511))
        summary_bit = uint8(uint64(1) << ((key >> uint64(4)) & uint64(7)))
        if byte == uint8(255) and detail[at ^ uint64(1)] == uint8(255):
            summary[summary_at] |= summary_bit
        else:
            summary[summary_at] &= ~summary_bit


@compiled(nb.uint64(_PAGES, _BYTES), nogil=True)
def count_opted_out(pages, detail):
    """How many keys are opted out, counted from the tables themselves."""
    total = uint64(0)
    for slot in pages:
        base = uint64(slot) << uint64(13)
        if slot != uint32(1):
            for i in range(uint64(8192)):
                total += uint64(8) - count_ones(uint64(detail[base + i]))
    return total


@compiled(nb.uint64(_PAGES, _BYTES, nb.uint32[::1]), nogil=True)
def list_opted_out(pages, detail, out):
    """Write the opted-out keys to *out*, ascending, as many as fit; return how many there are."""
    total = uint64(0)
    for page in range(uint64(len(pages))):
        slot = uint64(pages[page])
        if slot != uint64(1):
            for i in range(uint64(8192)):
                out_bits = uint64(~detail[(slot << uint64(13)) + i] & uint8(255))
                while out_bits != uint64(0):
                    if total < uint64(len(out)):
                        low = (i << uint64(3)) | count_trailing_zeros(out_bits)
                        out[total] = uint32((page << uint64(16)) | low)
                    total += uint64(1)
                    out_bits &= out_bits - uint64(1)
    return total


def words_for(count: int) -> int:
    """How many 64-bit words hold *count* bits."""
    return (count + 63) // 64


def empty_bits(count: int) -> npt.NDArray[np.uint64]:
    """Room for *count* bits, all unset."""
    return np.zeros(words_for(count), dtype=np.uint64)
