"""Keeps the records of calls: written when a call ends, durable within about a second.

A record is written before its call has a result, so that nothing is answered unrecorded. When that
fails (a full disk), and records are required, nothing is answered until one can be written again;
where they are not, answers go on, and a record tells how many are missing. What a failed write, or
a crash, left of a record is closed by a record that says so, and never glued to another.

The event loop writes, to the page cache; a thread makes durable what was written, and is the one
that tries anew what failed.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ndoo.config import Settings
from ndoo.ops.audit import Audit, AuditFailed, AuditRecord, NoAudit
from ndoo.ops.audit_chain import (
    CALL,
    CUT,
    FILE,
    FORMAT,
    LOST,
    STARTED,
    TORN,
    Head,
    digest_of,
    rfc_3339,
    seal,
)
from ndoo.ops.audit_file import AuditFile, AuditStream, Sink
from ndoo.ops.logs import log_event

SYNC_S = 1.0
"""How often records are made durable, and a failed write is tried anew."""

HEAD_S = 60.0
"""How often the log tells the head of the records, so that a cut-off end shows."""

LAST_SYNC_S_MAX = 10.0
"""How long the end of the process waits for the disk."""

STANDARD_OUTPUT = "-"


class AuditObserver(Protocol):
    """Who counts what becomes of the records. Must not block."""

    def on_audit_record(self) -> None:
        """A call was recorded."""

    def on_audit_failing(self, failing: bool) -> None:
        """Records cannot be kept, or can be again."""


class AuditLog:
    """See `ndoo.ops.audit.Audit`. `run` it in a thread of its own. *clock* gives Unix seconds."""

    def __init__(
        self,
        sink: Sink,
        observer: AuditObserver,
        *,
        required: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._observer = observer
        self._required = required
        self._clock = clock
        self._closed = threading.Event()
        self._lock = threading.Lock()  # the event loop's and the thread's writes take turns
        found = sink.found
        self._head, self._torn = found.head, found.torn
        self._first, self._is_begun = found.first, found.is_begun
        self._is_failing = False
        self._error, self._failing_since = "", 0.0  # of the last failing
        self._lost_records = self._lost_numbers = 0
        self._told = self._head.number
        self._told_at = clock()
        self._attempt(STARTED, self._clock(), {})
        self._tell_head("started")

    @property
    def head(self) -> Head:
        """The last record that was written."""
        return self._head

    def refuse_if_failing(self) -> None:
        if self._required and self._is_failing:
            raise AuditFailed

    def record(self, record: AuditRecord) -> None:
        with self._lock:
            if not self._is_failing and self._attempt(CALL, record.ended_at, _fields(record)):
                self._observer.on_audit_record()
                return
            self._lost_records += 1
            self._lost_numbers += record.received
        if self._required:
            raise AuditFailed

    def run(self) -> None:
        """Keep the records durable until closed; then let go of the file."""
        while not self._closed.wait(SYNC_S):
            self.keep()
        self.keep()
        self._tell_head("stopped")
        if self._lost_records:
            log_event("error", "audit_lost", records=self._lost_records)
        self._sink.close()

    def close(self) -> None:
        """End `run` soon. From any thread."""
        self._closed.set()

    def keep(self) -> None:
        """Make durable what was written, and try anew what failed. Raises nothing."""
        with self._lock:
            was_failing, is_written = self._is_failing, True
            if was_failing or self._lost_records:
                is_written = self._write_lost()
        try:
            self._sink.sync()
        except OSError as error:
            with self._lock:
                self._fail(error)
            return
        if was_failing and is_written:
            self._mend()
        if self._clock() - self._told_at >= HEAD_S and self._head.number != self._told:
            self._tell_head("running")

    def _write_lost(self) -> bool:
        told = {
            "since": rfc_3339(self._failing_since),
            "error": self._error,
            "records": self._lost_records,
            "numbers": self._lost_numbers,
        }
        if not self._attempt(LOST, self._clock(), told):
            return False
        self._lost_records = self._lost_numbers = 0
        return True

    def _attempt(self, kind: str, at: float, fields: dict[str, object]) -> bool:
        """Write a record, and whatever has to stand before it."""
        try:
            self._prepare()
            self._append(kind, at, fields)
        except OSError as error:
            self._fail(error)
            return False
        return True

    def _prepare(self) -> None:
        if self._sink.is_gone:
            self._sink.let_go()
            self._torn, self._first, self._is_begun = b"", 0, False
        if self._torn:
            self._close_torn()
        if self._is_begun and self._sink.is_full:
            self._sink.begin_next(self._first)
            self._first, self._is_begun = 0, False
            self._tell_head("rotated")
        if not self._is_begun:
            self._append(FILE, self._clock(), {"format": FORMAT})
            self._is_begun = True

    def _close_torn(self) -> None:
        closing = b"" if self._torn.endswith(b"\n") else CUT + b"\n"
        torn = self._torn + closing
        about = {"bytes": len(torn), "digest": digest_of(torn)}
        self._append(TORN, self._clock(), about, closing)
        self._torn = b""

    def _append(
        self, kind: str, at: float, fields: dict[str, object], closing: bytes = b""
    ) -> None:
        line, head = seal(self._head, kind, at, fields)
        rest = closing + line
        while rest:
            try:
                written = self._sink.write(rest)
            except OSError:
                self._torn += (closing + line)[: -len(rest)]
                raise
            rest = rest[written:]
        self._head = head
        self._first = self._first or head.number

    def _fail(self, error: OSError) -> None:
        if self._is_failing:
            return
        self._is_failing = True
        self._error = errno.errorcode.get(error.errno or 0, "EIO")
        self._failing_since = self._clock()
        self._observer.on_audit_failing(True)
        log_event("error", "audit_failing", error=self._error, required=self._required)

    def _mend(self) -> None:
        self._is_failing = False
        self._observer.on_audit_failing(False)
        log_event("info", "audit_kept_again", head=str(self._head))

    def _tell_head(self, when: str) -> None:
        self._told, self._told_at = self._head.number, self._clock()
        log_event("info", "audit_head", head=str(self._head), when=when)


@contextlib.contextmanager
def auditing(settings: Settings, observer: AuditObserver) -> Iterator[Audit]:
    """The audit that *settings* ask for, until the block ends. Raises InputError."""
    if not settings.audit:
        yield NoAudit()
        return
    sink: Sink
    if settings.audit == STANDARD_OUTPUT:
        sink = AuditStream()
    else:
        sink = AuditFile(Path(settings.audit), settings.audit_bytes_max)
    log = AuditLog(sink, observer, required=settings.audit_required)
    thread = threading.Thread(target=log.run, name="audit", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        log.close()
        # Not for ever: a disk that hangs must not keep the process from its end.
        thread.join(LAST_SYNC_S_MAX)


def _fields(record: AuditRecord) -> dict[str, object]:
    return {
        "started_at": rfc_3339(record.started_at),
        "ended_at": rfc_3339(record.ended_at),
        "call_id": record.call_id,
        "client": record.client,
        "peer": record.peer,
        "rpc": record.rpc,
        "purpose": record.purpose,
        "reference": record.reference,
        "received": record.received,
        "cleared": record.cleared,
        "opted_out": record.opted_out,
        "invalid": record.invalid,
        "revision": record.revision,
        "status": record.status,
        "reason": record.reason,
        "marks": record.marks,
    }
