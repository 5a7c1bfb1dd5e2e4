"""Events as JSON lines on standard output: one line an event, with a stable name.

Events name what happened and how many, never whom: no NHS number, key or hash of one.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("ndoo")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {})
        line = {"event": record.getMessage(), **fields, "level": record.levelname.lower(), "at": at}
        return json.dumps(line, ensure_ascii=True)


def set_up(level: str) -> None:
    """Send events of *level* and above to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLines())
    _LOGGER.handlers = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(level.upper())


def log_event(level: str, event: str, **fields: Any) -> None:
    """Log *event* with *fields*; *level* is debug, info, warning or error."""
    _LOGGER.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"fields": fields})
