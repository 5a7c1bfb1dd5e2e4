"""`ndoo snapshot`: fold the changes of a feed into a new snapshot."""

from __future__ import annotations

import click

from ndoo.cli.options import feed_option, publisher_to
from ndoo.cli.signing import seal_of, sign_option


@click.command()
@feed_option
@sign_option
def snapshot(feed: str | None, key: str | None) -> None:
    """Fold all changes so far into a new snapshot, so that services start faster.

    \b
    ndoo snapshot --feed dir:./feed
    ndoo snapshot --feed dir:./feed --sign snapshot.key

    Changes that the snapshot before it already held are trimmed. Safe while others write and read.
    With --sign the snapshot before it must be signed, too, by this key or another that is trusted.
    """  # noqa: D301  (\b is for click)
    with publisher_to(feed, seal_of(feed, key, builds_on=True)) as publisher:
        made = publisher.snapshot()
    click.echo(f"Snapshot of {len(made.keys):,} opt-outs.")
    click.echo(f"Revision: {made.revision.token}")
