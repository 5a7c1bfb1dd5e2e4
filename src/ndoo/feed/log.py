"""The form of a directory feed: which files there are, and how they prove themselves.

    snapshot                         the register at one revision, replaced whole
    changes-GENERATION-SEQ.log       a segment of the log; SEQ is the number of its first change
    past-GENERATION-SEQ.log          one that readers need no more, kept for a day for the ids of
                                     requests in it
    lock                             held by whoever writes

A segment is lines. Each is the CRC-32 of the rest in eight hexadecimal digits, a space, and a flat
JSON object of texts. The first line is the segment's header, every other is one change. The header
also repeats the change before the segment's first, for a reader to know that one again. A line
without its newline is a write that was cut short, and not a change; a line with its newline that
does not match its checksum is damage, wherever it stands.

A position is `SEQ:OFFSET` or `SEQ:OFFSET:RECORDED`: the segment, the byte at which the last line
that was read begins, and when that was recorded, so that a reader meets its own last line again and
sees whether the history is still the same.

A change that was recorded for a request with an id holds `request`: the id, which of the request's
changes it is, and how many these are, as `ID 2/3`.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ndoo.errors import ChangeRefused, SnapshotRefused
from ndoo.feed import durable
from ndoo.register.snapshot import HEADER_BYTES_MAX, Packed
from ndoo.revision import SEQ_MAX, Revision

SNAPSHOT = "snapshot"
LOCK = "lock"
LINE_BYTES_MAX = 16 * 1024

_SEGMENT = re.compile(r"(changes|past)-([A-Za-z0-9_-]{1,64})-([0-9]{19})\.log")
_POSITION = re.compile(r"([1-9][0-9]{0,18}):(0|[1-9][0-9]{0,18})(?::([1-9][0-9]{0,18}))?")
_SNAPSHOT_LINE = re.compile(rb"ndoo-snapshot 1 ([0-9]{1,12}) ([0-9]{1,12}) ([0-9]{1,12})\n")
_SNAPSHOT_LINE_BYTES_MAX = 64
_SEQ = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the log. Segments of one generation order by their first change."""

    generation: str
    first_seq: int

    @property
    def name(self) -> str:
        return f"changes-{self._rest_of_name}"

    @property
    def past_name(self) -> str:
        return f"past-{self._rest_of_name}"

    @property
    def _rest_of_name(self) -> str:
        return f"{self.generation}-{self.first_seq:019d}.log"

    def header(self, before: Mapping[str, str] | None = None) -> bytes:
        """The first line. It repeats the line of the change *before*, but for its request."""
        own = {"generation": self.generation, "first_seq": str(self.first_seq)}
        repeated = {name: text for name, text in (before or {}).items() if name != "request"}
        line = encode_line({**repeated, **own})
        return line if len(line) <= LINE_BYTES_MAX else encode_line(own)

    @property
    def start(self) -> Position:
        return Position(self.first_seq, 0)

    @classmethod
    def of_name(cls, name: str) -> Segment | None:
        """The segment that readers know by *name*."""
        return cls._of_name(name, "changes")

    @classmethod
    def of_past_name(cls, name: str) -> Segment | None:
        """The segment that was set aside under *name*."""
        return cls._of_name(name, "past")

    @classmethod
    def _of_name(cls, name: str, kind: str) -> Segment | None:
        match = _SEGMENT.fullmatch(name)
        return cls(match[2], int(match[3])) if match and match[1] == kind else None


@dataclass(frozen=True, slots=True)
class Position:
    """Where the last line that was read begins, in the segment of *first_seq*, and when that change
    was *recorded* (Unix ms, 0 if that is unknown): another history, such as one that goes on from a
    restored copy, can have a line with the same number at the same place.
    """

    first_seq: int
    offset: int
    recorded_ms: int = 0

    def __str__(self) -> str:
        recorded = f":{self.recorded_ms}" if self.recorded_ms else ""
        return f"{self.first_seq}:{self.offset}{recorded}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        match = _POSITION.fullmatch(text)
        numbers = [int(text or "0") for text in match.groups()] if match else [SEQ_MAX + 1]
        return cls(*numbers) if max(numbers) <= SEQ_MAX else None


def segments(path: Path) -> list[Segment]:
    """All segments in the directory *path*, of all generations, in order."""
    return sorted(filter(None, map(Segment.of_name, os.listdir(path))))  # noqa: PTH208  (names only)


