"""Audit records to write, and a file of them whose disk fails, or whose process dies, on demand."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ndoo.ops.audit import AuditRecord
from ndoo.ops.audit_file import AuditFile, parts_of
from ndoo.ops.audit_verify import Findings, verify

RECORD = AuditRecord(
    started_at=1_770_000_000.25,
    ended_at=1_770_000_001.5,
    call_id="call-1",
    client="trust-a",
    peer="ipv4:192.0.2.1:40000",
    rpc="StreamCheck",
    purpose="research",
    reference="study 7",
    received=10,
    cleared=7,
    opted_out=2,
    invalid=1,
    revision="token",
    status="OK",
    reason="",
    marks=("sequential",),
)


class Counting:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.records = 0
        self.failing: list[bool] = []

    def on_audit_record(self) -> None:
        self.records += 1

    def on_audit_failing(self, failing: bool) -> None:
        self.failing.append(failing)


class Killed(BaseException):
    """The process dies here."""


class FaultyFile(AuditFile):
    """Once it has taken *room* bytes more, the disk is full, or, if it *kills*, the process dies.

    With *is_broken*, nothing becomes durable.
    """

    room: int | None = None
    kills = False
    kills_between_files = False
    is_broken = False

    def write(self, raw: bytes) -> int:
        if self.room is None:
            return super().write(raw)
        part = raw[: self.room]
        if part:
            self.room -= super().write(part)
        if self.kills and not self.room:
            raise Killed
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(part)

    def begin_next(self, first: int) -> None:
        super().begin_next(first)
        if self.kills_between_files:
            raise Killed

    def sync(self) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync()


def verified(path: Path, *heads: object) -> Findings:
    return verify(parts_of(path), heads)
