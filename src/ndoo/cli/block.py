"""Some rows of a file of NHS numbers: what they say, where they stand, how they looked, and which
are bad.

A row that holds no valid number is never an error here: its number is NOT_A_NUMBER, which nobody
clears, and `Block.fault` says why in words that do not repeat what the row says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.cli.console import hide_numbers, tell
from ndoo.errors import InputError
from ndoo.nhs_number import Numbers

ROWS_PER_BLOCK_MAX = 131_072
LINE_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

KEPT_MAX = 1000
TOLD_MAX = 20

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


class Faulty(Protocol):
    """Some consecutive rows, and how to tell which of them is bad."""

    @property
    def unit(self) -> str:
        """What *lines* count: "line" or "row"."""

    @property
    def lines(self) -> Places:
        """Where each row stands in its file, from 1."""

    def fault(self, row: int) -> str:
        """Why *row* (by index) holds no valid number, in words that do not repeat its content."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive rows of a file.

    *rows* holds them as they stood, line ends included, *row_lengths* bytes each. *fields* holds
    what stands where each number should, at *starts* with *lengths*. *lines* are the lines of the
    file on which the rows begin, *faults* the rows (by index) that are wrong in another way.
    """

    rows: Bytes = field(repr=False)
    row_lengths: Places = field(repr=False)
    fields: Bytes = field(repr=False)
    starts: Places = field(repr=False)
    lengths: Places = field(repr=False)
    lines: Places = field(repr=False)
    numbers: Numbers = field(repr=False)
    faults: Mapping[int, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return "line"

    @property
    def column(self) -> Numbers:
        return self.numbers

    def select(self, chosen: npt.NDArray[np.bool_]) -> bytes:
        """The chosen rows, as they stood."""
        # Most rows stay: copying them in runs costs a tenth of choosing every byte.
        edges = np.flatnonzero(np.diff(chosen.view(np.int8), prepend=0, append=0))
        places = np.concatenate(([0], np.cumsum(self.row_lengths)))[edges].tolist()
        rows = self.rows.data
        return b"".join([rows[begin:end] for begin, end in zip(places[::2], places[1::2])])

    def without_end(self) -> Block:
        """The same without the last byte, a line end that the file does not have."""
        lengths = self.row_lengths.copy()
        lengths[-1] -= 1
        return replace(self, rows=self.rows[:-1], row_lengths=lengths)

    def split(self, rows_max: int) -> Iterator[Block]:
        """The same in blocks of at most *rows_max* rows, which share their fields."""
        row_starts = np.concatenate(([0], np.cumsum(self.row_lengths)))
        for first in range(0, len(self.lines), rows_max):
            last = min(first + rows_max, len(self.lines))
            part = slice(first, last)
            yield Block(
                self.rows[row_starts[first] : row_starts[last]],
                self.row_lengths[part],
                self.fields,
                self.starts[part],
                self.lengths[part],
                self.lines[part],
                self.numbers[part],
                {row - first: text for row, text in self.faults.items() if first <= row < last},
            )

    def fault(self, row: int) -> str:
        """Why *row* holds no valid number, in words that do not repeat its content."""
        if row in self.faults:
            return self.faults[row]
        start, length = int(self.starts[row]), int(self.lengths[row])
        if length == 0:
            return "there is no number in it"
        text = self.fields[start : start + length].tobytes().decode("latin-1")
        if any(separator in text for separator in ",;\t|"):
            return "it has more than one column (for CSV, name the column with --column)"
        fault = nhs_number.fault_of(text)
        return fault.value if fault else "the service does not take it for a valid number"


@dataclass(frozen=True, slots=True)
class BadRow:
    """Where a row stands, and what is wrong with it. *file* is empty if there is only one."""

    file: str
    unit: str
    line: int
    reason: str

    def told(self) -> dict[str, str | int]:
        """The same for a report."""
        file: dict[str, str | int] = {"file": self.file} if self.file else {}
        return file | {self.unit: self.line, "reason": self.reason}

    def __str__(self) -> str:
        where = f"{self.file}, " if self.file else ""
        return f"{where}{self.unit} {self.line:,}: {self.reason}"


@dataclass(slots=True)
class BadRows:
    """Rows that hold no valid number, told by place and reason, never by content.

    How many there are, and the first KEPT_MAX of them.
    """

    total: int = 0
    kept: list[BadRow] = field(default_factory=list)

    def note(self, block: Faulty, bad: npt.NDArray[np.bool_], file: str = "") -> None:
        """Take note of those rows of *block* that are *bad*."""
        rows = np.flatnonzero(bad)
        self.total += len(rows)
        for row in rows[: KEPT_MAX - len(self.kept)].tolist():
            line, reason = int(block.lines[row]), block.fault(row)
            self.kept.append(BadRow(hide_numbers(file), block.unit, line, reason))

    def tell(self) -> None:
        """The first few on stderr, and how many more there are."""
        for row in self.kept[:TOLD_MAX]:
            tell(str(row))
        if self.total > TOLD_MAX:
            tell(f"... and {self.total - TOLD_MAX:,} more bad rows")


class Rows(Protocol):
    """The rows of one file. *header* is what stands above them, as it stood."""

    header: bytes

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All of them in order, at most *rows_max* a block. Raises InputError."""


def find_column(names: Sequence[str], column: str) -> int:
    """The place of *column* among *names*. Raises InputError if there is not exactly one.

    Names are told only if they are like *column*: what stands there may be about a person.
    """
    found = [place for place, name in enumerate(names) if name == column]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError("More than one column has that name; rename one of them.")
    near = [name for name in names if _are_alike(name, column)]
    mend = f"did you mean: {', '.join(near)}?" if near else "the first line must name it."
    raise InputError(f"None of the file's {len(names):,} columns has that name; {mend}")


def _are_alike(name: str, column: str) -> bool:
    short, long = sorted((name.casefold(), column.casefold()), key=len)
    return len(short) > 1 and (short in long or SequenceMatcher(None, short, long).ratio() > 0.6)