def past_segments(path: Path) -> list[Segment]:
    """All segments in the directory *path* that readers need no more."""
    return list(filter(None, map(Segment.of_past_name, os.listdir(path))))  # noqa: PTH208


def is_temporary(name: str) -> bool:
    """Whether *name* is what a file of a feed is called until it is whole: others' files may lie in
    the directory.
    """
    whole = durable.whole(name)
    return whole != name and (whole == SNAPSHOT or Segment.of_name(whole) is not None)


def encode_line(fields: Mapping[str, str]) -> bytes:
    body = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode_line(line: bytes) -> dict[str, str]:
    """The fields of *line*, given without its newline. Raises ChangeRefused."""
    body = line[9:]
    if line[:9] != b"%08x " % zlib.crc32(body):
        raise ChangeRefused("A line of the log does not match its checksum: it is damaged.")
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not {str}.issuperset(map(type, fields.values())):
        raise ChangeRefused("A line of the log is not a JSON object of texts.")
    return fields


def last_seq(fields: Mapping[str, str]) -> int:
    """The sequence number reached by the line of *fields*. Raises ChangeRefused."""
    header = "first_seq" in fields
    text = fields.get("first_seq" if header else "seq", "")
    if not _SEQ.fullmatch(text):
        raise ChangeRefused("The last line of the log has no readable sequence number.")
    return int(text) - header


def is_at(line: bytes, position: Position, revision: Revision) -> bool:
    """Whether *line*, standing at *position*, is what a reader at *revision* read last."""
    try:
        fields = decode_line(line)
    except ChangeRefused:
        return False
    if position.offset == 0:
        next_revision = (fields.get("generation"), fields.get("first_seq"))
        return next_revision == (revision.generation, str(revision.seq + 1))
    if position.recorded_ms and fields.get("recorded") != str(position.recorded_ms):
        return False
    return fields.get("seq") == str(revision.seq)


def encode_snapshot(packed: Packed) -> bytes:
    sizes = (len(packed.header), len(packed.register), len(packed.links))
    return b"ndoo-snapshot 1 %d %d %d\n" % sizes + packed.header + packed.register + packed.links


def decode_snapshot(raw: bytes) -> Packed:
    """What *raw* holds, its contents not yet verified. Raises SnapshotRefused."""
    line = _SNAPSHOT_LINE.match(raw)
    if line is None or line.end() + sum(map(int, line.groups())) != len(raw):
        raise _not_whole()
    header_end = line.end() + int(line[1])
    register_end = header_end + int(line[2])
    return Packed(raw[line.end() : header_end], raw[header_end:register_end], raw[register_end:])


def end_of(path: Path) -> tuple[int, dict[str, str]]:
    """Where the last whole line of the segment at *path* ends, and its fields.

    Raises ChangeRefused if that line is damaged, or OSError.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - 2 * LINE_BYTES_MAX))
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    line = raw[raw.rfind(b"\n", 0, max(0, end - 1)) + 1 : max(0, end - 1)]
    return start + end, decode_line(line)


def header_of(path: Path) -> bytes:
    """The header of the snapshot in the directory *path*, nothing of it verified.

    Raises SnapshotRefused or OSError.
    """
    with (path / SNAPSHOT).open("rb", buffering=0) as file:
        raw = file.read(_SNAPSHOT_LINE_BYTES_MAX + HEADER_BYTES_MAX)
    line = _SNAPSHOT_LINE.match(raw)
    if line is None:
        raise _not_whole()
    return raw[line.end() : line.end() + int(line[1])]


def generation_of(path: Path) -> str:
    """The generation that the snapshot in the directory *path* tells, the rest of it not verified.

    Raises SnapshotRefused or OSError.
    """
    return generation_in(header_of(path))


def generation_in(raw: bytes) -> str:
    """The generation that the header *raw* of a snapshot tells. Raises SnapshotRefused."""
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    generation = header.get("generation") if isinstance(header, dict) else None
    if not isinstance(generation, str):
        raise _not_whole()
    return generation


def _not_whole() -> SnapshotRefused:
    return SnapshotRefused(
        "The snapshot file is damaged or cut short; write a new one with 'ndoo load'.",
        reason="SNAPSHOT_FILE",
    )
