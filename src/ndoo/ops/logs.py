"""Events on standard output: one a line, with a stable name, as JSON or as text.

Events name what happened and how many, never whom: no NHS number, key or hash of one. docs/logs.md
lists them all. What other libraries log is told as an event too, without its words, which may hold
what a caller or a feed sent.

Whoever logs never waits: lines go through a queue to a thread that writes them. While nobody reads
standard output, lines are lost instead, and counted, as are those over the limit of their kind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

_LOGGER = logging.getLogger("ndoo")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

LINES_QUEUED_MAX = 10_000
EVENTS_PER_WINDOW_MAX = 100
"""Of one name. The rest of the window is counted, and told at its end in one line."""

WINDOW_S = 60.0
LAST_WRITE_S_MAX = 2.0
"""How long the end waits for somebody to read what is left."""

_STANDARD_OUTPUT = 1
_LOOK_S = 1.0

# Long hexadecimal words are digests and ids, in which nine digits in a row mean nothing.
_MAY_BE_A_NUMBER = re.compile(r"(?P<word>[0-9a-f]{16,})|\d{9,}|\d{3}([ -])\d{3}\2\d{4}")


class LogObserver(Protocol):
    """Who counts what is not logged. Must not block."""

    def on_log_suppressed(self, count: int) -> None:
        """So many events more were not written."""


def log_event(level: str, event: str, **fields: Any) -> None:
    """Log *event* with *fields*; *level* is debug, info, warning or error."""
    _LOGGER.log(_LEVELS[level], event, extra={"fields": fields})


def place(error: BaseException) -> str:
    """Where *error* was raised, as FUNCTION:LINE. It may be told where its words may not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


def set_up(level: str, form: str, observer: LogObserver) -> Events:
    """Write events of *level* and above to standard output, in this *form*, json or text, until
    their `end`; what comes later goes nowhere, rather than to standard error with all its words.
    """
    events = Events(json_line if form == "json" else text_line, observer)
    root = logging.getLogger()
    root.handlers = [events]
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    _LOGGER.setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    events.start()
    return events


Line = Callable[[str, str, float, Mapping[str, Any]], str]
"""Of level, event, Unix seconds and fields."""


def json_line(level: str, event: str, at: float, fields: Mapping[str, Any]) -> str:
    line = {"event": event, **fields, "level": level, "at": _rfc_3339(at)}
    return json.dumps(line, ensure_ascii=True)


def text_line(level: str, event: str, at: float, fields: Mapping[str, Any]) -> str:
    told = "".join(f" {name}={_word(value)}" for name, value in fields.items())
    return f"{_rfc_3339(at)} {level:<7} {event}{told}"


class Events(logging.Handler):
    """Turns records into lines with *line*, which a thread writes to *descriptor* from `start` to
    `end`. *clock* gives Unix seconds.
    """

    def __init__(
        self,
        line: Line,
        observer: LogObserver,
        *,
        descriptor: int = _STANDARD_OUTPUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._line = line
        self._observer = observer
        self._descriptor = descriptor
        self._clock = clock
        # Of all queues the one that takes a line also while it is taking another: what the garbage
        # collector has to tell comes at any time.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._window_began = clock()
        self._counts: dict[str, int] = {}  # of this window, by event; under the handler's lock
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock. Does not wait."""
        event, fields = _event_of(record)
        self.look()
        count = self._counts[event] = self._counts.get(event, 0) + 1
        if count > EVENTS_PER_WINDOW_MAX:
            self._observer.on_log_suppressed(1)
            return
        self._put(record.levelname.lower(), event, fields)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Write what was logged until now, and no more; for at most LAST_WRITE_S_MAX."""
        self._lines.put(None)
        self._thread.join(LAST_WRITE_S_MAX)

    def look(self) -> None:
        """Once its time is over, end the window, and tell what it kept back."""
        self.acquire()
        try:
            if 0 <= self._clock() - self._window_began < WINDOW_S:
                return
            self._window_began = self._clock()
            counts, self._counts = self._counts, {}
            for event, count in counts.items():
                if count > EVENTS_PER_WINDOW_MAX:
                    fields = {"of": event, "count": count - EVENTS_PER_WINDOW_MAX}
                    self._put("warning", "events_suppressed", fields)
            lost, self._lost = self._lost, 0
            if lost:
                self._put("warning", "events_lost", {"count": lost})
        finally:
            self.release()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=_LOOK_S)
                if line is None:
                    return
                self._write(line)
            self.look()

    def _put(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if self._lines.qsize() >= LINES_QUEUED_MAX:
            self._lose()
            return
        hidden = {name: _hidden(value) for name, value in fields.items()}
        self._lines.put(self._line(level, event, self._clock(), hidden))

    def _write(self, line: str) -> None:
        """A line at once, past Python's own buffers: their locks would hold up the end of a process
        that nobody reads from.
        """
        rest = f"{line}\n".encode()
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._lose()

    def _lose(self) -> None:
        self._lost += 1
        self._observer.on_log_suppressed(1)


def _event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, Any]]:
    """The name and the fields of an event; of another library's record, no more than its place."""
    if record.name.partition(".")[0] == _LOGGER.name:
        return str(record.msg), getattr(record, "fields", {})
    fields = {"logger": record.name, "where": f"{record.module}.{record.funcName}:{record.lineno}"}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields |= {"error": type(error).__name__, "raised": place(error)}
    return "library_message", fields


def _hidden(value: Any) -> Any:
    """*value* without what may be an NHS number or a key: the last net, under all the others."""
    if not isinstance(value, str):
        return value
    return _MAY_BE_A_NUMBER.sub(lambda match: match["word"] or "[hidden]", value)


def _word(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True) if not isinstance(value, str) else value
    return text if re.fullmatch(r"[!#-~]+", text) else json.dumps(text, ensure_ascii=True)


def _rfc_3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
