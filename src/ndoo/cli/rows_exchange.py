"""The exchange format: one NHS number a row, and possibly a comma (an empty second field) after it.

LF or CRLF, possibly with a byte-order mark, surrounding spaces or quotes. Rows are read by numpy,
without a Python loop over them, and written as they stood, with LF.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ndoo import nhs_number
from ndoo.cli.block import (
    BYTE_ORDER_MARK,
    LINE_BYTES_MAX,
    ROWS_PER_BLOCK_MAX,
    Block,
    Bytes,
    Places,
)
from ndoo.cli.fields import trim, unquote
from ndoo.errors import InputError

_READ_BYTES = 12 * ROWS_PER_BLOCK_MAX


class ExchangeRows:
    """The rows of *file* in the exchange format."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.header = b""

    def blocks(self, rows_max: int = ROWS_PER_BLOCK_MAX) -> Iterator[Block]:
        """All rows, at most *rows_max* a block. Raises InputError if a line is far too long."""
        line = 1
        for text in _whole_lines(self._file):
            block = _exchange_block(text, line)
            line += len(block.lines)
            yield from block.split(rows_max)


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
    trim(rows, starts, lengths)
    _drop_empty_second_field(rows, starts, lengths)
    trim(rows, starts, lengths)
    unquote(rows, starts, lengths)
    trim(rows, starts, lengths)
    numbers = nhs_number.from_fields(rows, starts, lengths)
    lines = np.arange(first_line, first_line + len(ends), dtype=np.int64)
    return Block(rows, row_lengths, rows, starts, lengths, lines, numbers)


def _drop_empty_second_field(rows: Bytes, starts: Places, lengths: Places) -> None:
    at = np.flatnonzero(lengths > 0)
    lengths[at[rows[starts[at] + lengths[at] - 1] == ord(",")]] -= 1
