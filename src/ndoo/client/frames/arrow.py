"""Tables of Arrow, in memory or in batches. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ndoo.client.answers import Mask, Summary
from ndoo.client.client import Client, Terms
from ndoo.client.frames.in_order import ROWS_PER_BATCH, Ask, in_order
from ndoo.client.frames.kept import OnInvalid, Report, kept_rows

BYTES_PER_BATCH = 16 * 1024 * 1024
"""Of wide rows fewer are held at once."""

_DATASET_READAHEAD = {"batch_readahead": 2, "fragment_readahead": 1}
_PLAIN = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def clear_table(
    table: Any, client: Client, column: str, on_invalid: OnInvalid, terms: Terms
) -> tuple[Any, Report]:
    """A Table or RecordBatch cleared; anything else as a RecordBatchReader."""
    if not isinstance(table, (pa.Table, pa.RecordBatch)):
        return _clear_reader(_reader(table), client, column, on_invalid, terms)
    rows = plain(table)
    values = rows.column(column)
    verdicts = client.check_many(values, **terms)
    kept = kept_rows(values, verdicts, on_invalid)
    return select_rows(rows, kept, table.schema), Report.of(verdicts.summary)


def _reader(table: Any) -> pa.RecordBatchReader:
    if isinstance(table, pa.RecordBatchReader):
        return table
    if hasattr(table, "scanner"):
        return table.scanner(**_DATASET_READAHEAD).to_reader()
    return pa.RecordBatchReader.from_stream(table)


def _clear_reader(
    reader: pa.RecordBatchReader, client: Client, column: str, on_invalid: OnInvalid, terms: Terms
) -> tuple[pa.RecordBatchReader, Report]:
    place = reader.schema.names.index(column) if column in reader.schema.names else -1
    if place < 0 or reader.schema.names.count(column) > 1:
        raise KeyError(f"there is not exactly one column '{column}'")
    report = Report(client.revision(**terms))
    fixed: Terms = {"exactly_at": report.revision.token, "timeout_s": terms.get("timeout_s")}

    def work(table: pa.Table, ask: Ask) -> tuple[pa.Table, Summary]:
        rows = plain(table)
        values = rows.column(place)
        verdicts = ask(values)
        kept = kept_rows(values, verdicts, on_invalid)
        return select_rows(rows, kept, reader.schema), verdicts.summary

    def batches() -> Iterator[pa.RecordBatch]:
        for table, summary in in_order(client, gathered(reader), work, fixed):
            report.add(summary)
            yield from table.to_batches()

    return pa.RecordBatchReader.from_batches(reader.schema, batches()), report


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All *batches* in tables of a good size: small ones together, large ones cut."""
    together: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        for start in range(0, len(batch), ROWS_PER_BATCH):
            together.append(batch.slice(start, ROWS_PER_BATCH))
            size += together[-1].nbytes
            if size >= BYTES_PER_BATCH or sum(map(len, together)) >= ROWS_PER_BATCH:
                yield pa.Table.from_batches(together)
                together, size = [], 0
    if together:
        yield pa.Table.from_batches(together)


def plain(table: Any) -> Any:
    """*table* with views of texts as texts: filters of pyarrow know no views."""
    fields = [field.with_type(_PLAIN.get(field.type, field.type)) for field in table.schema]
    schema = pa.schema(fields, table.schema.metadata)
    return table if schema.types == table.schema.types else table.cast(schema)


def select_rows(table: Any, kept: Mask, schema: pa.Schema) -> Any:
    """The rows of a *plain* table where *kept* is set, with the types of *schema*.

    Raises pyarrow.ArrowNotImplementedError if a column is of a type that pyarrow cannot filter.
    """
    rows = table.filter(pa.array(kept))
    return rows if rows.schema.types == schema.types else rows.cast(schema)
