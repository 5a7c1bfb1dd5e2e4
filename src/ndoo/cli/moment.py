"""Moments, as people write them and as they are shown."""

from __future__ import annotations

import contextlib
import datetime as dt
import re

import click

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2})"
)


def read_moment(text: str) -> dt.datetime:
    """The moment that *text* names as in RFC 3339, in UTC. Raises BadParameter."""
    with contextlib.suppress(ValueError, OverflowError):
        if _RFC_3339.fullmatch(text):
            return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    raise click.BadParameter("it must be a time as in RFC 3339, for example 2026-03-01T09:30:00Z")
