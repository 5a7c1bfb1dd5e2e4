"""Columns of any length, over several streams at once, at one revision.

A column is cut into segments, each of them a stream of its own with a summary of its own. A segment
whose stream broke is asked again whole: chunks without their summary count for nothing. What the
service calls cleared must be valid by our own reading as well. Short columns share a segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import grpc
import numpy as np

from ndoo import nhs_number
from ndoo.client.answers import Mask, Summary, Verdicts
from ndoo.client.columns import Column
from ndoo.client.crew import Crew, Outcome
from ndoo.client.errors import IncompleteAnswer
from ndoo.client.job import Job
from ndoo.client.stream import check_stream
from ndoo.nhs_number import Numbers

SEGMENT_NUMBERS = 1_048_576
"""What is asked again when a stream breaks: long enough for its summary to cost nothing."""

_SEGMENTS_AHEAD = 2


def check_column(job: Job, column: Column, *, streams: int, chunk_numbers: int) -> Verdicts:
    """The verdicts on *column*. Raises CallFailed, IncompleteAnswer, ClientClosed or TypeError."""
    if len(column) > SEGMENT_NUMBERS:
        (whole,) = check_columns(job, [column], streams=streams, chunk_numbers=chunk_numbers)
        return whole
    group = _Group([column])
    return group.proven([group.check(job, 0, len(column), chunk_numbers)])


def check_columns(
    job: Job, columns: Iterable[Column], *, streams: int, chunk_numbers: int
) -> Generator[Verdicts]:
    """The verdicts on each of *columns*, in order, all at one revision.

    *columns* is read by the caller's thread, a few segments ahead. Raises what `check_column` does.
    """
    job.fix_revision()
    crew = Crew(streams)
    pending: deque[_Group] = deque()
    try:
        for group in _groups(columns):
            group.begin(job, crew, chunk_numbers)
            pending.append(group)
            while sum(len(each.answers) for each in pending) > streams + _SEGMENTS_AHEAD:
                yield from pending.popleft().verdicts()
        while pending:
            yield from pending.popleft().verdicts()
    finally:
        crew.dismiss()
        job.stop.stop()  # nothing runs any more, unless this is the end of an error
        crew.wait()


@dataclass(slots=True)
class _Group:
    """Columns that are answered together, and their answers as they come.

    Whatever is not answered is not cleared; and nobody sees the arrays before all is proven.
    """

    columns: list[Column]
    column: Column = field(init=False)
    cleared: Mask = field(init=False)
    invalid: Mask = field(init=False)
    answers: list[Outcome[Summary]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.column = Column.joined(self.columns)
        self.cleared = np.zeros(len(self.column), dtype=np.bool_)
        self.invalid = np.zeros(len(self.column), dtype=np.bool_)

    def begin(self, job: Job, crew: Crew, chunk_numbers: int) -> None:
        length = len(self.column)
        for start in range(0, max(1, length), SEGMENT_NUMBERS):
            stop = min(length, start + SEGMENT_NUMBERS)
            check = partial(self.check, job, start, stop, chunk_numbers)
            self.answers.append(crew.begin(check))

    def check(self, job: Job, start: int, stop: int, chunk_numbers: int) -> Summary:
        """One segment, asked until its summary has arrived."""

        def ask(channel: grpc.Channel, timeout_s: float | None) -> Summary:
            sent: deque[Numbers] = deque()
            chunks = _chunks(self.column, start, stop, chunk_numbers, sent)
            with check_stream(
                channel,
                chunks,
                at_least_as_fresh=job.at_least_as_fresh,
                exactly_at=job.exactly_at,
                timeout_s=timeout_s,
            ) as stream:
                for answer in stream:
                    place = slice(start + answer.offset, start + answer.offset + answer.count)
                    self.cleared[place] = answer.cleared_mask()
                    self.invalid[place] = answer.invalid_mask()
                    refuse_cleared_nonsense(sent.popleft(), self.cleared[place])
            return stream.summary

        return job.ask(ask)

    def verdicts(self) -> Iterator[Verdicts]:
        """One for each column, when all are answered."""
        whole = self.proven([answer.result() for answer in self.answers])
        start = 0
        for column in self.columns:
            yield whole.part(start, start + len(column))
            start += len(column)

    def proven(self, summaries: list[Summary]) -> Verdicts:
        """All of them in one. Raises IncompleteAnswer."""
        return Verdicts(self.cleared, self.invalid, Summary.of(summaries))


def _groups(columns: Iterable[Column]) -> Iterator[_Group]:
    """*columns* put together until they fill a segment."""
    together: list[Column] = []
    length = 0
    for column in columns:
        together.append(column)
        length += len(column)
        if length >= SEGMENT_NUMBERS:
            yield _Group(together)
            together, length = [], 0
    if together:
        yield _Group(together)


def _chunks(
    column: Column, start: int, stop: int, chunk_numbers: int, sent: deque[Numbers]
) -> Iterator[Numbers]:
    for first in range(start, stop, chunk_numbers):
        sent.append(column.numbers(first, min(stop, first + chunk_numbers)))
        yield sent[-1]


def refuse_cleared_nonsense(numbers: Numbers, cleared: Mask) -> None:
    """Raise IncompleteAnswer if one of *cleared* is no valid number by our own reading."""
    if (cleared & ~nhs_number.valid(numbers)).any():
        raise IncompleteAnswer("The service cleared what is no valid number: do not trust it.")
