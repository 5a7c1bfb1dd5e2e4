"""Whether audit records are all there, as they were written and in their order.

Cutting off the end leaves a chain that is whole, only shorter: that shows by the heads which the
log of the service tells, and by nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndoo.errors import NdooError
from ndoo.ops.audit_chain import (
    BEGINNING,
    CALL,
    FILE,
    LOST,
    STARTED,
    TORN,
    Head,
    Sealed,
    in_letters,
    read,
)
from ndoo.ops.audit_file import LINE_BYTES_MAX, Part

_TOLD_EVERY = 1000

_CHANGED = "this is not a record as it was written: it was changed"
_NONSENSE = "this record does not say what a record of its kind says, though its hash fits"
_GAP = "a record before this one is missing, or this one was put in, moved or repeated"
_CUT_SHORT = (
    "the last record is cut short; if the service crashed here, its next start closes it, and if "
    "it writes now, verify again"
)


@dataclass(frozen=True, slots=True)
class Broken:
    """The first place that is not as it was written, and why."""

    file: Path
    line: int
    why: str


@dataclass(slots=True)
class Findings:
    """What was found in the records. All of them are proven if nothing is *broken*."""

    files: int = 0
    first: Head | None = None
    last: Head | None = None
    first_at: str = ""
    last_at: str = ""
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys((CALL, STARTED, TORN), 0))
    lost: int = 0
    broken: Broken | None = None

    def add(self, record: Sealed) -> None:
        """Raises _Break."""
        self.first, self.last = self.first or record.head, record.head
        self.first_at, self.last_at = self.first_at or record.at, record.at
        self.kinds[record.kind] = self.kinds.get(record.kind, 0) + 1
        if record.kind == LOST:
            lost = _told_by(record).get("records")
            if not isinstance(lost, int) or lost < 0:
                raise _Break(_NONSENSE)
            self.lost += lost


def verify(
    parts: Sequence[Part],
    heads: Sequence[Head] = (),
    progress: Callable[[int, int], None] = lambda _bytes, _records: None,
) -> Findings:
    """Go through *parts* up to the first broken place; *heads* are to be among their records, or
    right before the first.

    Memory does not grow with the records. *progress* takes the bytes done in all, and the records
    since it was last told. Raises OSError.
    """
    walk = _Walk({head.number: head for head in heads})
    done = 0
    for part in parts:
        try:
            done = walk.go_through(part, done, progress)
        except _Break as found:
            walk.findings.broken = Broken(part.path, walk.line, str(found))
            return walk.findings
    missing = walk.what_heads_miss()
    if missing and parts:
        walk.findings.broken = Broken(parts[-1].path, walk.line, missing)
    return walk.findings


class _Break(NdooError):
    """The records are broken at the line reached."""


class _Walk:
    """One way through the records, from the first to the last."""

    def __init__(self, heads: dict[int, Head]) -> None:
        self.findings = Findings()
        self.line = 0
        self._heads = heads
        self._torn = _Torn()

    def go_through(self, part: Part, done: int, progress: Callable[[int, int], None]) -> int:
        """Returns the bytes done in all. Raises _Break or OSError."""
        self.line = 0
        is_begun, records = False, 0
        first = part.first
        with part.path.open("rb") as file:
            while raw := file.readline(LINE_BYTES_MAX):
                self.line += 1
                done += len(raw)
                record = read(raw)
                if record is None:
                    self._torn.add(raw, self.line)
                    continue
                if first not in {None, record.head.number}:
                    raise _Break(f"record {first}, with which this file begins, is missing")
                first = None
                self._follow(record)
                if record.kind != TORN and is_begun == (record.kind == FILE):
                    raise _Break("records before this one are missing, or another file is put in")
                is_begun = is_begun or record.kind == FILE
                records += 1
                if records % _TOLD_EVERY == 0:
                    progress(done, _TOLD_EVERY)
        self._refuse_unfinished(is_begun)
        progress(done, records % _TOLD_EVERY)
        self.findings.files += 1
        return done

    def what_heads_miss(self) -> str:
        """Which head was not met, if one was not."""
        if not self._heads:
            return ""
        last = self.findings.last.number if self.findings.last else 0
        number = max(self._heads)
        if number > last:
            return f"records after {last} are missing: a head was given for {number}"
        return f"record {number}, for which a head was given, is not in these files"

    def _follow(self, record: Sealed) -> None:
        """Take *record* for the next. Raises _Break."""
        if self._torn.size or record.kind == TORN:
            self._end_torn(record)
        last = self.findings.last
        if last is None:
            last = BEGINNING if record.head.number == 1 else _before(record)
            self._meet(last)
        if (record.head.number, record.previous) != (last.number + 1, last.digest):
            raise _Break(_GAP)
        self._meet(record.head)
        self.findings.add(record)

    def _meet(self, head: Head) -> None:
        if self._heads.pop(head.number, head) != head:
            raise _Break(f"the head given for record {head.number} is that of another record")

    def _end_torn(self, record: Sealed) -> None:
        """Only a record that tells of just that may follow upon what is no record."""
        told = _told_by(record)
        if (told.get("bytes"), told.get("digest")) != (self._torn.size, self._torn.digest):
            self.line = self._torn.line or self.line
            raise _Break(_CHANGED)
        self._torn = _Torn()

    def _refuse_unfinished(self, is_begun: bool) -> None:
        if self._torn.size:
            self.line = self._torn.line
            raise _Break(_CHANGED if self._torn.has_ended else _CUT_SHORT)
        if not is_begun:
            raise _Break("the file holds no records")


def _told_by(record: Sealed) -> Mapping[str, Any]:
    """What *record* says. Raises _Break: who may write the file can make a hash that fits."""
    try:
        return record.fields
    except (ValueError, RecursionError):
        raise _Break(_NONSENSE) from None


def _before(record: Sealed) -> Head:
    """What *record* says it follows. Earlier files may have been moved away."""
    return Head(record.head.number - 1, record.previous)


class _Torn:
    """What stands between two records and is none. Only its digest is held."""

    def __init__(self) -> None:
        self.size = self.line = 0
        self.has_ended = False  # with a newline, as nothing that was cut short
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        return in_letters(self._digest.hexdigest())

    def add(self, raw: bytes, line: int) -> None:
        self.line = self.line or line
        self.size += len(raw)
        self.has_ended = raw.endswith(b"\n")
        self._digest.update(raw)
