"""CSV by whole arrays: where rows and their fields begin and end, for text whose quoting is plain.

Plain is what RFC 4180 writes: a quote opens a field at its very beginning, and closes it at its
very end, doubled in between. Of any other text `scan` says so, and leaves it to others.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.cli.block import Block, Bytes, Places
from ndoo.cli.fields import trim, unquote

_COMMA, _QUOTE, _LF, _CR = b',"\n\r'
_BEFORE_OPENING = np.array([_COMMA, _QUOTE, _LF], dtype=np.uint8)
_AFTER_CLOSING = np.array([_COMMA, _QUOTE, _LF, _CR], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Scan:
    """Whole rows. *marks* are the places of what ends a field, *ends* those marks that end a row.

    *breaks* are the places of all line feeds, also those within quotes.
    """

    text: Bytes
    marks: Places
    ends: Places
    breaks: Places

    def __len__(self) -> int:
        """How many bytes the rows take."""
        return int(self.marks[self.ends[-1]]) + 1 if len(self.ends) else 0


def scan(text: bytes) -> Scan | None:
    """The whole rows at the beginning of *text*; None if they cannot be told apart by array."""
    content = np.frombuffer(text, dtype=np.uint8)
    is_mark = (content == _COMMA) | (content == _LF)
    if has_quotes := b'"' in text:
        is_mark |= content == _QUOTE
    marks = np.flatnonzero(is_mark)
    kinds = content[marks]
    breaks = marks[kinds == _LF]
    if has_quotes:
        is_quote = kinds == _QUOTE
        is_inside = (np.cumsum(is_quote) & 1).astype(np.bool_)
        quotes, is_opening = marks[is_quote], is_inside[is_quote]
        is_outside = ~(is_quote | is_inside)
        marks, kinds = marks[is_outside], kinds[is_outside]
    found = Scan(content, marks, np.flatnonzero(kinds == _LF), breaks)
    size = len(found)
    if has_quotes and not _is_plain(content, quotes, is_opening, size):
        return None
    if text.count(b"\r", 0, size) != text.count(b"\r\n", 0, size):
        return None
    return found


def _is_plain(content: Bytes, quotes: Places, is_opening: npt.NDArray[np.bool_], size: int) -> bool:
    """Whether each quote before *size* stands where one opens or closes a field."""
    is_within = quotes < size
    opening, closing = quotes[is_opening & is_within], quotes[~is_opening & is_within]
    before = content[opening[opening > 0] - 1]
    after = content[closing + 1]
    return bool(np.isin(before, _BEFORE_OPENING).all() and np.isin(after, _AFTER_CLOSING).all())


def block_of(found: Scan, first_line: int, width: int, place: int) -> Block | None:
    """The rows of *found*, which begin on *first_line*: *width* columns, the number at *place*.

    None if a row is too long for its fields to be read.
    """
    content, marks, ends = found.text, found.marks, found.ends
    stops = marks[ends]
    begins, first = np.concatenate(([0], stops[:-1] + 1)), np.concatenate(([0], ends[:-1] + 1))
    if np.any(stops - begins > csv.field_size_limit()):
        return None
    row_stops = stops - ((content[stops - 1] == _CR) & (stops > begins))
    counts = np.where(row_stops == begins, 0, ends - first + 1)
    whole = np.flatnonzero(counts == width)
    at = first[whole] + place
    starts, lengths = begins.copy(), np.zeros_like(begins)
    starts[whole] = begins[whole] if place == 0 else marks[at - 1] + 1
    lengths[whole] = (row_stops[whole] if place == width - 1 else marks[at]) - starts[whole]
    unquote(content, starts, lengths)
    trim(content, starts, lengths)
    return Block(
        rows=content[: len(found)],
        row_lengths=stops + 1 - begins,
        fields=content,
        starts=starts,
        lengths=lengths,
        lines=first_line + np.searchsorted(found.breaks, begins),
        numbers=nhs_number.from_fields(content, starts, lengths),
        faults=_faults(counts, width),
    )


def _faults(counts: Places, width: int) -> dict[int, str]:
    rows = np.flatnonzero(counts != width)
    return {row: fault_of(count, width) for row, count in zip(rows.tolist(), counts[rows].tolist())}


def fault_of(count: int, width: int) -> str:
    """What is wrong with a row of *count* columns in a file of *width*; empty if nothing is."""
    if count == width:
        return ""
    return (
        f"it has {count:,} columns where the header has {width:,}" if count else "the row is empty"
    )
