"""Some rows of a file of NHS numbers: what they say, where they stand, how they looked.

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
from ndoo.nhs_number import Numbers

ROWS_PER_BLOCK_MAX = 131_072
LINE_BYTES_MAX = 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

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


class Rows(Protocol):
    """The rows of one file. *header* is what stands above them, as it stood."""

    header: bytes

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All of them in order, at most *rows_max* a block. Raises InputError."""
