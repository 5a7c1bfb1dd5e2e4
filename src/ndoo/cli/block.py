"""Some rows of a file of NHS numbers: what they say, where they stand, how they looked, and which
are bad.

A row that holds no valid number is never an error here: its number is NOT_A_NUMBER, which nobody
clears, and `Block.fault` says why in words that do not repeat what the row says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.cli.console import tell
from ndoo.nhs_number import Numbers

ROWS_PER_BLOCK_MAX = 131_072
LINE_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

KEPT_MAX = 1000
TOLD_MAX = 20

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


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

    def select(self, chosen: npt.NDArray[np.bool_]) -> bytes:
        """The chosen rows, as they stood."""
        return self.rows[np.repeat(chosen, self.row_lengths)].tobytes()

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


@dataclass(slots=True)
class BadRows:
    """Rows that hold no valid number, told by line and reason, never by content.

    How many there are, and the first KEPT_MAX of them as (line, reason).
    """

    total: int = 0
    kept: list[tuple[int, str]] = field(default_factory=list)

    def note(self, block: Block, bad: npt.NDArray[np.bool_]) -> None:
        """Take note of those rows of *block* that are *bad*."""
        rows = np.flatnonzero(bad)
        self.total += len(rows)
        for row in rows[: KEPT_MAX - len(self.kept)].tolist():
            self.kept.append((int(block.lines[row]), block.fault(row)))

    def tell(self) -> None:
        """The first few on stderr, and how many more there are."""
        for line, reason in self.kept[:TOLD_MAX]:
            tell(f"line {line:,}: {reason}")
        if self.total > TOLD_MAX:
            tell(f"... and {self.total - TOLD_MAX:,} more bad rows")


class Rows(Protocol):
    """The rows of one file. *header* is what stands above them, as it stood."""

    header: bytes

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All of them in order, at most *rows_max* a block. Raises InputError."""
