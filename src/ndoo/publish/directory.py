"""The writing side of a directory feed. See `ndoo.feed.log` for the files.

Whoever writes holds the lock, which the system takes back from a process that dies. What is put in
place by renaming was made durable before, and appended lines are durable before `append` returns.
So a writer killed at any point leaves at most the first of its changes, a line without its newline,
a file with a temporary name or a segment that nothing refers to; the next writer cuts off the line,
the next snapshot or load removes the files, and the same request, sent again, records the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyroaring import BitMap

from ndoo.errors import ChangeRefused, FeedUnavailable, InputError
from ndoo.feed import durable, log
from ndoo.feed.directory import DirectoryFeed
from ndoo.feed.feed import HistoryChanged, nothing_loaded
from ndoo.feed.log import Position, Segment
from ndoo.feed.url import DirectoryUrl
from ndoo.publish.fold import Folded, changes_since, first_snapshot, fold, fold_readable
from ndoo.publish.publisher import HeadMoved, Unconfirmed, refuse_long_step
from ndoo.publish.remembered import field_of, find, holds_requests
from ndoo.publish.request import KEPT_S, check_request_id
from ndoo.publish.seal import UNSIGNED, Seal
from ndoo.publish.source import PLAIN, Terms
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, encode, encode_recorded
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision, new_generation

LOCK_S_MAX = 30.0
"""Nobody holds the lock for long: what takes time is done before."""

_LOCK_POLL_S = 0.002
_DIRECTORY_MODE = 0o750
_FILE_MODE = 0o640


@dataclass(frozen=True, slots=True)
class _End:
    """Where the log ends: after the line *last* with change *seq*, at byte *size* of *segment*."""

    segment: Segment
    size: int
    seq: int
    last: Mapping[str, str] = field(repr=False)

    @property
    def revision(self) -> Revision:
        return Revision(self.segment.generation, self.seq)


class DirectoryPublisher:
    """See `ndoo.publish.publisher.Publisher`. *clock* gives Unix seconds."""

    def __init__(
        self, url: DirectoryUrl, clock: Callable[[], float] = time.time, seal: Seal = UNSIGNED
    ) -> None:
        self._url = url
        self._path = url.path
        self._clock = clock
        self._sign = seal.sign
        self._feed = DirectoryFeed(url, seal.verify)

    @property
    def name(self) -> str:
        return self._url.name

    def append(
        self, changes: Sequence[Change], *, request_id: str = "", after: Revision | None = None
    ) -> Revision:
        """Raises InputError too, for a change too long for a line, and ChangeRefused if the log
        ends in a damaged line, after which nothing can be appended.
        """
        check_request_id(request_id)
        refuse_long_step(changes, after)
        encoded = [encode(change) for change in changes]
        with self._locked():
            end = self._end()
            generation = end.segment.generation
            known = find(self._path, generation, request_id, encoded) if request_id else None
            done = known.done if known else 0
            expected = known.revision if known else after
            if after and done < len(changes) and end.revision != expected:
                raise HeadMoved("Something else was recorded first, so nothing was.")
            raw = b"".join(self._new_lines(encoded, done, end.seq + 1, request_id))
            try:
                _append(self._path / end.segment.name, end.size, raw)
            except OSError as error:
                doubt = f" It is unknown whether {len(changes) - done:,} changes were recorded."
                raise Unconfirmed(self._sentence(error) + doubt) from None
        if known and done == len(changes):
            return known.revision
        return Revision(generation, end.seq + len(changes) - done)

    def load(self, keys: BitMap, terms: Terms = PLAIN) -> Revision:
        segment = Segment(new_generation(), 1)
        found = fold_readable(self._feed)
        prepared = None
        with contextlib.suppress(HistoryChanged):  # somebody else loaded meanwhile
            prepared = self._beginning(segment, found, keys, terms)
        with self._locked(create=True):
            since = changes_since(self._feed, found) if prepared else None
            if prepared is None or since is None:
                found = fold_readable(self._feed)
                prepared, since = self._beginning(segment, found, keys, terms), []
            raw, first = prepared
            lines = _lines(map(encode_recorded, [*first, *since]), 1)
            self._put(segment.name, b"".join([segment.header(), *lines]))
            self._put(log.SNAPSHOT, raw)
            self._remove_before(segment)
        return Revision(segment.generation, len(first))

    def _beginning(
        self, segment: Segment, found: Folded | None, keys: BitMap, terms: Terms
    ) -> tuple[bytes, Sequence[Change]]:
        """The snapshot with which the generation of *segment* begins, and its first changes."""
        revision = Revision(segment.generation, 0)
        position = str(segment.start)
        snapshot, first = first_snapshot(self._feed, found, keys, revision, position, terms)
        return log.encode_snapshot(snapshots.pack(snapshot, self._sign)), first

    def snapshot(self) -> Snapshot:
        folded = fold(self._feed)
        snapshot = folded.snapshot()
        raw = log.encode_snapshot(snapshots.pack(snapshot, self._sign))
        with self._locked():
            current = self._feed.load()
            if current.revision.generation != snapshot.revision.generation:
                raise HistoryChanged(
                    "Another register was loaded meanwhile; take the snapshot again.",
                    reason="OTHER_GENERATION",
                )
            if current.revision.seq > snapshot.revision.seq:
                return current  # another writer was faster, and its snapshot holds all of ours
            with contextlib.suppress(ChangeRefused):  # of the one that follows what was folded
                self._feed.read(snapshot.revision, snapshot.position, 0.0).after(snapshot.last)
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
                self._take(lock)
                yield
            finally:
                os.close(lock)

    def _take(self, lock: int) -> None:
        deadline = time.monotonic() + LOCK_S_MAX
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FeedUnavailable(
                        f"{self.name} cannot be written: another process has held its lock for "
                        f"{LOCK_S_MAX:.0f} s; end that process if it hangs."
                    ) from None
            time.sleep(_LOCK_POLL_S)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FeedUnavailable(self._sentence(error)) from None

    def _sentence(self, error: OSError) -> str:
        cause = os.strerror(error.errno) if error.errno else type(error).__name__
        return f"{self.name} cannot be written: {cause}."

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
        size, last = log.end_of(self._path / own[-1].name)
        return _End(own[-1], size, log.last_seq(last), last)

    def _new_lines(
        self, encoded: Sequence[Mapping[str, str]], done: int, seq: int, request_id: str
    ) -> Iterator[bytes]:
        """The lines of all changes but the first *done*, numbered from *seq*."""
        recorded = {"recorded": str(int(self._clock() * 1000))}
        return _lines(
            (
                {**change, **recorded, **field_of(request_id, nth, len(encoded))}
                for nth, change in enumerate(encoded[done:], done + 1)
            ),
            seq,
        )

    def _begin_segment(self) -> None:
        """Let the next change be the first of a segment."""
        end = self._end()
        following = Segment(end.segment.generation, end.seq + 1)
        if following != end.segment:
            _append(self._path / end.segment.name, end.size, b"")
            self._put(following.name, following.header(end.last))

    def _put(self, name: str, raw: bytes) -> None:
        directory = os.open(self._path, os.O_RDONLY)
        try:
            durable.put(directory, name, raw, _FILE_MODE)
        finally:
            os.close(directory)

    def _remove_before(self, first: Segment) -> None:
        """Remove what nobody needs: segments before *first*, those set aside a day ago or more, and
        what killed writers left.
        """
        for path in list(self._path.iterdir()):
            if log.is_temporary(path.name):
                path.unlink()
        for segment in log.past_segments(self._path):
            path = self._path / segment.past_name
            if self._clock() - path.stat().st_mtime > KEPT_S:
                path.unlink()
        # The oldest goes first: a reader takes a segment that is there as proof of those after it.
        for segment in log.segments(self._path):
            if segment.generation != first.generation or segment < first:
                self._set_aside(segment)

    def _set_aside(self, segment: Segment) -> None:
        path = self._path / segment.name
        if holds_requests(path):
            path.rename(self._path / segment.past_name)
        else:
            path.unlink()


def _lines(changes: Iterable[Mapping[str, str]], first_seq: int) -> Iterator[bytes]:
    """A line for each of *changes*, numbered from *first_seq*. Raises InputError."""
    for seq, fields in enumerate(changes, first_seq):
        line = log.encode_line({"seq": str(seq), **fields})
        if len(line) > log.LINE_BYTES_MAX:
            raise InputError("A change is too long for the log; shorten its 'at' or 'src'.")
        yield line


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
