"""Frames of Spark without the people who opted out, asked about by the tasks themselves.

    from ndoo.client import spark

    frame, report = spark.clear(frame, "nhs_number", target="ndoo.example:50551")
    frame.write.parquet("cohort.parquet")
    print(f"{report.summary.opted_out:,} rows removed, as of {report.revision.as_of}")

The driver takes a revision before any task runs, and every task, and every try of a task, asks at
exactly that one: whatever changes meanwhile, all of the frame is of one state. Spark is lazy, and
the service keeps a revision for an hour unless its operator says otherwise. A task that runs later
fails, as does one that gets no whole answer; then the action fails, and nobody is cleared.

Executors need `ndoo` and pyarrow installed, a way to the service, and the files that *tls* names.
Sessions of Spark Connect have no accumulators, and are refused by Spark itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Unpack

import pyarrow as pa
from pyspark import Accumulator, AccumulatorParam, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_type

from ndoo.client.answers import Revision, Summary
from ndoo.client.client import Client
from ndoo.client.columns import Column
from ndoo.client.connections import Tls
from ndoo.client.frames.arrow import gathered, plain, select_rows
from ndoo.client.frames.kept import OnInvalid, kept_rows
from ndoo.client.introduction import Introduction

_Tally = dict[tuple[int, int], Summary]
"""What was asked, by stage and partition."""


class Cleared(NamedTuple):
    """A frame without people who are not cleared, and what was asked for it."""

    frame: DataFrame
    report: Report


@dataclass(frozen=True, slots=True)
class Report:
    """Counts of the rows that were asked about, all at *revision*."""

    revision: Revision
    _tally: Accumulator[_Tally] = field(repr=False)

    @property
    def summary(self) -> Summary:
        """The totals of the last stage that read the frame, of the partitions it read to the end.

        A partition counts once, however often it was tried. An action that looks at some rows only
        (show, take, limit) leaves totals of some. Raises LookupError before any action has run,
        and IncompleteAnswer if tasks were answered at other revisions.
        """
        tally = self._tally.value
        if not tally:
            raise LookupError("nothing has been asked yet; run an action on the frame first")
        last = max(stage for stage, _ in tally)
        parts = [part for (stage, _), part in tally.items() if stage == last]
        return Summary.of([Summary(0, 0, 0, 0, self.revision), *parts])


def clear(
    frame: DataFrame,
    column: str = "nhs_number",
    *,
    target: str | Sequence[str],
    tls: Tls | None = None,
    on_invalid: OnInvalid = "drop",
    exactly_at: str = "",
    **introduction: Unpack[Introduction],
) -> Cleared:
    """*frame* without the rows of people who are not cleared; other columns stay as they are.

    *on_invalid* is that of `ndoo.client.frames.clear`: "raise" ends the action with InvalidNumbers
    in its error. *exactly_at* demands a revision; without it the newest is taken, now.
    *introduction* says who asks and what for, of driver and tasks alike; see Introduction.

    Raises CallFailed or IncompleteAnswer if the service does not answer the driver, ValueError if
    there is no such column, and TypeError if it cannot hold NHS numbers.
    """
    place = _place_of(frame, column)
    with Client(target, tls=tls, **introduction) as client:
        revision = client.revision(exactly_at=exactly_at)
    tally = frame.sparkSession.sparkContext.accumulator({}, _EachOnce())
    task = _Task(place, target, tls, introduction, on_invalid, revision, tally)
    return Cleared(frame.mapInArrow(task.run, frame.schema), Report(revision, tally))


def _place_of(frame: DataFrame, column: str) -> int:
    if frame.columns.count(column) != 1:
        raise ValueError(f"there is not exactly one column '{column}'")
    place: int = frame.columns.index(column)
    Column.of(pa.array([], to_arrow_type(frame.schema.fields[place].dataType)))
    return place


class _EachOnce(AccumulatorParam[_Tally]):  # type: ignore[misc]
    """One entry a key: Spark adds up again what a stage tried again, and a second action, tell."""

    def zero(self, value: _Tally) -> _Tally:
        return dict(value)

    def addInPlace(self, value1: _Tally, value2: _Tally) -> _Tally:  # noqa: N802
        return value1 | value2


@dataclass(frozen=True, slots=True)
class _Task:
    """What each task does with its partition; goes to the executors."""

    place: int
    target: str | Sequence[str]
    tls: Tls | None
    introduction: Introduction
    on_invalid: OnInvalid
    revision: Revision
    tally: Accumulator[_Tally]

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Those rows of *batches* that may be disclosed; their totals are told after the last."""
        total = Summary(0, 0, 0, 0, self.revision)
        with Client(self.target, tls=self.tls, streams=1, **self.introduction) as client:
            for table in gathered(batches):  # Spark's own batches are too small for a question
                rows = plain(table)
                values = rows.column(self.place)
                verdicts = client.check_many(values, exactly_at=self.revision.token)
                total = Summary.of([total, verdicts.summary])
                kept = kept_rows(values, verdicts, self.on_invalid)
                yield from select_rows(rows, kept, table.schema).to_batches()
        context = TaskContext.get()
        self.tally.add({(context.stageId(), context.partitionId()): total})
