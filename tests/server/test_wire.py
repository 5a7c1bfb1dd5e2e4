"""The view over the wire bytes reads every message exactly as the generated class does."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndoo.server import wire
from ndoo.v1 import check_pb2

NUMBERS = st.lists(st.integers(0, 2**64 - 1), max_size=20)


def varint(value: int, padding: int = 0) -> bytes:
    """*value* as a varint, made longer than needed by *padding* bytes, which is legal."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(padding):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    """One field of a message, in one of its legal encodings."""
    kind = draw(st.sampled_from(["packed", "unpacked", "token", "exact", "unknown"]))
    numbers = np.array(draw(NUMBERS), dtype="<u8")
    match kind:
        case "packed":
            data = numbers.tobytes()
            return b"\x0a" + varint(len(data), draw(st.integers(0, 2))) + data
        case "unpacked":
            return b"".join(b"\x09" + number.tobytes() for number in numbers)
        case "token" | "exact":
            text = draw(st.text(max_size=5)).encode()
            return (b"\x12" if kind == "token" else b"\x1a") + varint(len(text)) + text
        case _:
            data = draw(st.binary(max_size=6))
            return varint(99 << 3 | 2) + varint(len(data)) + data


MESSAGES = st.lists(fields(), max_size=4).map(b"".join)


def as_generated(message: bytes) -> tuple[list[int], str, str] | None:
    try:
        parsed = check_pb2.StreamCheckRequest.FromString(message)
    except DecodeError:
        return None
    return list(parsed.nhs_numbers), parsed.at_least_as_fresh, parsed.exactly_at


def as_wire(message: bytes) -> tuple[list[int], str, str] | None:
    try:
        request = wire.read_numbers(message)
    except wire.MalformedMessage:
        return None
    assert request.numbers.dtype == np.uint64
    return request.numbers.tolist(), request.at_least_as_fresh, request.exactly_at


@settings(max_examples=400, deadline=None)
@given(MESSAGES)
def test_every_legal_encoding(message: bytes) -> None:
    assert as_generated(message) is not None
    assert as_wire(message) == as_generated(message)


@settings(max_examples=400, deadline=None)
@given(MESSAGES, st.integers(0, 200), st.integers(0, 255))
@example(b"\x0a\x08" + bytes(8), 1, 0x07)  # a run that is not whole numbers
@example(b"\x0a\x88\x80\x80\x80\x00" + bytes(8), 99, 0)  # a length of five bytes
@example(b"\x0a\x88\x80\x80\x80\x80\x00" + bytes(8), 99, 0)  # and of six
@example(b"\x0a", 0, 0x0A)
def test_damaged_messages(message: bytes, place: int, byte: int) -> None:
    """One byte changed, or the end cut off: read alike, or refused alike."""
    damaged = bytearray(message)
    if place < len(damaged):
        damaged[place] = byte
    for candidate in (bytes(damaged), message[:place]):
        assert as_wire(candidate) == as_generated(candidate)


def test_the_plain_shape_is_not_copied() -> None:
    numbers = np.arange(1000, dtype=np.uint64)
    message = check_pb2.StreamCheckRequest(nhs_numbers=numbers).SerializeToString()
    read = wire.read_numbers(message).numbers
    assert not read.flags.owndata
    assert (read == numbers).all()


@pytest.mark.parametrize("length", [2**31, 2**32, 2**35 - 1, 2**63])
def test_a_length_beyond_the_message_is_refused(length: int) -> None:
    with pytest.raises(wire.MalformedMessage):
        wire.read_numbers(b"\x0a" + varint(length) + bytes(16))
