"""The writing side of a directory feed. See `ndoo.feed.log` for the files.

Whoever writes holds the lock, which the system takes back from a process that dies. What is put in
place by renaming was made durable before, and appended lines are durable before `append` returns.
So a writer killed at any point leaves at most a line without its newline, a file with a temporary
name or a segment that nothing refers to; the next writer removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyroaring import BitMap

from ndoo.errors import FeedUnavailable, InputError
from ndoo.feed import log
from ndoo.feed.directory import DirectoryFeed
from ndoo.feed.feed import HistoryChanged, nothing_loaded
from ndoo.feed.log import Position, Segment
from ndoo.feed.url import DirectoryUrl
from ndoo.publish.fold import first_snapshot, fold
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, encode
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision, new_generation

_DIRECTORY_MODE = 0o750
_FILE_MODE = 0o640


@dataclass(frozen=True, slots=True)
class _End:
    """Where the log ends: after change *seq*, at byte *size* of *segment*."""

    segment: Segment
    size: int
    seq: int


class DirectoryPublisher:
    """See `ndoo.publish.publisher.Publisher`."""

    def __init__(self, url: DirectoryUrl) -> None:
        self._url = url
        self._path = url.path
        self._feed = DirectoryFeed(url)

    @property
    def name(self) -> str:
        return self._url.name

    def append(self, changes: Sequence[Change]) -> Revision:
        """Raises InputError too, for a change too long for a line, and ChangeRefused if the log
        ends in a damaged line, after which nothing can be appended.
        """
        encoded = [encode(change) for change in changes]
        with self._locked():
            end = self._end()
            lines = [
                _line({"seq": str(seq), **fields})
                for seq, fields in enumerate(encoded, end.seq + 1)
            ]
            with self._errors(f" It is unknown whether {len(changes):,} changes were recorded."):
                _append(self._path / end.segment.name, end.size, b"".join(lines))
        return Revision(end.segment.generation, end.seq + len(changes))

    def load(self, keys: BitMap, *, accept_shrink: bool = False) -> Revision:
        segment = Segment(new_generation(), 1)
        revision = Revision(segment.generation, 0)
        with self._locked(create=True):  # what is in place decides, and must not change meanwhile
            snapshot = first_snapshot(
                self._feed, keys, revision, str(segment.start), accept_shrink=accept_shrink
            )
            self._put(segment.name, segment.header)
            self._put(log.SNAPSHOT, log.encode_snapshot(snapshots.pack(snapshot)))
            self._remove_before(segment)
        return revision

    def snapshot(self) -> Snapshot:
        folded = fold(self._feed)
        snapshot = folded.snapshot()
        raw = log.encode_snapshot(snapshots.pack(snapshot))
        with self._locked():
            current = self._feed.load()
            if current.revision.generation != snapshot.revision.generation:
                raise HistoryChanged(
                    "Another register was loaded meanwhile; take the snapshot again.",
                    reason="OTHER_GENERATION",
                )
            if current.revision.seq > snapshot.revision.seq:
                return current  # another writer was faster, and its snapshot holds all of ours
            self._begin_segment()
            self._put(log.SNAPSHOT, raw)
            kept = Position.parse(folded.before.position)
            self._remove_before(Segment(current.revision.generation, kept.first_seq if kept else 0))
        return snapshot

    def close(self) -> None:
        self._feed.close()

    @contextlib.contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[None]:
        with self._errors():
            if create:
                self._path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            try:
                lock = os.open(self._path / log.LOCK, os.O_RDWR | os.O_CREAT, _FILE_MODE)
            except FileNotFoundError:
                raise nothing_loaded(self.name) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    @contextlib.contextmanager
    def _errors(self, doubt: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else type(error).__name__
            raise FeedUnavailable(f"{self.name} cannot be written: {cause}.{doubt}") from None

    def _end(self) -> _End:
        """Where the next change goes. The lock is held."""
        try:
            generation = log.generation_of(self._path)
        except FileNotFoundError:
            raise nothing_loaded(self.name) from None
        own = [each for each in log.segments(self._path) if each.generation == generation]
        if not own:
            raise FeedUnavailable(
                f"{self.name} lacks the log that belongs to its snapshot; load again with "
                "'ndoo load'."
            )
        return _End(own[-1], *_end_of(self._path / own[-1].name))

    def _begin_segment(self) -> None:
        """Let the next change be the first of a segment."""
        end = self._end()
        following = Segment(end.segment.generation, end.seq + 1)
        if following != end.segment:
            _append(self._path / end.segment.name, end.size, b"")
            self._put(following.name, following.header)

    def _put(self, name: str, raw: bytes) -> None:
        """Put a whole file in place, durably: it is there with all of *raw*, or not at all."""
        temporary = self._path / log.temporary(name)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
        _write(file, raw)
        temporary.rename(self._path / name)
        directory = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _remove_before(self, first: Segment) -> None:
        """Remove what no reader needs: segments before *first*, and what killed writers left."""
        for path in list(self._path.iterdir()):
            if log.is_temporary(path.name):
                path.unlink()
        # The oldest goes first: a reader takes a segment that is there as proof of those after it.
        for segment in log.segments(self._path):
            if segment.generation != first.generation or segment < first:
                (self._path / segment.name).unlink()


def _line(fields: dict[str, str]) -> bytes:
    line = log.encode_line(fields)
    if len(line) > log.LINE_BYTES_MAX:
        raise InputError("A change is too long for the log; shorten its 'at' or 'src'.")
    return line


def _end_of(path: Path) -> tuple[int, int]:
    """Where the last whole line of the segment at *path* ends, and the number of its change.

    Raises ChangeRefused if that line is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - 2 * log.LINE_BYTES_MAX))
        raw = file.read()
    end = raw.rfind(b"\n") + 1
    line = raw[raw.rfind(b"\n", 0, max(0, end - 1)) + 1 : max(0, end - 1)]
    return start + end, log.last_seq(log.decode_line(line))


def _append(path: Path, size: int, raw: bytes) -> None:
    """Append *raw* at byte *size* of the file, cutting off what a killed writer left there."""
    file = os.open(path, os.O_WRONLY)
    os.ftruncate(file, size)
    os.lseek(file, size, os.SEEK_SET)
    _write(file, raw)


def _write(file: int, raw: bytes) -> None:
    """Write all of *raw* durably, and close *file* in any case."""
    rest = memoryview(raw)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
