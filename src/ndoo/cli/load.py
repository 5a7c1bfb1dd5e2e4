"""`ndoo load`: a list of opted-out numbers becomes the register of a feed."""

from __future__ import annotations

import click
import numpy as np

from ndoo import nhs_number
from ndoo.cli.block import BadRows
from ndoo.cli.options import column_option, feed_option, publisher_to
from ndoo.cli.rows import open_list, read_rows
from ndoo.errors import InputError
from ndoo.nhs_number import Keys


@click.command()
@click.argument("file", metavar="FILE")
@feed_option
@column_option
@click.option("--accept-shrink", is_flag=True, help="Load it though it is far smaller than before.")
@click.option("--skip-bad", is_flag=True, help="Load the good rows though others are bad.")
def load(
    file: str, feed: str | None, column: str | None, accept_shrink: bool, skip_bad: bool
) -> None:
    """Replace the register in a feed by the opted-out numbers in FILE ("-" is standard input).

    \b
    ndoo load opted-out.dat --feed dir:./feed
    ndoo load opted-out.csv --column nhs_number --feed redis://127.0.0.1:6379/0

    FILE holds one NHS number a row (a trailing comma is fine), or is CSV with --column. Bad rows
    are told by line and reason, and then nothing is loaded: any of them may be an opt-out. Services
    move over to the new register whole, while they go on answering. Prints the new revision.
    """  # noqa: D301  (\b is for click)
    keys, rows = _read(file, column, skip_bad)
    from pyroaring import BitMap  # noqa: PLC0415  (the base install has no publisher)

    with publisher_to(feed) as publisher:
        register = BitMap(keys)
        revision = publisher.load(register, accept_shrink=accept_shrink)
    repeated = f" ({rows - len(register):,} repeated)" if rows > len(register) else ""
    click.echo(f"Loaded {len(register):,} opt-outs{repeated}.")
    click.echo(f"Revision: {revision.token}")


def _read(file: str, column: str | None, skip_bad: bool) -> tuple[Keys, int]:
    """The keys in *file*, ascending, and how many good rows there are."""
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
    return np.sort(keys), len(keys)
