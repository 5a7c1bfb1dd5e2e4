"""Where audit records are written: to a file and those it was rotated to, or to standard output.

    PATH                    the records being written
    PATH.000_000_000_123    records that were rotated out; the number is that of the first in it
    PATH.lock               held by the one process that writes

Files are only ever appended to, and renamed when they are full. Nothing is overwritten or removed.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ndoo.errors import InputError
from ndoo.ops.audit_chain import BEGINNING, CUT, TORN, Head, Sealed, read

LINE_BYTES_MAX = 64 * 1024
_MODE = 0o600
_ROTATED = re.compile(r"[0-9]{1,3}(_[0-9]{3}){3,6}")
_FIRST_BYTES = b'{"n":'


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an audit. *first* is the number of its first record, None if its name tells
    none.
    """

    path: Path
    first: int | None


@dataclass(slots=True)
class Found:
    """How far records go that are there already: the last whole one, what stands after it in the
    file, the number of the file's first (0: it has none), and whether it has the record that every
    file begins with.
    """

    head: Head = BEGINNING
    torn: bytes = b""
    first: int = 0
    is_begun: bool = False


class Sink(Protocol):
    """Takes the bytes of records. All but `sync` is for one thread at a time."""

    found: Found

    @property
    def is_full(self) -> bool:
        """Whether the next record is to go to a new file."""

    @property
    def is_gone(self) -> bool:
        """Whether somebody else moved or removed the file, as `sync` found."""

    def write(self, raw: bytes) -> int:
        """Append *raw* and return how many bytes of it, at least one. Raises OSError."""

    def begin_next(self, first: int) -> None:
        """Set the file aside that begins with record *first*. Raises OSError, and has not then."""

    def let_go(self) -> None:
        """Write no more to this file: the next write begins another."""

    def sync(self) -> None:
        """Make all that was written durable. From any one thread. Raises OSError, also if the file
        is gone.
        """

    def close(self) -> None:
        """Let go of what is held."""


class AuditStream:
    """Standard output. What went before is not known, so the records begin at one."""

    is_full = is_gone = False

    def __init__(self) -> None:
        self.found = Found()
        self._file = sys.stdout.fileno()

    def write(self, raw: bytes) -> int:
        return os.write(self._file, raw)

    def begin_next(self, first: int) -> None:  # noqa: ARG002  (it ends nowhere)
        raise RuntimeError("standard output is never full")

    def let_go(self) -> None:
        pass

    def sync(self) -> None:
        """Who reads it keeps it."""

    def close(self) -> None:
        pass


class AuditFile:
    """The file at *path*, until it has *bytes_max*, and then the next."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Raises InputError if the file cannot be used, or another process writes to it."""
        self._path = path
        self._bytes_max = bytes_max
        self._file: int | None = None
        self._lock: int | None = None
        self._size = 0
        self._is_dirty = self._is_new = False
        self.is_gone = False
        self._set_aside: deque[int] = deque()
        try:
            self.found = self._begin()
        except OSError as error:
            self.close()
            cause = os.strerror(error.errno) if error.errno else type(error).__name__
            raise InputError(
                f"Audit records cannot be written to {path}: {cause}; name another with NDOO_AUDIT."
            ) from None
        except InputError:
            self.close()
            raise

    @property
    def is_full(self) -> bool:
        return self._size >= self._bytes_max

    def write(self, raw: bytes) -> int:
        if self._lock is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._file is None:
            self._file = self._open_next()
        self._is_dirty = True
        written = os.write(self._file, raw)
        self._size += written
        return written

    def begin_next(self, first: int) -> None:
        rotated = self._path.with_name(f"{self._path.name}.{first:015_d}")
        if rotated.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        file, self._file = self._file, None  # first: `sync` would take it for gone
        try:
            self._path.rename(rotated)
        except OSError:
            self._file = file
            raise
        self._set_file_aside(file)

    def let_go(self) -> None:
        file, self._file, self.is_gone = self._file, None, False
        self._set_file_aside(file)

    def sync(self) -> None:
        while self._set_aside:  # only here is a file closed, so none while it is being made durable
            os.fsync(self._set_aside[0])
            os.close(self._set_aside.popleft())
        file, is_new = self._file, self._is_new
        if file is None or self.is_gone:
            return
        if not self._is_at_path(file) and file == self._file:
            self.is_gone = True
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not self._is_dirty:
            return
        self._is_dirty = self._is_new = False
        try:
            os.fsync(file)
            if is_new:
                self._sync_names()
        except OSError:
            self._is_dirty, self._is_new = True, is_new
            raise

    def close(self) -> None:
        for file in (*self._set_aside, self._file, self._lock):
            if file is not None:
                os.close(file)
        self._set_aside.clear()
        self._file = self._lock = None

    def _begin(self) -> Found:
        self._take_lock()
        self._file = self._open()
        if not _is_ours(self._file):
            raise InputError(f"{self._path} is not a file of audit records; name another.")
        return _found(self._path)

    def _take_lock(self) -> None:
        """A file of its own holds the lock: that of the records is renamed."""
        path = self._path.with_name(self._path.name + ".lock")
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process writes audit records to {self._path}; give each its own file "
                "with NDOO_AUDIT."
            ) from None

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, _MODE)
        self._size = os.fstat(file).st_size
        self._is_new = True
        return file

    def _open_next(self) -> int:
        """What stands at the path now is somebody else's, unless it is empty."""
        file = self._open()
        if self._size:
            os.close(file)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return file

    def _set_file_aside(self, file: int | None) -> None:
        self._size = 0
        if file is not None:
            self._set_aside.append(file)

    def _is_at_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _sync_names(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def parts_of(path: Path) -> list[Part]:
    """The files of the audit at *path*, in the order of their records. Raises OSError."""
    before = path.name + "."
    rotated = [
        Part(each, int(each.name.removeprefix(before)))
        for each in path.parent.iterdir()
        if each.name.startswith(before) and _ROTATED.fullmatch(each.name.removeprefix(before))
    ]
    newest = [Part(path, None)] if path.exists() else []
    return sorted(rotated, key=lambda part: part.first or 0) + newest


def _is_ours(file: int) -> bool:
    """Whether the file begins like a record, if only like one cut short: no other is to be
    appended to.
    """
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return False
    begins, _, _ = os.pread(file, len(_FIRST_BYTES), 0).partition(CUT)
    return _FIRST_BYTES.startswith(begins)


def _found(path: Path) -> Found:
    found = Found()
    last, found.torn = _last(path)
    for part in reversed(parts_of(path)):
        last = last or _last(part.path)[0]
    found.head = last or BEGINNING
    for record in _records(path):
        found.first = found.first or record.head.number
        if record.kind != TORN:
            found.is_begun = True
            break
    return found


def _records(path: Path) -> Iterator[Sealed]:
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX):
            record = read(line)
            if record is not None:
                yield record


def _last(path: Path) -> tuple[Head | None, bytes]:
    """The last whole record in the file, and what stands after it. Reads from the end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        reach = LINE_BYTES_MAX
        while True:
            file.seek(max(0, size - reach))
            lines = io.BytesIO(file.read()).readlines()
            for at in reversed(range(len(lines))):
                record = read(lines[at])
                if record is not None:
                    return record.head, b"".join(lines[at + 1 :])
            if reach >= size:
                return None, b"".join(lines)
            reach *= 4
