"""Parquet and Arrow files, batch by batch. Needs pyarrow.

Types, metadata and order stay as they were, and the compression of Parquet. (That is why this is
pyarrow: polars writes faster, but gives back its own types, without the metadata.) What pyarrow
says of broken files may hold what stands in them, and is not passed on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import SEEK_CUR, BufferedReader
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ndoo import nhs_number
from ndoo.cli.block import Places, find_column
from ndoo.cli.sources import Batch, Sink
from ndoo.client.columns import Column
from ndoo.client.frames.arrow import BYTES_PER_BATCH, gathered, plain, select_rows
from ndoo.client.frames.in_order import ROWS_PER_BATCH
from ndoo.errors import InputError
from ndoo.nhs_number import NUMBER_MAX

_BUFFER_BYTES = 1024 * 1024
_ARROW_STREAM = b"\xff\xff\xff\xff"
_ARROW_STREAM_END = _ARROW_STREAM + bytes(4)


@dataclass(frozen=True)
class TableBatch:
    """Some rows, a RecordBatch or Table, the first of which is *first_row* (from 1) of its file."""

    unit = "row"

    rows: Any = field(repr=False)
    place: int
    first_row: int
    schema: pa.Schema = field(repr=False)

    @property
    def lines(self) -> Places:
        return np.arange(self.first_row, self.first_row + len(self.rows), dtype=np.int64)

    @cached_property
    def column(self) -> Any:
        return self.rows.column(self.place)

    def select(self, chosen: npt.NDArray[np.bool_]) -> Any:
        try:
            return select_rows(plain(self.rows), chosen, self.schema)
        except pa.ArrowNotImplementedError:
            raise InputError(
                "A column is of a type from which pyarrow cannot take rows; leave it out."
            ) from None

    def fault(self, row: int) -> str:
        value = self.column.slice(row, 1)
        number = int(Column.of(value).numbers(0, 1)[0])
        if value.null_count:
            return "there is no number in it"
        fault = nhs_number.fault_of(f"{number:010d}" if number <= NUMBER_MAX else "")
        return fault.value if fault else "the service does not take it for a valid number"


class ParquetTable:
    """A Parquet file. It is decoded a batch at a time, never a whole row group."""

    def __init__(self, file: BufferedReader, what: str, column: str) -> None:
        self._what = what
        with _readable(what):
            self._file = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            self._metadata = self._file.metadata
            self._rows: int = self._metadata.num_rows
            self._schema = self._file.schema_arrow
        self._place = _place_of(column, self._schema)
        self._size, self._done = _size_of(file), 0

    def batches(self) -> Iterator[Batch]:
        with _readable(self._what):
            for batch in self._file.iter_batches(self._rows_per_batch()):
                yield TableBatch(batch, self._place, self._done + 1, self._schema)
                self._done += len(batch)

    def begin(self, file: BinaryIO) -> Sink:
        sink: Sink = pq.ParquetWriter(file, self._schema, **self._manner())
        return sink

    def position(self) -> int:
        return self._size * self._done // max(1, self._rows)

    def _rows_per_batch(self) -> int:
        groups = map(self._metadata.row_group, range(self._metadata.num_row_groups))
        row_bytes: int = sum(g.total_byte_size for g in groups) // max(1, self._rows)
        return max(1, min(ROWS_PER_BATCH, BYTES_PER_BATCH // max(1, row_bytes)))

    def _manner(self) -> dict[str, Any]:
        """Compression and dictionaries, column by column, as the first row group has them."""
        if not self._metadata.num_row_groups:
            return {}
        group = self._metadata.row_group(0)
        columns = [group.column(place) for place in range(group.num_columns)]
        return {
            "compression": {c.path_in_schema: _codec(c.compression) for c in columns},
            "use_dictionary": [c.path_in_schema for c in columns if c.has_dictionary_page],
        }


class ArrowTable:
    """An Arrow file (also called Feather) or stream, in batches as they were written."""

    def __init__(self, file: BufferedReader, what: str, column: str) -> None:
        self._what = what
        self._file = file
        self._is_stream = file.peek(4).startswith(_ARROW_STREAM)
        with _readable(what):
            open_ = pa.ipc.open_stream if self._is_stream else pa.ipc.open_file
            self._reader = open_(file)
            self._schema = self._reader.schema
        self._place = _place_of(column, self._schema)

    def batches(self) -> Iterator[Batch]:
        first_row = 1
        with _readable(self._what):
            for table in gathered(self._raw_batches()):
                yield TableBatch(table, self._place, first_row, self._schema)
                first_row += len(table)

    def begin(self, file: BinaryIO) -> Sink:
        new = pa.ipc.new_stream if self._is_stream else pa.ipc.new_file
        sink: Sink = new(file, self._schema)
        return sink

    def position(self) -> int:
        return self._file.tell()

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        if self._is_stream:
            yield from self._reader
            self._refuse_other_end()
            return
        for place in range(self._reader.num_record_batches):
            yield self._reader.get_batch(place)

    def _refuse_other_end(self) -> None:
        # pyarrow takes a stream that was cut between batches for a whole one, and looks at nothing
        # that follows its end.
        self._file.seek(-len(_ARROW_STREAM_END), SEEK_CUR)
        if self._file.read(len(_ARROW_STREAM_END) + 1) != _ARROW_STREAM_END:
            raise pa.ArrowInvalid


def _place_of(column: str, schema: pa.Schema) -> int:
    place = find_column(schema.names, column)
    try:
        Column.of(pa.array([], schema.field(place).type))
    except TypeError as error:  # it tells the type, and no value
        raise InputError(str(error)) from None
    return place


def _codec(name: str) -> str:
    return "none" if name == "UNCOMPRESSED" else name


def _size_of(file: BufferedReader) -> int:
    return file.seek(0, 2)


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError):
        raise InputError(f"{what} that cannot be read: it is broken, or not whole.") from None
