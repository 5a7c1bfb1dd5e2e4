"""Data frames without the people who opted out: pandas, polars, Arrow, DuckDB.

    from ndoo.client import Client
    from ndoo.client.frames import clear

    with Client("127.0.0.1:50551") as client:
        frame, report = clear(frame, client, "nhs_number")
        print(f"{report.opted_out:,} rows removed, as of {report.revision.as_of}")

`clear` takes a DataFrame of pandas or polars, a LazyFrame, or a Table or RecordBatch of pyarrow,
and gives back the same without the rows whose people are not cleared; order, index, types and other
columns stay as they were. Numbers stand in one column, of any type that `Client.check_many` takes.

What does not lie in memory is answered batch by batch while it is read, in bounded memory: a
RecordBatchReader, a Dataset, and whatever else hands itself over through the Arrow stream interface
(a relation of DuckDB, a table of arro3) comes back as a RecordBatchReader, to be read once, which
DuckDB, polars, pandas and writers of Parquet all take. (The connection of a relation of DuckDB is
busy until the reader has been read; another one can read it.) A LazyFrame stays lazy. Then *report*
grows with the rows that are read.

All batches are of one revision, fixed when `clear` is called. The service keeps it for an hour
unless its operator says otherwise; what is read later fails with CallFailed, and clears nobody.
An error while a reader or a lazy frame is read is an error of the whole: what came before it is not
a result.

*on_invalid* says what becomes of rows without a valid NHS number, about which nobody can answer:

- "drop" removes them. This is the default.
- "raise" raises InvalidNumbers with their count.
- "keep" keeps them: for records of people whose number is not known and cannot be found with
  reasonable effort, to which an opt-out cannot be applied. Log that you did. A value from which
  somebody's valid number could be made all the same (by other separators or digits, "9990000018.0",
  or a lost leading zero) is removed even then: that is a number to be mended, not none.

A row of somebody who opted out is never kept.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar, Unpack

from ndoo.client.client import Client, Terms
from ndoo.client.columns import is_of
from ndoo.client.frames.kept import InvalidNumbers, OnInvalid, Report, kept_rows

__all__ = ["Cleared", "InvalidNumbers", "OnInvalid", "Report", "clear"]

F = TypeVar("F")


class Cleared(NamedTuple, Generic[F]):
    """A frame without people who are not cleared, and what was asked for it."""

    frame: F
    report: Report


def clear(
    frame: Any,
    client: Client,
    column: str = "nhs_number",
    on_invalid: OnInvalid = "drop",
    **terms: Unpack[Terms],
) -> Cleared[Any]:
    """*frame* without the rows of people who are not cleared: see the top of this module.

    Raises ClientError if there is no whole answer, InvalidNumbers if *on_invalid* says so,
    TypeError if this is no frame or *column* cannot hold NHS numbers, and what the frame's library
    raises if there is no such column.
    """
    if is_of("pandas", frame):
        return _clear_rows(frame, frame[column], client, on_invalid, terms)
    if is_of("polars", frame):
        from ndoo.client.frames import polars  # noqa: PLC0415  (only who has polars has these)

        return Cleared(*polars.clear_frame(frame, client, column, on_invalid, terms))
    if hasattr(frame, "__arrow_c_stream__") or is_of("pyarrow", frame):
        from ndoo.client.frames import arrow  # noqa: PLC0415  (the base install has no pyarrow)

        return Cleared(*arrow.clear_table(frame, client, column, on_invalid, terms))
    raise TypeError(f"a {type(frame).__name__} is no data frame that can be cleared")


def _clear_rows(
    frame: F, values: Any, client: Client, on_invalid: OnInvalid, terms: Terms
) -> Cleared[F]:
    verdicts = client.check_many(values, **terms)
    kept: Any = kept_rows(values, verdicts, on_invalid)
    rows: Any = frame
    return Cleared(rows[kept], Report.of(verdicts.summary))
