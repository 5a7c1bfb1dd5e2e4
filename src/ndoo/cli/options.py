"""Options that several commands share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ndoo.errors import InputError

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher

DEFAULT_TARGET = "127.0.0.1:50551"
_TARGET = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")

feed_option = click.option(
    "--feed",
    metavar="URL",
    help="The feed to write to: redis://…, rediss://… or dir:PATH. [NDOO_FEED]",
)

target_option = click.option(
    "--target",
    metavar="HOST:PORT",
    default=DEFAULT_TARGET,
    show_default=True,
    help="The service to ask.",
)

column_option = click.option(
    "--column",
    metavar="NAME",
    help="FILE is CSV with a header, and the NHS numbers stand in this column.",
)


def checked_target(target: str) -> str:
    """*target* if it reads HOST:PORT. Raises InputError."""
    match = _TARGET.fullmatch(target)
    if match is None or not 1 <= int(match[1]) <= 65_535:
        raise InputError("--target must be HOST:PORT, for example 127.0.0.1:50551.")
    return target


def publisher_for(feed: str | None) -> Publisher:
    """Who writes to *feed*, or to NDOO_FEED. To be closed. Raises InputError, FeedUnavailable."""
    from ndoo.config import Settings  # noqa: PLC0415
    from ndoo.publish.open import open_publisher  # noqa: PLC0415  (the base install cannot)

    settings = Settings.from_env(os.environ, feed=feed)
    return open_publisher(settings.feed, settings.prefix)


def file_name(path: str) -> str:
    """The last part of *path*, which is enough to say which file is meant."""
    return Path(path).name
