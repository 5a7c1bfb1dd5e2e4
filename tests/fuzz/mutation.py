"""Bends inputs: blindly, from a seed, where no coverage can be had or none is wanted."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

_BYTES = (0, 1, 10, 127, 128, 255)
_WORDS = (0, 1, 0xFFFF, 12346, 12347, 2**31, 2**32 - 1, 15258, 999_999_999, 1_000_000_000)
_TEXTS = (
    b"9990000018", b"999 000 0018", b"9223372036854775808", b"-1", b"1e400", b"NaN", b"null",
    b"true", b"[", b"{", b'"', b"\\ud800", b"\xff", b"\x00", b"\n", b"FIT",
    "\N{FULLWIDTH DIGIT FOUR}".encode(),
)  # fmt: skip


def mutated(rng: random.Random, seeds: Sequence[bytes], bytes_max: int) -> bytes:
    """One of *seeds*, changed in one to four places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        rng.choice(_WAYS)(rng, data, seeds)
    return bytes(data[:bytes_max])


def _place(rng: random.Random, data: bytearray) -> int:
    """More often near the beginning, where lengths and headers stand."""
    near = min(len(data), 48) if rng.random() < 0.5 else len(data)
    return rng.randint(0, near)


def _set_byte(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + 1] = bytes([rng.choice((*_BYTES, rng.randrange(256)))])


def _flip_bit(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_word(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at, word = _place(rng, data), rng.choice(_WORDS)
    raw = struct.pack(rng.choice(("<I", "<Q", ">I")), word)[: rng.choice((2, 4, 8))]
    data[at : at + len(raw)] = raw


def _add_text(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + rng.choice((0, 0, 1, 10))] = rng.choice(_TEXTS)


def _cut(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 4, 8, len(data)))]


def _repeat(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + rng.randint(1, 64)]


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    data[_place(rng, data) :] = (
        other[rng.randint(0, len(other)) :] if (other := rng.choice(seeds)) else b""
    )


_WAYS = (_set_byte, _flip_bit, _set_word, _add_text, _cut, _repeat, _splice)
