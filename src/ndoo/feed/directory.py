"""The feed in a local directory: the embedded default, which needs no server.

Readers take no lock. A writer only ever appends whole lines, cuts off a line that has no newline
yet, or puts whole files in place by renaming; so whatever a reader finds complete and matching its
checksum stays as it is. See `ndoo.feed.log` for the files.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ndoo.errors import ChangeRefused, FeedUnavailable, SnapshotRefused
from ndoo.feed import log
from ndoo.feed.feed import (
    CHANGES_PER_READ_MAX,
    UNREADABLE,
    Batch,
    HistoryChanged,
    nothing_loaded,
    other_history,
)
from ndoo.feed.log import Position, Segment
from ndoo.feed.url import DirectoryUrl
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, decode
from ndoo.register.snapshot import Snapshot, Verify
from ndoo.revision import Revision

POLL_S = 0.005
READ_BYTES = 1024 * 1024


class DirectoryFeed:
    """See `ndoo.feed.feed.Feed`."""

    def __init__(self, url: DirectoryUrl, verify: Verify | None = None) -> None:
        self._url = url
        self._verify = verify
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        return self._url.name

    def load(self) -> Snapshot:
        with self._errors():
            try:
                raw = (self._url.path / log.SNAPSHOT).read_bytes()
            except FileNotFoundError:
                raise nothing_loaded(self.name) from None
        snapshot = snapshots.unpack(log.decode_snapshot(raw), self._verify)
        if Position.parse(snapshot.position) is None:
            raise SnapshotRefused(
                "The snapshot's 'stream_id' is not a position in a log; write a new one with "
                "'ndoo snapshot' or 'ndoo load'.",
                reason="SNAPSHOT_POSITION",
            )
        return snapshot

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        start = Position.parse(position)
        if start is None:
            raise HistoryChanged("The position is not one of this feed.", reason="REWRITTEN")
        deadline = time.monotonic() + wait_s
        while True:
            with self._errors():
                batch = self._read(revision, start)
            if batch.changes or not batch.complete or time.monotonic() >= deadline:
                return batch
            self._closed.wait(POLL_S)

    def retained(self, generation: str | None) -> Iterator[Change | None]:
        with self._errors():
            for segment in self._segments():
                if generation in {None, segment.generation}:
                    yield from _changes_in(self._url.path / segment.name)
            if generation is not None:
                self._refuse_other_generation(generation)

    def close(self) -> None:
        self._closed.set()

    def _read(self, revision: Revision, start: Position) -> Batch:
        segment = Segment(revision.generation, start.first_seq)
        try:
            piece = _read_piece(self._url.path / segment.name, revision, start)
        except FileNotFoundError:
            self._refuse_other_generation(revision.generation)
            self._refuse_restored(revision)
            raise _trimmed(revision) from None
        seq = piece.changes[-1].seq if piece.changes else revision.seq
        following = Segment(revision.generation, seq + 1)
        # The next segment is made when this one has ended for good.
        if following != segment and self._exists(following):
            if not piece.changes:
                return replace(self._read(revision, following.start), own=piece.own)
            return self._batch(piece, revision, complete=False)
        # Segments go away oldest first: while this one is here, so are all that follow it.
        if not self._exists(segment):
            self._refuse_other_generation(revision.generation)
            raise _trimmed(revision)
        header = self._refuse_other_generation(revision.generation)
        return self._batch(piece, revision, complete=piece.at_end, header=header)

    def _batch(
        self, piece: _Piece, revision: Revision, *, complete: bool, header: bytes = b""
    ) -> Batch:
        seq = piece.changes[-1].seq if piece.changes else revision.seq
        behind = 0 if complete else self._behind(Revision(revision.generation, seq))
        made_at = snapshots.made_at(header)
        return Batch(piece.changes, str(piece.position), complete, behind, made_at, piece.own)

    def _behind(self, revision: Revision) -> int:
        """How many changes after *revision* can be read to be there."""
        own = [each for each in self._segments() if each.generation == revision.generation]
        with contextlib.suppress(ChangeRefused, FileNotFoundError, IndexError):
            _, last = log.end_of(self._url.path / own[-1].name)
            return max(0, log.last_seq(last) - revision.seq)
        return 0

    def _segments(self) -> list[Segment]:
        """Those that are there; none in a directory that is not there yet."""
        with contextlib.suppress(FileNotFoundError):
            return log.segments(self._url.path)
        return []

    def _refuse_restored(self, revision: Revision) -> None:
        """Raise HistoryChanged if a segment is there that is trimmed before the one of *revision*,
        which is gone: this is another history, such as a copy that was put back.
        """
        for segment in self._segments():
            if segment.generation == revision.generation and segment.first_seq <= revision.seq:
                raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")

    def _exists(self, segment: Segment) -> bool:
        return (self._url.path / segment.name).exists()

    def _refuse_other_generation(self, own: str) -> bytes:
        """The header of the snapshot, if that is of the generation *own*; else HistoryChanged."""
        try:
            header = log.header_of(self._url.path)
            generation = log.generation_in(header)
        except (FileNotFoundError, SnapshotRefused):
            generation = ""  # whoever loads it is told what is wrong with it
        if generation != own:
            raise other_history()
        return header

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if self._closed.is_set():
            raise FeedUnavailable("The feed is closed.")
        try:
            yield
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else type(error).__name__
            raise FeedUnavailable(f"{self.name} cannot be read: {cause}.") from None


@dataclass(frozen=True, slots=True)
class _Piece:
    """What was read of a segment: changes, the position after them, whether nothing followed, and
    the change before them.
    """

    changes: tuple[Change, ...]
    position: Position
    at_end: bool
    own: Change | None


def _read_piece(path: Path, revision: Revision, start: Position) -> _Piece:
    raw = _read_bytes(path, start.offset)
    own_end = raw.find(b"\n")
    if own_end < 0:
        raise HistoryChanged("The feed went back behind what was read.", reason="BACKWARDS")
    if not log.is_at(raw[:own_end], start, revision):
        raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")
    # A segment's header may not tell of the change before.
    own = _readable(raw[:own_end]) or (UNREADABLE if start.offset else None)
    changes: list[Change] = []
    last, line = 0, own_end + 1  # where the last change read begins, and the one being read
    while (end := raw.find(b"\n", line)) >= 0 and len(changes) < CHANGES_PER_READ_MAX:
        try:
            changes.append(decode(log.decode_line(raw[line:end])))
        except ChangeRefused:
            if changes or _was_cut_off(path, start.offset + line, raw[line:end]):
                return _Piece(tuple(changes), _after(changes, start, last), False, own)
            raise
        last, line = line, end + 1
    if end < 0 and len(raw) - line > log.LINE_BYTES_MAX and not changes:
        raise ChangeRefused("A line of the log is longer than any change: it is damaged.")
    at_end = end < 0 and len(raw) < READ_BYTES
    return _Piece(tuple(changes), _after(changes, start, last), at_end, own)


def _readable(line: bytes) -> Change | None:
    """The change in *line*, None if it is none or cannot be read."""
    try:
        return decode(log.decode_line(line))
    except ChangeRefused:
        return None


def _after(changes: Sequence[Change], start: Position, last: int) -> Position:
    """The position after *changes*, the last of which begins *last* bytes after *start*."""
    if not changes:
        return start
    return Position(start.first_seq, start.offset + last, changes[-1].recorded_ms)


def _was_cut_off(path: Path, offset: int, line: bytes) -> bool:
    """Whether *line* was read while a writer replaced a line that had been cut short."""
    return not _read_bytes(path, offset).startswith(line)


def _read_bytes(path: Path, offset: int) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, READ_BYTES, offset)
    finally:
        os.close(file)


def _changes_in(path: Path) -> Iterator[Change | None]:
    """All changes of a segment, None for each damaged line; none if it has gone meanwhile."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in iter(lambda: file.readline(log.LINE_BYTES_MAX), b""):
            if not line.endswith(b"\n") and len(line) < log.LINE_BYTES_MAX:
                return  # still being written, or cut short
            try:
                fields = log.decode_line(line.removesuffix(b"\n"))
                if "first_seq" not in fields:
                    yield decode(fields)
            except ChangeRefused:
                yield None


def _trimmed(revision: Revision) -> HistoryChanged:
    return HistoryChanged(
        f"Changes after {revision.seq} are no longer in the feed.", reason="TRIMMED"
    )
