"""`ndoo load`: a source becomes the register of a feed, or is reconciled with it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ndoo import nhs_number
from ndoo.cli.block import BadRows
from ndoo.cli.comparison import show, warn_of_undated
from ndoo.cli.console import tell
from ndoo.cli.moment import read_moment
from ndoo.cli.options import column_option, feed_option, publisher_to
from ndoo.cli.rows import open_list, read_rows
from ndoo.cli.signing import seal_of, sign_option, trusted
from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.nhs_number import Keys

if TYPE_CHECKING:
    from pyroaring import BitMap

    from ndoo.feed.feed import Feed
    from ndoo.publish.source import Settled, Terms


def drawn_at_ms(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    """*text* as Unix milliseconds. Raises BadParameter, also if it is in the future."""
    if text is None:
        return None
    moment = read_moment(text)
    if moment > dt.datetime.now(dt.UTC):
        raise click.BadParameter("it is in the future, and no source was drawn then")
    return int(moment.timestamp() * 1000)


drawn_at_option = click.option(
    "--drawn-at",
    metavar="TIME",
    callback=drawn_at_ms,
    help="When FILE was drawn: RFC 3339, as 2026-03-01T09:30:00Z. Later choices stand.",
)

skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Take the good rows though others are bad."
)


@click.command()
@click.argument("file", metavar="FILE")
@feed_option
@column_option
@drawn_at_option
@click.option(
    "--reconcile", is_flag=True, help="Publish only the differences, as changes, and load nothing."
)
@click.option("--dry-run", is_flag=True, help="Compare and print, and change nothing.")
@click.option(
    "--jump-max",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="The share of the register that may be released, or added. [default: 0.02]",
)
@click.option(
    "--accept-jump",
    is_flag=True,
    help="Go on though more people are released or added, or the feed cannot be read in full.",
)
@skip_bad_option
@sign_option
def load(
    file: str,
    feed: str | None,
    column: str | None,
    drawn_at: int | None,
    reconcile: bool,
    dry_run: bool,
    jump_max: float | None,
    accept_jump: bool,
    skip_bad: bool,
    key: str | None,
) -> None:
    """Replace the register in a feed by the opted-out numbers in FILE ("-" is standard input).

    \b
    ndoo load opted-out.dat --drawn-at 2026-03-01T09:30:00Z --feed dir:./feed
    ndoo load opted-out.csv --column nhs_number --feed redis://127.0.0.1:6379/0
    ndoo load opted-out.dat --reconcile --dry-run --feed dir:./feed

    A choice recorded in the feed after --drawn-at stands as recorded; without --drawn-at, every
    opt-out among the changes that the feed still holds stands. FILE decides about everybody else.

    FILE holds one NHS number a row (a trailing comma is fine), or is CSV with --column. Bad rows
    are told by line and reason, and then nothing is loaded: any of them may be an opt-out. Counts
    are printed first. Services move over to the new register whole, while they go on answering;
    with --reconcile they follow the differences like any other changes. Prints the new revision.
    """  # noqa: D301  (\b is for click)
    from ndoo.publish.source import JUMP_MAX, Terms  # noqa: PLC0415  (the base install has none)

    keys, rows = read_source(file, column, skip_bad=skip_bad)
    terms = Terms(
        drawn_at,
        jump_max=JUMP_MAX if jump_max is None else jump_max,
        accept_jump=accept_jump,
        examine=_Examination(dated=drawn_at is not None),
    )
    with feed_to_read(feed) as reading:
        if dry_run:
            _compare(reading, keys, terms)
        elif reconcile:
            _reconcile(feed, reading, keys, terms)
        else:
            _load(feed, keys, rows, terms, key)


def read_source(file: str, column: str | None, *, skip_bad: bool) -> tuple[BitMap, int]:
    """The keys in *file*, and how many good rows it has. Raises InputError for bad rows, unless
    these are to be skipped.
    """
    from pyroaring import BitMap  # noqa: PLC0415  (the base install has none)

    bad = BadRows()
    parts: list[Keys] = [np.empty(0, dtype=np.uint32)]
    with open_list(file) as source:
        for block in read_rows(source, column).blocks():
            good = nhs_number.valid(block.numbers)
            bad.note(block, ~good)
            parts.append((block.numbers[good] // np.uint64(10)).astype(np.uint32))
    bad.tell()
    if bad.total and not skip_bad:
        raise InputError(
            f"{bad.total:,} rows are bad and each may be an opt-out, so nothing was loaded; mend "
            "them, or say --skip-bad to load the others."
        )
    keys = np.concatenate(parts)
    return BitMap(np.sort(keys)), len(keys)


@contextlib.contextmanager
def feed_to_read(url: str | None) -> Iterator[Feed]:
    """The reading side of the feed *url*, or of NDOO_FEED if it is None. Raises InputError."""
    from ndoo.feed.url import open_feed  # noqa: PLC0415  (the base install has no feeds)

    settings = Settings.from_env(os.environ, feed=url)
    with contextlib.closing(open_feed(settings.feed, settings.prefix, trusted(settings))) as feed:
        yield feed


class _Examination:
    """Shows what would come of a source, once, and again only if it has become something else."""

    def __init__(self, *, dated: bool) -> None:
        self._dated = dated
        self._shown: tuple[int, ...] = ()

    def __call__(self, settled: Settled) -> None:
        counts = (len(settled.added), len(settled.released), len(settled.kept))
        if counts == self._shown or not settled.in_place:
            return
        self._shown = counts
        show(settled)
        if not self._dated:
            warn_of_undated(settled)


class _Progress:
    """Tells at a terminal how many changes were published so far."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, count: int) -> None:
        self._count += count
        if sys.stderr.isatty():
            click.echo(f"\rPublished {self._count:,} ", nl=False, err=True)


def _compare(feed: Feed, keys: BitMap, terms: Terms) -> None:
    from ndoo.publish.fold import fold_readable, settle_with  # noqa: PLC0415

    settle_with(feed, fold_readable(feed), keys, terms)
    click.echo("Nothing was changed.")


def _load(url: str | None, keys: BitMap, rows: int, terms: Terms, key: str | None) -> None:
    with publisher_to(url, seal_of(url, key, builds_on=False)) as publisher:
        revision = publisher.load(keys, terms)
    repeated = f" ({rows - len(keys):,} repeated)" if rows > len(keys) else ""
    click.echo(f"Loaded {len(keys):,} opt-outs{repeated}.")
    click.echo(f"Revision: {revision.token}")


def _reconcile(url: str | None, feed: Feed, keys: BitMap, terms: Terms) -> None:
    from ndoo.publish.reconcile import reconcile  # noqa: PLC0415

    with publisher_to(url) as publisher:
        done = reconcile(feed, publisher, keys, terms, _Progress())
    if done.left:
        tell(f"{done.left:,} people were touched meanwhile, and stay as they are.")
    click.echo(f"People opted out: {done.opted_out:,}; released: {done.released:,}.")
    click.echo(f"Revision: {done.revision.token}")
