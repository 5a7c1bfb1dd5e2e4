"""A source beside the register in place, in counts.

Counts are told by the first digit of a number: ranges of a hundred million. One person in such a
range is nobody in particular; in a narrow one they might be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

from ndoo.cli.console import tell

if TYPE_CHECKING:
    from pyroaring import BitMap

    from ndoo.publish.source import Settled

_KEYS_PER_RANGE = 100_000_000
_RANGES = 10
_HEADINGS = ("In both", "To opt out", "To release", "Kept as chosen")


def show(settled: Settled) -> None:
    """Print who is where, and what becomes of them: numbers of people, never whose."""
    sets = (_in_both(settled), settled.added, settled.released, settled.kept)
    counts = np.array([_by_range(keys) for keys in sets]).T
    click.echo(_line("First digit", _HEADINGS))
    for digit, row in enumerate(counts.tolist()):
        if any(row):
            click.echo(_line(str(digit), row))
    click.echo(_line("All", counts.sum(axis=0).tolist()))


def warn_of_undated(settled: Settled) -> None:
    """Say what a source without a date cannot tell, if somebody is released by it."""
    if settled.released:
        tell(
            "Without --drawn-at, opt-outs that are newer than the source are known only as far "
            "back as the feed holds changes."
        )


def _in_both(settled: Settled) -> BitMap:
    return settled.source & settled.in_place & settled.keys


def _by_range(keys: BitMap) -> list[int]:
    array = np.array(keys.to_array(), dtype=np.uint32)
    counts: list[int] = np.bincount(array // _KEYS_PER_RANGE, minlength=_RANGES).tolist()
    return counts


def _line(name: str, cells: tuple[str, ...] | list[int]) -> str:
    texts = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells]
    return f"{name:<12}" + "".join(f"{text:>16}" for text in texts)
