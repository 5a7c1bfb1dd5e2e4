"""A real directory as storage of a feed: what it holds, and how it goes wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

from ndoo.feed import directory, log
from ndoo.register import snapshot as snapshots
from ndoo.register.snapshot import Packed
from simulator.disk import Disk
from simulator.schedule import Schedule
from simulator.storage import Storage, Stored, repaired
from simulator.truth import PLACE, Truth, unreadable

POLL_S = 0.1
"""Readers look so often, for the sake of speed; any news comes between two looks."""

_SEGMENT = re.compile(r"changes-(.+)-([0-9]{19})\.log")


class DirectoryStorage(Storage):
    """See `Storage`."""

    def __init__(
        self,
        schedule: Schedule,
        rng: random.Random,
        truth: Truth,
        fired: Callable[[str], None],
        disk: Disk,
    ) -> None:
        super().__init__(schedule, rng, truth, fired)
        self.path = Path(disk.root) / "feed"
        self.url = f"dir:{self.path}"
        self.disk = disk
        self.disk.on_write = self.observe
        self.disk.on_snapshot_read = self.snapshot_was_read
        self._seen: dict[str, int] = {}  # bytes of each segment that the truth knows of
        self._copy: tuple[Path, object, dict[str, int]] | None = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with mock.patch.object(directory, "POLL_S", POLL_S):
            yield

    def stored(self) -> Stored | None:
        try:
            with (self.path / "snapshot").open("rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return None
        line, _, rest = raw.partition(b"\n")
        header, register, _ = map(int, line.split()[2:])
        return Stored(
            rest[:header], rest[header : header + register], rest[header + register :]
        )  # fmt: skip

    def new_changes(self, begun: bool) -> Iterator[Mapping[str, str]]:
        if begun:
            self._seen.clear()
        for segment in self._segments():
            seen = self._seen.get(segment.name, 0)
            with segment.open("rb") as file:
                file.seek(seen)
                raw = file.read()
            for line in raw.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self._seen[segment.name] = seen = seen + len(line)
                    fields = json.loads(line[9:])
                    if "first_seq" not in fields:
                        yield fields | {PLACE: f"{segment.name}:{seen}:{fields.get('recorded')}"}

    def _segments(self) -> list[Path]:
        """Those of the history that the snapshot is of, oldest first."""
        generation, _ = self.stored().revision
        return [path for path in self._of_any_history() if f"-{generation}-" in path.name]

    def _of_any_history(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if _SEGMENT.fullmatch(path.name))

    def retained_from(self) -> int:
        first = self._segments()[:1]
        return int(_SEGMENT.fullmatch(first[0].name)[2]) if first else self.truth.tip.seq + 1

    def put_snapshot(self, header: bytes, register: bytes) -> None:
        self._write_snapshot(Packed(header, register, self.stored().links))

    def _write_snapshot(self, packed: Packed) -> None:
        temporary = self.path / "snapshot.other"
        with temporary.open("wb") as file:
            file.write(log.encode_snapshot(packed))
        self._aside(lambda: temporary.rename(self.path / "snapshot"))

    def _aside(self, act: Callable[[], object]) -> None:
        """Do *act* without telling the truth: it is a fault's doing, or told by hand."""
        on_write, self.disk.on_write = self.disk.on_write, lambda: None
        try:
            act()
        finally:
            self.disk.on_write = on_write

    def add_raw(self, fields: Mapping[str, str]) -> None:
        self._append(log.encode_line(fields))

    def _append(self, raw: bytes) -> None:
        with self._segments()[-1].open("ab") as file:
            file.write(raw)

    @property
    def busy(self) -> bool:
        """Whether a writer is at work, whom a foreign hand would not disturb but corrupt."""
        with (self.path / "lock").open("ab") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            last = self._segments()[-1:]
            return not last or not _is_whole(last[0])

    def repair(self) -> None:
        tip = self.truth.tip
        segment = log.Segment(tip.generation, tip.seq + 1)
        if not (self.path / segment.name).exists():
            with (self.path / segment.name).open("wb") as file:
                file.write(segment.header())
        self._seen[segment.name] = len(segment.header())
        self._write_snapshot(snapshots.pack(repaired(tip, str(segment.start))))
        self.was_repaired()
        self._last_stored = self.stored()

    def keep_copy(self) -> None:
        if self.damaged or self.busy:
            return
        copy = self.path.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.path, copy)
        self._copy = copy, self.truth.tip, dict(self._seen)

    # --- faults: each does its harm and tells whether it could ----------------------------------

    def trim_past_the_cursor(self) -> bool:
        """Begin a segment after changes that nobody has read, and remove all before it."""
        if self.busy or self.damaged:
            return False
        self.write_some(3)
        self.repair()
        self.requests_forgotten = True
        for path in self._segments()[:-1]:
            self._aside(path.unlink)
        return True

    def delete_a_segment(self) -> bool:
        """The log is gone that belongs to the snapshot."""
        if self.busy or self.damaged:
            return False
        for path in self._segments():
            self._aside(path.unlink)
        self.damaged = "log gone"
        return True

    def duplicate_an_entry(self) -> bool:
        lines = self._last_lines()
        if self.busy or self.damaged or len(lines) < 2:
            return False
        self._append(lines[-1])
        self._seen[self._segments()[-1].name] += len(lines[-1])
        self.damaged = "duplicate entry"
        return True

    def reorder_entries(self) -> bool:
        if self.busy or self.damaged:
            return False
        seq = self.truth.tip.seq
        both = [self.some_change(seq + 1), self.some_change(seq + 2)]
        raw = b"".join(map(log.encode_line, reversed(both)))
        self._append(raw)
        self._seen[self._segments()[-1].name] += len(raw)
        for fields in both:
            self.truth.record(fields, self.schedule.now)
        self.damaged = "reordered entries"
        return True

    def delete_an_entry(self) -> bool:
        if self.busy or self.damaged:
            return False
        seq = self.truth.tip.seq
        both = [self.some_change(seq + 1), self.some_change(seq + 2)]
        raw = log.encode_line(both[1])
        self._append(raw)
        self._seen[self._segments()[-1].name] += len(raw)
        for fields in both:
            self.truth.record(fields, self.schedule.now)
        self.damaged = "changes lost"
        return True

    def write_unreadable(self) -> bool:
        """A change that no reader understands, or a line that was damaged after it was written."""
        if self.busy or self.damaged:
            return False
        fields = unreadable(self.some_change(self.truth.tip.seq + 1))
        raw = bytearray(log.encode_line(fields))
        if self.rng.random() < 0.5:
            raw[self.rng.randrange(9)] ^= 1
        self._append(bytes(raw))
        self._seen[self._segments()[-1].name] += len(raw)
        self.truth.record(fields, self.schedule.now)
        self.damaged = "undecodable change"
        return True

    def fail_over(self) -> bool:
        """The directory is restored from a copy that lacks the last changes."""
        if self._copy is None or self.damaged or self._copy[1] is self.truth.tip or self.busy:
            return False
        copy, tip, seen = self._copy
        for path in self.path.iterdir():
            if path.name != "lock":
                self._aside(path.unlink)
        for path in copy.iterdir():
            if path.name != "lock":
                shutil.copyfile(path, self.path / path.name)
        self._copy, self._seen = None, seen
        self.truth.go_back_to(tip, self.schedule.now)
        self.forget_stored()
        self.write_some(self.rng.randrange(4))
        return True

    def _last_lines(self) -> list[bytes]:
        with self._segments()[-1].open("rb") as file:
            return file.read().splitlines(keepends=True)


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read().endswith(b"\n")
