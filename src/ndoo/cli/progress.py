"""How far a long job has come, for somebody who watches a terminal; silence otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

Progress = Callable[[int, int], None]
"""Takes how many bytes are done in all, and how many rows came since it was last told."""


@contextlib.contextmanager
def progress(size: int) -> Iterator[Progress]:
    """A bar on stderr over *size* bytes, with rate and time left; none if the size is not known."""
    if not (sys.stderr.isatty() and size):
        yield lambda _position, _rows: None
        return
    started, done = time.monotonic(), 0
    with click.progressbar(
        length=size, label="Checking", file=sys.stderr, item_show_func=lambda rate: rate
    ) as bar:

        def show(position: int, rows: int) -> None:
            nonlocal done
            done += rows
            rate = done / max(time.monotonic() - started, 1e-3)
            bar.update(position - bar.pos, f"{rate:,.0f} rows/s")

        yield show
