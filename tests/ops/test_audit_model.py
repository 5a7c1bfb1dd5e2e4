"""Records under crashes at any byte, full disks, rotations and restarts; and under any tampering.

The model is a list: the calls whose record was taken, in their order.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.ops.audit import AuditFailed
from ndoo.ops.audit_chain import CALL
from ndoo.ops.audit_file import parts_of
from ndoo.ops.audit_log import AuditLog
from support.auditing import RECORD, Counting, FaultyFile, Killed, verified

FILE_BYTES = 1500
"""Two or three records to a file."""

ROOM = st.integers(0, 1400)
STEPS = st.one_of(
    st.tuples(st.just("record"), st.text(max_size=100)),
    st.tuples(st.just("record"), st.just("")),
    st.tuples(st.just("fill"), ROOM),
    st.tuples(st.just("empty")),
    st.tuples(st.just("keep")),
    st.tuples(st.just("break")),
    st.tuples(st.just("kill"), ROOM),
    st.tuples(st.just("kill_between_files")),
    st.tuples(st.just("restart")),
)


@dataclass
class World:
    """A process that writes records to *path*, and what it should have written."""

    path: Path
    kept: list[str] = field(default_factory=list)
    _calls: int = 0

    def __post_init__(self) -> None:
        self._start()

    def do(self, step: tuple) -> None:
        try:
            getattr(self, f"_{step[0]}")(*step[1:])
        except Killed:
            self._die()

    def end(self) -> None:
        """Everything works again, and the process ends in order."""
        self._empty()
        self.log.keep()
        self._close()

    def _start(self) -> None:
        self.file = FaultyFile(self.path, FILE_BYTES)
        self.log = AuditLog(self.file, Counting(), required=True)

    def _close(self) -> None:
        self.log.close()
        self.log.run()

    def _die(self) -> None:
        self.file.close()  # as the system does
        self._start()

    def _record(self, text: str) -> None:
        self._calls += 1
        call_id = f"call {self._calls}"
        record = dataclasses.replace(RECORD, call_id=call_id, reference=text)
        try:
            self.log.record(record)
        except AuditFailed:
            return
        self.kept.append(call_id)

    def _fill(self, room: int) -> None:
        self.file.room, self.file.kills = room, False

    def _empty(self) -> None:
        self.file.room, self.file.is_broken = None, False
        self.file.kills = self.file.kills_between_files = False

    def _break(self) -> None:
        self.file.is_broken = True

    def _keep(self) -> None:
        self.log.keep()

    def _kill(self, room: int) -> None:
        self.file.room, self.file.kills = room, True

    def _kill_between_files(self) -> None:
        self.file.kills_between_files = True

    def _restart(self) -> None:
        self._close()
        self._start()


@contextmanager
def after(steps: list[tuple]) -> World:
    # No power fails here: what is written is there, durable or not.
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):
        world = World(Path(folder) / "audit.jsonl")
        for step in steps:
            world.do(step)
        try:
            world.end()
        except Killed:
            world._die()
            world.end()
        yield world


def calls_in(path: Path) -> list[str]:
    lines = b"".join(part.path.read_bytes() for part in parts_of(path)).split(b"\n")
    records = [json.loads(line) for line in lines if line.endswith(b'"}')]
    return [record["call_id"] for record in records if record["kind"] == CALL]


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=25))
def test_whatever_happens_the_records_are_whole_and_none_taken_is_missing(steps: list) -> None:
    with after(steps) as world:
        findings = verified(world.path, world.log.head)
        assert findings.broken is None
        found = calls_in(world.path)
        assert findings.kinds[CALL] == len(found)
        # Who dies right after a write has written the record, and answered nothing yet.
        assert [call for call in found if call in set(world.kept)] == world.kept
        deaths = sum(step[0].startswith("kill") for step in steps)
        assert len(found) - len(world.kept) <= deaths


def flip(draw: Callable, files: list[bytes]) -> None:
    at = draw(st.integers(0, len(files) - 1))
    byte = draw(st.integers(0, len(files[at]) - 1))
    bits = draw(st.integers(1, 255))
    files[at] = files[at][:byte] + bytes([files[at][byte] ^ bits]) + files[at][byte + 1 :]


def of_lines(change: Callable[[Callable, list[bytes]], None]) -> Callable:
    """A change of the lines of one file."""

    def tamper(draw: Callable, files: list[bytes]) -> None:
        at = draw(st.integers(0, len(files) - 1))
        lines = files[at].splitlines(keepends=True)
        change(draw, lines)
        files[at] = b"".join(lines)

    return tamper


def remove_line(draw: Callable, lines: list[bytes]) -> None:
    del lines[draw(st.integers(0, len(lines) - 1))]


def repeat_line(draw: Callable, lines: list[bytes]) -> None:
    line = lines[draw(st.integers(0, len(lines) - 1))]
    lines.insert(draw(st.integers(0, len(lines))), line)


def swap_lines(draw: Callable, lines: list[bytes]) -> None:
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines[one], lines[other] = lines[other], lines[one]


def cut_end(draw: Callable, files: list[bytes]) -> None:
    files[-1] = files[-1][: draw(st.integers(0, len(files[-1]) - 1))]


def remove_file(draw: Callable, files: list[bytes]) -> None:
    # The first may be missing: records are moved away when they are old.
    files[draw(st.integers(1, len(files) - 1))] = b"gone"


def exchange_files(draw: Callable, files: list[bytes]) -> None:
    one, other = (draw(st.integers(0, len(files) - 1)) for _ in range(2))
    files[one], files[other] = files[other], files[one]


TAMPERING = [
    flip,
    of_lines(remove_line),
    of_lines(repeat_line),
    of_lines(swap_lines),
    cut_end,
    remove_file,
    exchange_files,
]


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=25), st.sampled_from(TAMPERING), st.data())
def test_no_tampering_goes_unnoticed(steps: list, tamper: Callable, data: st.DataObject) -> None:
    fixed = [("record", "") for _ in range(5)]  # at least two files
    with after([*fixed, *steps]) as world:
        paths = [part.path for part in parts_of(world.path)]
        before = [path.read_bytes() for path in paths]
        files = list(before)
        tamper(data.draw, files)
        for path, raw in zip(paths, files):
            path.write_bytes(raw) if raw != b"gone" else path.unlink()
        is_same = files == before
        assert (verified(world.path, world.log.head).broken is None) == is_same
        if not is_cut_off(before, files):
            assert (verified(world.path).broken is None) == is_same


def is_cut_off(before: list[bytes], files: list[bytes]) -> bool:
    """Whether only whole records are missing, at the very end."""
    whole, left = b"".join(before), b"".join(raw for raw in files if raw != b"gone")
    return left.endswith(b"}\n") and whole.startswith(left)
