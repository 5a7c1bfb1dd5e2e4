"""`ndoo snapshot`: fold the changes of a feed into a new snapshot."""

from __future__ import annotations

import click

from ndoo.cli.options import feed_option, publisher_to


@click.command()
@feed_option
def snapshot(feed: str | None) -> None:
    """Fold all changes so far into a new snapshot, so that services start faster.

    \b
    ndoo snapshot --feed dir:./feed

    Changes that the snapshot before it already held are trimmed. Safe while others write and read.
    """  # noqa: D301  (\b is for click)
    with publisher_to(feed) as publisher:
        made = publisher.snapshot()
    click.echo(f"Snapshot of {len(made.keys):,} opt-outs.")
    click.echo(f"Revision: {made.revision.token}")
