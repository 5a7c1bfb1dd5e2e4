"""What several commands share: options, and the two things they connect to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import grpc

from ndoo.client import CallFailed, ClientError, open_channel
from ndoo.config import Settings, split_address

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher

DEFAULT_TARGET = "127.0.0.1:50551"


def checked_target(_context: click.Context, _parameter: click.Parameter, target: str) -> str:
    """*target* if it reads HOST:PORT. Raises BadParameter."""
    with contextlib.suppress(ValueError):
        _, port = split_address(target)
        if port:
            return target
    raise click.BadParameter(f"it must be HOST:PORT, for example {DEFAULT_TARGET}")


feed_option = click.option(
    "--feed",
    metavar="URL",
    help="The feed: redis://…, rediss://… or dir:PATH. [NDOO_FEED]",
)

target_option = click.option(
    "--target",
    metavar="HOST:PORT",
    default=DEFAULT_TARGET,
    show_default=True,
    callback=checked_target,
    help="The service to ask.",
)

column_option = click.option(
    "--column",
    metavar="NAME",
    help="FILE is CSV with a header, and the NHS numbers stand in this column.",
)


@contextlib.contextmanager
def publisher_to(feed: str | None) -> Iterator[Publisher]:
    """Who writes to *feed*, or to NDOO_FEED if it is None. Raises InputError, FeedUnavailable."""
    from ndoo.publish.open import open_publisher  # noqa: PLC0415  (the base install cannot)

    settings = Settings.from_env(os.environ, feed=feed)
    with contextlib.closing(open_publisher(settings.feed, settings.prefix)) as publisher:
        yield publisher


@contextlib.contextmanager
def channel_to(target: str) -> Iterator[grpc.Channel]:
    """A channel to *target*. Failures that are none of the service's own name the target."""
    with open_channel(target) as channel:
        try:
            yield channel
        except CallFailed as error:
            if error.reason or error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise ClientError(
                f"No service answers at {target}; start one with 'ndoo serve', or name the right "
                "one with --target."
            ) from None
