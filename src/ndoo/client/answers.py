"""What callers get: verdicts, bits, totals. Whatever is built here has been proven to be whole."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from ndoo.client.errors import IncompleteAnswer
from ndoo.v1 import check_pb2

Bits = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_Message = TypeVar("_Message", bound=Message)


class Verdict(enum.IntEnum):
    """May the record of this number be disclosed? Only CLEARED means yes, and only it is true."""

    CLEARED = check_pb2.VERDICT_CLEARED
    OPTED_OUT = check_pb2.VERDICT_OPTED_OUT
    INVALID = check_pb2.VERDICT_INVALID

    def __bool__(self) -> bool:
        return self is Verdict.CLEARED


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

    def cleared_mask(self) -> Mask:
        """Which numbers are cleared: one boolean a number."""
        return _mask(self.cleared, self.count)

    def invalid_mask(self) -> Mask:
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

    @classmethod
    def of(cls, parts: Sequence[Summary]) -> Summary:
        """The totals of *parts*, which must be of one revision, as of the earliest moment.

        Raises IncompleteAnswer.
        """
        if len({part.revision.token for part in parts}) != 1:
            raise IncompleteAnswer("The service's answers are not all of one revision.")
        return cls(
            sum(part.received for part in parts),
            sum(part.cleared for part in parts),
            sum(part.opted_out for part in parts),
            sum(part.invalid for part in parts),
            min((part.revision for part in parts), key=lambda revision: revision.as_of),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """The answers about a whole column, all of one revision: one boolean a value, in its order.

    *cleared*: valid, and not opted out. *invalid*: no valid NHS number, nulls among them. The
    arrays are read-only. Having one proves that every value was answered.
    """

    cleared: Mask = field(repr=False)
    invalid: Mask = field(repr=False)
    summary: Summary

    def __post_init__(self) -> None:
        """Raises IncompleteAnswer unless the arrays are those that the summary counts."""
        cleared, invalid = int(np.count_nonzero(self.cleared)), int(np.count_nonzero(self.invalid))
        opted_out = len(self.cleared) - cleared - invalid
        summary = self.summary
        if (
            len(self.cleared) != len(self.invalid)
            or np.any(self.cleared & self.invalid)
            or (len(self.cleared), cleared, opted_out, invalid)
            != (summary.received, summary.cleared, summary.opted_out, summary.invalid)
        ):
            raise IncompleteAnswer("The service's totals are not the sum of its answers.")
        self.cleared.flags.writeable = self.invalid.flags.writeable = False

    @classmethod
    def counted(cls, cleared: Mask, invalid: Mask, revision: Revision) -> Verdicts:
        """What has been proven already, with its counts taken from the arrays themselves."""
        counts = int(np.count_nonzero(cleared)), int(np.count_nonzero(invalid))
        opted_out = len(cleared) - sum(counts)
        return cls(
            cleared, invalid, Summary(len(cleared), counts[0], opted_out, counts[1], revision)
        )

    def part(self, start: int, stop: int) -> Verdicts:
        """Those from *start* up to *stop*."""
        return Verdicts.counted(self.cleared[start:stop], self.invalid[start:stop], self.revision)

    @property
    def opted_out(self) -> Mask:
        """Which values are valid NHS numbers of people who opted out."""
        return ~(self.cleared | self.invalid)

    @property
    def revision(self) -> Revision:
        """The state of the register that all of this is true for."""
        return self.summary.revision

    def __len__(self) -> int:
        return len(self.cleared)

    def __getitem__(self, place: int) -> Verdict:
        if self.cleared[place]:
            return Verdict.CLEARED
        return Verdict.INVALID if self.invalid[place] else Verdict.OPTED_OUT

    def __bool__(self) -> bool:
        raise TypeError("many verdicts are neither true nor false; look at their 'cleared'")


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


def read_batch(
    response: check_pb2.BatchCheckResponse, count: int, exactly_at: str = ""
) -> tuple[ChunkAnswer, Summary]:
    """The answers in *response*, which must be about *count* numbers. Raises IncompleteAnswer."""
    counts = response.counts
    chunk = check_pb2.Chunk(count=count, cleared=response.cleared, invalid=response.invalid)
    answer = read_chunk(chunk, 0, count)
    cleared, invalid = count_ones(answer.cleared), count_ones(answer.invalid)
    opted_out = count - cleared - invalid
    if (count, cleared, opted_out, invalid) != (
        counts.received, counts.cleared, counts.opted_out, counts.invalid
    ):  # fmt: skip
        raise IncompleteAnswer("The service's totals are not the sum of its answers.")
    revision = read_demanded(response.revision, exactly_at)
    return answer, Summary(count, cleared, opted_out, invalid, revision)


def read_demanded(message: check_pb2.Revision, exactly_at: str) -> Revision:
    """The revision in *message*, which must be the demanded one. Raises IncompleteAnswer."""
    revision = read_revision(message)
    if revision.token != (exactly_at or revision.token):
        raise IncompleteAnswer("The service's answer is of another revision than demanded.")
    return revision


def read_answer(response: check_pb2.CheckResponse, exactly_at: str = "") -> Answer:
    """The answer in *response*. Raises IncompleteAnswer unless it is one of the three verdicts."""
    try:
        verdict = Verdict(response.verdict)
    except ValueError:
        raise IncompleteAnswer(
            "The service's answer holds no verdict that is known here."
        ) from None
    return Answer(verdict, read_demanded(response.revision, exactly_at))


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


def _mask(bits: Bits, count: int) -> Mask:
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)
