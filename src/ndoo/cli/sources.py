"""Files that `ndoo check` reads rows from and writes rows to, whatever their format.

What is written has the format of what was read, and rows are as they stood. pyarrow, which reads
Parquet and Arrow, is needed for these alone.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from ndoo.cli.block import Faulty, Rows
from ndoo.cli.rows import opened, read_rows, refuse_foreign, shown
from ndoo.errors import InputError

DEFAULT_COLUMN = "nhs_number"

_TABLES = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
}


class Batch(Faulty, Protocol):
    """Some consecutive rows. *column* is what stands where their numbers should."""

    @property
    def column(self) -> Any: ...

    def select(self, chosen: npt.NDArray[np.bool_]) -> Any:
        """The chosen rows, for `Sink.write`."""


class Sink(Protocol):
    """Where rows go. Only what was closed is whole."""

    def write(self, rows: Any, /) -> object: ...

    def close(self) -> object: ...


class Source(Protocol):
    """The rows of one file."""

    def batches(self) -> Iterator[Batch]:
        """All of them in order. Raises InputError."""

    def begin(self, file: BinaryIO) -> Sink:
        """Write what stands above the rows into *file*, where rows of this source then go."""

    def position(self) -> int:
        """How far in the file this is, in bytes."""


class _Text:
    """Lines of text."""

    def __init__(self, rows: Rows, file: io.BufferedReader) -> None:
        self._rows = rows
        self._file = file

    def batches(self) -> Iterator[Batch]:
        return self._rows.blocks()

    def begin(self, file: BinaryIO) -> Sink:
        file.write(self._rows.header)
        return _TextSink(file)

    def position(self) -> int:
        return self._file.tell() if self._file.seekable() else 0


class _TextSink:
    """Bytes as they are."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write

    def close(self) -> None:
        """There is nothing below the rows."""


@contextlib.contextmanager
def open_source(path: str, column: str | None) -> Iterator[Source]:
    """The rows of the file at *path*, or of standard input for "-", with numbers in *column*.

    Raises InputError if it cannot be read, or has changed by the end of the block.
    """
    with opened(path) as file, _unchanged(file, shown(path)):
        beginning = file.peek(8)
        for magic, what in _TABLES.items():
            if beginning.startswith(magic):
                yield _table(file, f"{shown(path)} is {what}", magic, column or DEFAULT_COLUMN)
                return
        refuse_foreign(file, shown(path))
        yield _Text(read_rows(file, column), file)


def _table(file: io.BufferedReader, what: str, magic: bytes, column: str) -> Source:
    try:
        from ndoo.cli import tables  # noqa: PLC0415  (the base install has no pyarrow)
    except ModuleNotFoundError:
        raise InputError(f"{what}; to read it, install: pip install 'ndoo[files]'") from None
    if not file.seekable():
        raise InputError(f"{what}, which cannot be read from a pipe; name the file.")
    kind = tables.ParquetTable if magic == b"PAR1" else tables.ArrowTable
    return kind(file, what, column)


@contextlib.contextmanager
def _unchanged(file: BinaryIO, name: str) -> Iterator[None]:
    before = os.fstat(file.fileno())
    yield
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{name} was changed while it was read; check it again when it is whole.")
