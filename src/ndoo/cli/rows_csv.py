"""CSV files with a header: one column of them holds the NHS numbers.

Rows are told apart by whole arrays as long as quoting is plain (see `csv_scan`). From where it is
not, Python's csv module reads the rest strictly, at a tenth of the speed. Text is taken byte for
byte, so that rows are written as they stood, in whatever encoding that keeps ASCII. Where quoting
is broken nobody can tell rows apart any more, so such a file is refused as a whole, with the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, Protocol

import numpy as np

from ndoo import nhs_number
from ndoo.cli.block import (
    BYTE_ORDER_MARK,
    LINE_BYTES_MAX,
    ROWS_PER_BLOCK_MAX,
    Block,
    find_column,
)
from ndoo.cli.csv_scan import block_of, fault_of, scan
from ndoo.errors import InputError

_BYTES_PER_BLOCK = 4 * 1024 * 1024
_BYTE_ORDER_MARK = BYTE_ORDER_MARK.decode("latin-1")
_BLANK_END = re.compile(rb"(^|\n)\r?\n\Z")


class _Readable(Protocol):
    def readline(self, size: int, /) -> bytes: ...


@dataclass(slots=True)
class _Rest:
    """What was read of *file* already, and then *file*."""

    read: BytesIO
    file: BinaryIO

    def readline(self, size: int) -> bytes:
        line = self.read.readline(size)
        return line if line.endswith(b"\n") else line + self.file.readline(size - len(line))


@dataclass(slots=True)
class _Lines:
    """The lines of a file, with a copy of those that were taken since the last `take`."""

    file: _Readable
    count: int = 0
    taken: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(LINE_BYTES_MAX + 1).decode("latin-1"):
            self.count += 1
            if len(line) > LINE_BYTES_MAX:
                raise InputError(f"Line {self.count:,} is longer than a megabyte.")
            self.taken.append(line)
            yield line.removeprefix(_BYTE_ORDER_MARK) if self.count == 1 else line

    def take(self) -> tuple[str, int]:
        """What was read since the last time, and the line on which it began."""
        text, line = "".join(self.taken), self.count - len(self.taken) + 1
        self.taken.clear()
        return text, line


@dataclass(slots=True)
class _Rows:
    """The rows of the block that is being read."""

    texts: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    bytes: int = 0

    def add(self, text: str, line: int, number: str, fault: str = "") -> None:
        if fault:
            self.faults[len(self.texts)] = fault
        self.texts.append(text)
        self.fields.append(number.strip(" \t"))
        self.lines.append(line)
        self.bytes += len(text)

    def block(self) -> Block:
        return Block(
            rows=_bytes(self.texts),
            row_lengths=_lengths(self.texts),
            fields=_bytes(self.fields),
            starts=np.cumsum(lengths := _lengths(self.fields)) - lengths,
            lengths=lengths,
            lines=np.array(self.lines, dtype=np.int64),
            numbers=nhs_number.from_texts(self.fields),
            faults=self.faults,
        )


class CsvRows:
    """The rows of *file*, whose numbers stand in the column named *column*.

    Raises InputError if there is no such column, or more than one, or no line of names: a row in
    its place would be written out unanswered. Names are told only if they are like *column*, for
    what stands in the first line may be about a person.
    """

    def __init__(self, file: BinaryIO, column: str) -> None:
        self._file = file
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, strict=True)
        self._names = self._header()
        self.header = self._lines.take()[0].encode("latin-1")
        self._index = self._find(column)

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All rows below the header, at most *rows_max* a block. Raises InputError."""
        rest, more = b"", self._file.read(_BYTES_PER_BLOCK)
        while more:
            text, more = rest + more, self._file.read(_BYTES_PER_BLOCK)
            rows = text if more else _BLANK_END.sub(b"\\1", text)
            if not rows:
                return
            block = self._block(rows, is_last=not more)
            if block is None:
                yield from self._odd_blocks(text + more, rows_max)
                return
            yield from block.split(rows_max)
            rest = text[len(block.rows) :]
            self._lines.count += text.count(b"\n", 0, len(block.rows))

    def _block(self, text: bytes, *, is_last: bool) -> Block | None:
        """The whole rows at the beginning of *text*; None if it takes the csv module to tell."""
        is_cut = is_last and not text.endswith(b"\n")
        whole = text + b"\n" if is_cut else text
        found = None if is_cut and text.endswith(b"\r") else scan(whole)
        if found is None or not len(found) or (is_last and len(found) < len(whole)):
            return None
        block = block_of(found, self._lines.count + 1, len(self._names), self._index)
        return block.without_end() if block and is_cut else block

    def _odd_blocks(self, text: bytes, rows_max: int) -> Iterator[Block]:
        """The rows of *text*, and of all that follows."""
        self._lines.file = _Rest(BytesIO(text), self._file)
        rows = _Rows()
        for row, line, record in self._records():
            rows.add(row, line, *self._number(record))
            if len(rows.texts) >= rows_max or rows.bytes >= _BYTES_PER_BLOCK:
                yield rows.block()
                rows = _Rows()
        if rows.texts:
            yield rows.block()

    def _number(self, record: list[str]) -> tuple[str, str]:
        """The field that should hold the number, and what is wrong with the row apart from it."""
        fault = fault_of(len(record), len(self._names))
        return ("" if fault else record[self._index]), fault

    def _records(self) -> Iterator[tuple[str, int, list[str]]]:
        """Text, first line and fields of each row; a blank row at the very end is none."""
        blank: tuple[str, int, list[str]] | None = None
        while (record := self._next()) is not None:
            if blank is not None:
                yield blank
            text, line = self._lines.take()
            blank = None if record else (text, line, record)
            if record:
                yield text, line, record

    def _next(self) -> list[str] | None:
        first_line = self._lines.count + 1
        try:
            return next(self._reader, None)
        except csv.Error:
            raise InputError(
                f"The row that begins on line {first_line:,} is not readable as CSV (its quoting "
                "is broken), so the rows after it cannot be told apart; mend the file."
            ) from None

    def _header(self) -> list[str]:
        record = self._next() or []
        return [name.encode("latin-1").decode("utf-8", "replace").strip() for name in record]

    def _find(self, column: str) -> int:
        if any(nhs_number.parse(name) is not None for name in self._names):
            raise InputError(
                "The first line holds an NHS number where the names of the columns should stand; "
                "add a line of names above it."
            )
        return find_column(self._names, column)


def _bytes(texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer("".join(texts).encode("latin-1"), dtype=np.uint8)


def _lengths(texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
