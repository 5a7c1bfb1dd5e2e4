"""CSV files with a header: one column of them holds the NHS numbers.

Python's csv module reads them strictly. Text is taken byte for byte (as Latin-1), so that rows are
written as they stood, in whatever encoding that keeps ASCII. Where quoting is broken nobody can
tell rows apart any more, so such a file is refused as a whole, with the line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import BinaryIO

import numpy as np

from ndoo import nhs_number
from ndoo.cli.block import BYTE_ORDER_MARK, LINE_BYTES_MAX, ROWS_PER_BLOCK_MAX, Block
from ndoo.errors import InputError

_BYTES_PER_BLOCK = 4 * 1024 * 1024
_BYTE_ORDER_MARK = BYTE_ORDER_MARK.decode("latin-1")


@dataclass(slots=True)
class _Lines:
    """The lines of a file, with a copy of those that were taken since the last `take`."""

    file: BinaryIO
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
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, strict=True)
        self._names = self._header()
        self.header = self._lines.take()[0].encode("latin-1")
        self._index = self._find(column)

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All rows below the header, at most *rows_max* a block. Raises InputError."""
        rows = _Rows()
        for text, line, record in self._records():
            rows.add(text, line, *self._number(record))
            if len(rows.texts) >= rows_max or rows.bytes >= _BYTES_PER_BLOCK:
                yield rows.block()
                rows = _Rows()
        if rows.texts:
            yield rows.block()

    def _number(self, record: list[str]) -> tuple[str, str]:
        """The field that should hold the number, and what is wrong with the row apart from it."""
        if not record:
            return "", "the row is empty"
        if len(record) != len(self._names):
            found, expected = len(record), len(self._names)
            return "", f"it has {found:,} columns where the header has {expected:,}"
        return record[self._index], ""

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
        found = [index for index, name in enumerate(self._names) if name == column]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError("More than one column has that name; rename one of them.")
        near = [name for name in self._names if _are_alike(name, column)]
        mend = f"did you mean: {', '.join(near)}?" if near else "the first line must name it."
        raise InputError(f"None of the file's {len(self._names):,} columns has that name; {mend}")


def _are_alike(name: str, column: str) -> bool:
    short, long = sorted((name.casefold(), column.casefold()), key=len)
    return len(short) > 1 and (short in long or SequenceMatcher(None, short, long).ratio() > 0.6)


def _bytes(texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer("".join(texts).encode("latin-1"), dtype=np.uint8)


def _lengths(texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
