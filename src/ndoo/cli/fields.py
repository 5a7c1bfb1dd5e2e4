"""Fields of many rows at once: where they begin in a text, and how long they are, in arrays."""

from __future__ import annotations

import numpy as np

from ndoo.cli.block import Bytes, Places

_FIELD_BYTES_MAX = 64  # a longer field cannot hold a number, whatever is trimmed from it


def trim(rows: Bytes, starts: Places, lengths: Places) -> None:
    """Take spaces and tabs away from both ends of all fields, in place."""
    for from_start in (True, False):
        at = np.flatnonzero((lengths > 0) & (lengths <= _FIELD_BYTES_MAX))
        while len(at):
            edge = rows[starts[at] if from_start else starts[at] + lengths[at] - 1]
            at = at[(edge == ord(" ")) | (edge == ord("\t"))]
            starts[at] += from_start
            lengths[at] -= 1
            at = at[lengths[at] > 0]


def unquote(rows: Bytes, starts: Places, lengths: Places) -> None:
    """Take a pair of quotes away from around all fields that have one, in place."""
    at = np.flatnonzero(lengths > 1)
    first, last = rows[starts[at]], rows[starts[at] + lengths[at] - 1]
    at = at[(first == ord('"')) & (last == ord('"'))]
    starts[at] += 1
    lengths[at] -= 2
