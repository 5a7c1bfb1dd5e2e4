"""What callers get: verdicts, bits, totals. Whatever is built here has been proven to be whole."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from ndoo.client.errors import IncompleteAnswer
from ndoo.v1 import check_pb2

Bits = npt.NDArray[np.uint8]
_Message = TypeVar("_Message", bound=Message)


class Verdict(enum.IntEnum):
    """May the record of this number be disclosed? Only CLEARED means yes."""

    CLEARED = check_pb2.VERDICT_CLEARED
    OPTED_OUT = check_pb2.VERDICT_OPTED_OUT
    INVALID = check_pb2.VERDICT_INVALID


@dataclass(frozen=True, slots=True)
class Revision:
    """The state of the register that an answer is true for. The token is opaque; *as_of* is UTC."""

    token: str
    as_of: dt.datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer about one number."""

    verdict: Verdict
    revision: Revision


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """The answers about one chunk of a stream, good for nothing until its summary has arrived.

    *cleared* and *invalid* hold one bit a number, least significant first, in ceil(count / 8)
    bytes; unused bits are unset, and no number is both.
    """

    offset: int
    count: int
    cleared: Bits
    invalid: Bits

    def cleared_mask(self) -> npt.NDArray[np.bool_]:
        """Which numbers are cleared: one boolean a number."""
        return _mask(self.cleared, self.count)

    def invalid_mask(self) -> npt.NDArray[np.bool_]:
        """Which numbers are not valid: one boolean a number."""
        return _mask(self.invalid, self.count)


@dataclass(frozen=True, slots=True)
class Summary:
    """The totals of a whole stream; having one proves that every number was answered."""

    received: int
    cleared: int
    opted_out: int
    invalid: int
    revision: Revision


def parse(kind: type[_Message], message: bytes) -> _Message:
    """*message* as a *kind*. Raises IncompleteAnswer if it is not one."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise IncompleteAnswer("The service sent a message that cannot be read.") from None


def read_revision(revision: check_pb2.Revision) -> Revision:
    """*revision*, which must name a state and a moment. Raises IncompleteAnswer."""
    if not revision.token or not revision.HasField("as_of"):
        raise IncompleteAnswer("The service's answer does not say which revision it is true for.")
    try:
        return Revision(revision.token, revision.as_of.ToDatetime(dt.UTC))
    except (ValueError, OverflowError):
        raise IncompleteAnswer("The service's answer has no readable time ('as_of').") from None


def read_answer(response: check_pb2.CheckResponse) -> Answer:
    """The answer in *response*. Raises IncompleteAnswer unless it is one of the three verdicts."""
    try:
        verdict = Verdict(response.verdict)
    except ValueError:
        raise IncompleteAnswer(
            "The service's answer holds no verdict that is known here."
        ) from None
    return Answer(verdict, read_revision(response.revision))


def read_chunk(chunk: check_pb2.Chunk, offset: int, count: int) -> ChunkAnswer:
    """The answers in *chunk*, which must be about *count* numbers after *offset* others.

    Raises IncompleteAnswer.
    """
    if chunk.offset != offset or chunk.count != count:
        raise IncompleteAnswer("The service's answers do not line up with the numbers sent.")
    cleared = _read_bits(chunk.cleared, count)
    invalid = _read_bits(chunk.invalid or bytes((count + 7) // 8), count)
    if np.any(cleared & invalid):
        raise IncompleteAnswer("The service calls a number both cleared and invalid.")
    return ChunkAnswer(offset, count, cleared, invalid)


def count_ones(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _read_bits(bitmap: bytes, count: int) -> Bits:
    if len(bitmap) != (count + 7) // 8:
        raise IncompleteAnswer("A bitmap of the service has the wrong length.")
    if count % 8 and bitmap[-1] >> (count % 8):
        raise IncompleteAnswer("A bitmap of the service has bits beyond its last number.")
    return np.frombuffer(bitmap, dtype=np.uint8)


def _mask(bits: Bits, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)
