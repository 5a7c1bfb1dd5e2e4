"""From the bytes of a message to an array of numbers, without a copy where the message allows it.

Clients send `repeated fixed64` as one packed run, and of such a message the numbers are simply the
bytes after a short header. Every other legal encoding (unpacked, split runs, unknown fields,
tokens) is left to the generated class, so each message is read exactly as protobuf reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError

from ndoo.errors import InputError
from ndoo.nhs_number import Numbers
from ndoo.v1 import check_pb2

NUMBERS_TAG = 0x0A  # field 1, length-delimited
_VARINT_BYTES_MAX = 5
_NUMBER_BYTES = 8


class MalformedMessage(InputError):
    """Bytes that are not a message of the expected type."""

    reason = "MALFORMED_MESSAGE"

    def __init__(self) -> None:
        super().__init__("The message is not valid protobuf of the type that this method takes.")


@dataclass(frozen=True, slots=True)
class NumbersRequest:
    """A BatchCheckRequest or StreamCheckRequest; *numbers* may be a read-only view of it."""

    numbers: Numbers = field(repr=False)
    at_least_as_fresh: str = ""
    exactly_at: str = ""


def read_check(message: bytes) -> check_pb2.CheckRequest:
    """The message of a Check. Raises MalformedMessage."""
    try:
        return check_pb2.CheckRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None


def read_numbers(message: bytes) -> NumbersRequest:
    """The message of a BatchCheck or a StreamCheck, which are alike. Raises MalformedMessage."""
    start = _start_of_only_run(message)
    if start is not None:
        return NumbersRequest(np.frombuffer(message, dtype="<u8", offset=start))
    try:
        parsed = check_pb2.StreamCheckRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None
    numbers = np.array(parsed.nhs_numbers, dtype=np.uint64)
    return NumbersRequest(numbers, parsed.at_least_as_fresh, parsed.exactly_at)


def _start_of_only_run(message: bytes) -> int | None:
    """Where the numbers begin, if *message* is one packed run of whole numbers and nothing else."""
    if not message or message[0] != NUMBERS_TAG:
        return None
    length = 0
    for place in range(_VARINT_BYTES_MAX):
        if 1 + place >= len(message):
            return None
        byte = message[1 + place]
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            start = 2 + place
            whole = start + length == len(message) and length > 0 and length % _NUMBER_BYTES == 0
            return start if whole else None
    return None
