"""From the bytes of a message to arrays, without a copy where the message allows it.

Clients send `repeated fixed64` as one packed run, and of such a message the numbers are simply the
bytes after a short header. Every other legal encoding (unpacked, split runs, unknown fields,
tokens) is left to the generated class, so each message is read exactly as protobuf reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError

from ndoo.errors import InputError
from ndoo.nhs_number import Keys, Numbers
from ndoo.register import sets
from ndoo.register.sets import Bytes, SetAnswers
from ndoo.register.view import Answers, View
from ndoo.server import sample
from ndoo.server.limits import Limits
from ndoo.server.status import TooMany
from ndoo.v1 import check_pb2

_TAG = 0x0A  # field 1, length-delimited: the packed numbers, or the keys

INLINE_NUMBERS_MAX = 8192
"""Up to here numbers are answered on the event loop: some 40 µs, less than a thread costs."""

INLINE_SET_BYTES_MAX = 160 * 1024
"""The same for sets: 20 containers, some 50 µs."""

_VARINT_BYTES_MAX = 5
_NUMBER_BYTES = 8


class MalformedMessage(InputError):
    """Bytes that are not a message of the expected type."""

    reason = "MALFORMED_MESSAGE"

    def __init__(self) -> None:
        super().__init__("The message is not valid protobuf of the type that this method takes.")


def sample_of(number: int | None) -> Keys:
    """The key of *number*, as the sample of a request that asks about it alone."""
    return np.array([] if number is None else [number // 10], dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class NumbersRequest:
    """A BatchCheckRequest or StreamCheckRequest; *numbers* may be a read-only view of it."""

    numbers: Numbers = field(repr=False)
    at_least_as_fresh: str = ""
    exactly_at: str = ""

    @property
    def count(self) -> int:
        """How many numbers are asked about."""
        return len(self.numbers)

    @property
    def is_small(self) -> bool:
        """Whether the answer costs less than handing the question to a thread."""
        return self.count <= INLINE_NUMBERS_MAX

    def refuse_too_large(self, limits: Limits) -> None:
        """Raise TooMany if the message asks more than *limits* allow."""
        if len(self.numbers) > limits.numbers_per_message:
            raise TooMany(
                f"The message holds {len(self.numbers):,} numbers; send at most "
                f"{limits.numbers_per_message:,} in one."
            )

    def answer(self, view: View) -> Answers:
        return view.check_many(self.numbers)

    def sample(self) -> Keys:
        """Some of the keys that are asked about, in their order."""
        return sample.of_numbers(self.numbers)


@dataclass(frozen=True, slots=True)
class SetRequest:
    """A CheckSetRequest; *keys* may be a read-only view of it."""

    keys: Bytes = field(repr=False)
    at_least_as_fresh: str = ""
    exactly_at: str = ""

    @property
    def count(self) -> int:
        """How many keys are asked about, as the set claims; a wrong claim is refused later."""
        return sets.claimed_count(self.keys)

    @property
    def is_small(self) -> bool:
        """Whether the answer costs less than handing the question to a thread."""
        return sets.answer_bytes_max(self.keys) <= INLINE_SET_BYTES_MAX

    def refuse_too_large(self, limits: Limits) -> None:
        """Raise TooMany if the answer could be larger than a message may be.

        A few bytes of runs may stand for very many keys; what the answer costs is what counts.
        """
        if sets.answer_bytes_max(self.keys) > limits.bytes_per_message:
            raise TooMany(
                "The set spans too many ranges of 65,536 keys for one message; cut it.",
                reason="SET_TOO_LARGE",
            )

    def answer(self, view: View) -> SetAnswers:
        """Raises sets.BadSet."""
        return view.check_set(self.keys)

    def sample(self) -> Keys:
        """Some of the keys that are asked about, in their order; of a set that was answered."""
        return sample.of_set(self.keys)


def read_check(message: bytes) -> check_pb2.CheckRequest:
    """The message of a Check. Raises MalformedMessage."""
    try:
        return check_pb2.CheckRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None


def read_register(message: bytes) -> check_pb2.GetRegisterRequest:
    """The message of a GetRegister. Raises MalformedMessage."""
    try:
        return check_pb2.GetRegisterRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None


def read_numbers(message: bytes) -> NumbersRequest:
    """The message of a BatchCheck or a StreamCheck, which are alike. Raises MalformedMessage."""
    start = _start_of_only_field(message)
    if start is not None and (len(message) - start) % _NUMBER_BYTES == 0:
        return NumbersRequest(np.frombuffer(message, dtype="<u8", offset=start))
    try:
        parsed = check_pb2.StreamCheckRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None
    numbers = np.array(parsed.nhs_numbers, dtype=np.uint64)
    return NumbersRequest(numbers, parsed.at_least_as_fresh, parsed.exactly_at)


def read_set(message: bytes) -> SetRequest:
    """The message of a CheckSet. Raises MalformedMessage."""
    start = _start_of_only_field(message)
    if start is not None:
        return SetRequest(np.frombuffer(message, dtype=np.uint8, offset=start))
    try:
        parsed = check_pb2.CheckSetRequest.FromString(message)
    except DecodeError:
        raise MalformedMessage from None
    keys = np.frombuffer(parsed.keys, dtype=np.uint8)
    return SetRequest(keys, parsed.at_least_as_fresh, parsed.exactly_at)


def _start_of_only_field(message: bytes) -> int | None:
    """Where the content of field 1 begins, if *message* is that one field and nothing else."""
    if not message or message[0] != _TAG:
        return None
    length = 0
    for place in range(_VARINT_BYTES_MAX):
        if 1 + place >= len(message):
            return None
        byte = message[1 + place]
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            start = 2 + place
            return start if length > 0 and start + length == len(message) else None
    return None
