"""Lists of NHS numbers in files: opened with care, read in blocks of bounded memory.

The exchange format has one number a row, with an optional trailing comma (an empty second field),
LF or CRLF, and possibly a byte-order mark, surrounding spaces or quotes. CSV is in `rows_csv`.

A row that holds no valid number is never an error here: its number is NOT_A_NUMBER, which nobody
clears, and `Block.fault` says why in words that do not repeat what the row says. Rows are read by
numpy, without a Python loop over them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.errors import InputError
from ndoo.nhs_number import Numbers

ROWS_PER_BLOCK_MAX = 131_072
LINE_BYTES_MAX = 1024 * 1024
_READ_BYTES = 12 * ROWS_PER_BLOCK_MAX
_FIELD_BYTES_MAX = 64  # a longer field cannot hold a number, whatever is trimmed from it

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOREIGN_BEGINNINGS = {
    b"\x1f\x8b": "is compressed with gzip; decompress it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; extract it, or save it as CSV, first",
    b"BZh": "is compressed with bzip2; decompress it first",
    b"\xfd7zXZ": "is compressed with xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8 first",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8 first",
    b"PAR1": "is a Parquet file; write the numbers to a CSV file first",
}

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive rows of a file.

    *rows* holds them as they stood, line ends included, *row_lengths* bytes each. *fields* holds
    what stands where each number should, at *starts* with *lengths*. *lines* are the lines of the
    file on which the rows begin, *faults* the rows (by index) that are wrong apart from their number.
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


@contextlib.contextmanager
def open_list(path: str) -> Iterator[io.BufferedReader]:
    """The file at *path*. Raises InputError if it is not there, not readable, or no plain text."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a file in it.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read by this user.") from None
    with file:
        refuse_foreign(file, path)
        yield file


def refuse_foreign(file: io.BufferedReader, name: str) -> None:
    """Raise InputError if *file* is empty, or its beginning is not that of a plain text."""
    beginning = file.peek(_FIELD_BYTES_MAX)
    if not beginning:
        raise InputError(f"{name} is empty.")
    for bytes_, what in _FOREIGN_BEGINNINGS.items():
        if beginning.startswith(bytes_):
            raise InputError(f"{name} {what}.")
    if b"\0" in beginning:
        raise InputError(f"{name} is not plain text; save it as UTF-8 text first.")


def exchange_blocks(file: BinaryIO, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
    """The rows of *file* in the exchange format, at most *rows_max* a block.

    Raises InputError if a line has over LINE_BYTES_MAX bytes.
    """
    line = 1
    for text in _whole_lines(file):
        block = _exchange_block(text, line)
        line += len(block.lines)
        yield from _split(block, rows_max)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The content in pieces that end where lines do, with LF line ends and no byte-order mark.

    The last line always comes with the end of the file, so that a blank one can be told.
    """
    rest = file.read(_READ_BYTES).removeprefix(BYTE_ORDER_MARK)
    while more := file.read(_READ_BYTES):
        rest += more
        cut = rest.rfind(b"\n", 0, rest.rfind(b"\n")) + 1
        if len(rest) - cut > _READ_BYTES + LINE_BYTES_MAX:
            raise InputError("A line is longer than a megabyte: this is not a list of NHS numbers.")
        if cut:
            yield rest[:cut].replace(b"\r\n", b"\n")
            rest = rest[cut:]
    rest = rest.replace(b"\r\n", b"\n").removesuffix(b"\n")
    if rest:
        yield rest.removesuffix(b"\n") + b"\n"


def _exchange_block(text: bytes, first_line: int) -> Block:
    rows = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(rows == ord("\n"))
    row_lengths = np.diff(ends, prepend=-1)
    starts, lengths = ends + 1 - row_lengths, row_lengths - 1
    _trim(rows, starts, lengths)
    _drop_empty_second_field(rows, starts, lengths)
    _trim(rows, starts, lengths)
    _unquote(rows, starts, lengths)
    _trim(rows, starts, lengths)
    numbers = nhs_number.from_fields(rows, starts, lengths)
    lines = np.arange(first_line, first_line + len(ends), dtype=np.int64)
    return Block(rows, row_lengths, rows, starts, lengths, lines, numbers)


def _trim(rows: Bytes, starts: Places, lengths: Places) -> None:
    """Take spaces and tabs away from both ends of all fields, in place."""
    for from_start in (True, False):
        at = np.flatnonzero((lengths > 0) & (lengths <= _FIELD_BYTES_MAX))
        while len(at):
            edge = rows[starts[at] if from_start else starts[at] + lengths[at] - 1]
            at = at[(edge == ord(" ")) | (edge == ord("\t"))]
            starts[at] += from_start
            lengths[at] -= 1
            at = at[lengths[at] > 0]


def _drop_empty_second_field(rows: Bytes, starts: Places, lengths: Places) -> None:
    at = np.flatnonzero(lengths > 0)
    lengths[at[rows[starts[at] + lengths[at] - 1] == ord(",")]] -= 1


def _unquote(rows: Bytes, starts: Places, lengths: Places) -> None:
    at = np.flatnonzero(lengths > 1)
    first, last = rows[starts[at]], rows[starts[at] + lengths[at] - 1]
    at = at[(first == ord('"')) & (last == ord('"'))]
    starts[at] += 1
    lengths[at] -= 2


def _split(block: Block, rows_max: int) -> Iterator[Block]:
    """*block* in blocks of at most *rows_max* rows, which share its fields."""
    row_starts = np.concatenate(([0], np.cumsum(block.row_lengths)))
    for first in range(0, len(block.lines), rows_max):
        part = slice(first, first + rows_max)
        last = min(first + rows_max, len(block.lines))
        yield Block(
            block.rows[row_starts[first] : row_starts[last]],
            block.row_lengths[part],
            block.fields,
            block.starts[part],
            block.lengths[part],
            block.lines[part],
            block.numbers[part],
        )
