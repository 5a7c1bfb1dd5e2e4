"""The disk of a directory feed: real files, with the calls of the system in scripted time.

Each call of `os` on a path of the simulated directory is a moment at which others go on, at which a
process can be killed, and, when it writes, at which a fault can strike.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

from simulator.network import Fired
from simulator.schedule import Actor, Killed, Schedule

LATENCY_S = (0.00001, 0.001)
LOCK_POLL_S = 0.02
_ON_FILES = ("write", "pread", "fsync", "ftruncate")
_ON_PATHS = ("open", "rename", "replace", "unlink", "mkdir", "stat")
_WRITING = {"write", "ftruncate", "rename", "replace"}


class Disk:
    """What happens under *root*. *armed* are the faults that strike the next write; *full* holds
    until it is taken back.
    """

    def __init__(self, schedule: Schedule, rng: random.Random, root: Path, fired: Fired) -> None:
        self.root = str(root)
        self.armed: set[str] = set()
        self.full = ""  # the fault's name while there is no space under `full_under`
        self.full_under = self.root
        self.on_write: Callable[[], None] = lambda: None
        self.on_snapshot_read: Callable[[], None] = lambda: None
        self.doomed: dict[Actor, int] = {}  # who is to be killed, and in how many steps
        self._schedule = schedule
        self._rng = rng
        self._fired = fired
        self._observing = False
        self._files: dict[int, str] = {}
        self._real = {name: getattr(os, name) for name in (*_ON_FILES, *_ON_PATHS, "close")}
        self._flock = fcntl.flock

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The calls of the system are this disk's while in here."""
        with contextlib.ExitStack() as stack:
            for name in _ON_FILES:
                stack.enter_context(mock.patch.object(os, name, self._on_file(name)))
            for name in _ON_PATHS:
                stack.enter_context(mock.patch.object(os, name, self._on_path(name)))
            stack.enter_context(mock.patch.object(os, "close", self._close))
            stack.enter_context(mock.patch.object(fcntl, "flock", self._lock))
            stack.enter_context(mock.patch.object(Path, "read_bytes", self._read_bytes()))
            yield

    def _on_path(self, name: str) -> Callable[..., object]:
        real = self._real[name]

        def call(path: object, *args: object, **options: object) -> object:
            place = self._place(path, options)
            if not place.startswith(self.root):
                return real(path, *args, **options)
            self._step()
            if self.full and place.startswith(self.full_under) and _takes_room(name, args, options):
                self._fired(self.full)
                raise OSError(errno.ENOSPC, "no space")
            result = real(path, *args, **options)
            if name == "open" and not options:  # who opens beside a directory closes by other means
                self._files[result] = place
            if name in _WRITING:
                self._told()
            return result

        return call

    def _place(self, path: object, options: Mapping[str, object]) -> str:
        """Where *path* lies, which may be told beside an open directory; "" if it is a file."""
        if isinstance(path, int):
            return ""
        beside = self._files.get(options.get("dir_fd", options.get("src_dir_fd")))
        return f"{beside}/{path}" if beside else os.fspath(path)

    def _on_file(self, name: str) -> Callable[..., object]:
        real = self._real[name]

        def call(file: object, *args: object) -> object:
            path = self._files.get(file)
            if path is None:
                return real(file, *args)
            self._step()
            if name == "write":
                self._strike(file, path, bytes(args[0]))
            result = real(file, *args)
            if name in _WRITING:
                self._told()
            return result

        return call

    def _strike(self, file: int, path: str, raw: bytes) -> None:
        """Write a part of *raw* and no more, if a fault is due."""
        part = raw[: self._rng.randrange(max(1, len(raw)))]
        if self.full and path.startswith(self.full_under):
            self._fired(self.full)
            self._real["write"](file, part)
            self._told()
            raise OSError(errno.ENOSPC, "no space")
        if "torn log line" in self.armed and path.endswith(".log") and part:
            self.armed.discard("torn log line")
            self._fired("torn log line")
            self._real["write"](file, part)
            self._told()
            self._schedule.current.killed = True
            raise Killed

    def _close(self, file: int) -> None:
        self._files.pop(file, None)
        self._real["close"](file)

    def _read_bytes(self) -> Callable[[Path], bytes]:
        real = Path.read_bytes

        def read_bytes(path: Path) -> bytes:
            if str(path).startswith(self.root):
                self._step()
                self.on_snapshot_read()
            return real(path)

        return read_bytes

    def _lock(self, file: int, how: int) -> None:
        if file not in self._files or how & fcntl.LOCK_UN:
            self._flock(file, how)
            return
        while True:
            self._step()
            try:
                self._flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if how & fcntl.LOCK_NB:
                    raise
                self._schedule.sleep(LOCK_POLL_S)
            else:
                return

    def _step(self) -> None:
        """A moment for the others; whoever injects faults works between moments."""
        current = self._schedule.current
        if self._schedule.is_between or self._observing:
            return
        self._schedule.sleep(self._rng.uniform(*LATENCY_S))
        if current in self.doomed:
            self.doomed[current] -= 1
            if self.doomed[current] < 0:
                del self.doomed[current]
                self._fired("writer killed between steps")
                current.killed = True
                raise Killed

    def _told(self) -> None:
        self._observing = True
        try:
            self.on_write()
        finally:
            self._observing = False


def _takes_room(name: str, args: Sequence[object], options: Mapping[str, object]) -> bool:
    """Whether a call beside an open directory, as for the state of a replica, needs a new file."""
    makes = name == "open" and bool(args[0] & os.O_CREAT)
    return bool(options) and (makes or name == "rename")
