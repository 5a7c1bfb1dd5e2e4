"""The state directory: what was kept comes back whole, or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ndoo.errors import InputError, SnapshotRefused
from ndoo.feed import durable, state
from ndoo.feed.state import (
    CONFIRMED,
    REGISTER,
    Confirmation,
    Kept,
    Reached,
    StateDirectory,
    StateRefused,
)
from ndoo.register.replica import CLOCK_BACK_S_MAX
from ndoo.revision import Revision
from support.people import KEYS, opt_out, supersede
from support.places import bitmap
from support.scripted import snapshot

FEED = "redis://cache:6379/0 ndoo"
AS_OF = 1_000_000.0
NOW = AS_OF + 10
LINKS = ((KEYS[1], KEYS[2]),)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    opened = StateDirectory(tmp_path / "state", FEED)
    yield opened
    opened.close()


def keep(directory: StateDirectory, *people: int, seq: int = 5, as_of: float = AS_OF) -> Kept:
    """Keep a register of *people* and what is known of it."""
    last = replace(opt_out(2), seq=seq, at="2026-01-01T00:00:00Z", recorded_ms=1_767_225_600_000)
    kept = snapshot(*people, seq=seq, links=LINKS, last=last)
    digest = directory.write_register(kept, as_of - 5)
    later = replace(supersede(1, 2), seq=seq + 2)
    reached = Reached(Revision("g", seq + 2), str(seq + 2), len(people) + 2, later)
    confirmed = Confirmation(digest, as_of, suspended=False, reached=reached)
    directory.write_confirmation(confirmed)
    return Kept(kept, confirmed)


def reason(directory: StateDirectory, now: float = NOW) -> str:
    with pytest.raises(StateRefused) as refused:
        directory.read(now)
    return refused.value.reason


def test_a_new_directory_holds_nothing(directory: StateDirectory) -> None:
    assert directory.read(NOW) is None


def test_what_is_kept_comes_back(directory: StateDirectory) -> None:
    for seq in (5, 9):
        kept = keep(directory, 0, 1, 2, seq=seq)
        assert directory.read(NOW) == kept


def test_a_state_of_before_says_nothing_of_its_last_change(directory: StateDirectory) -> None:
    kept = keep(directory, 0, 1, 2)
    reached = replace(kept.confirmed.reached, last=None)
    directory.write_confirmation(replace(kept.confirmed, reached=reached))
    assert directory.read(NOW).confirmed.reached == reached


def test_nobody_else_may_read_it(directory: StateDirectory, tmp_path: Path) -> None:
    keep(directory, 0, 1, 2)
    path = tmp_path / "state"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {each.name for each in path.iterdir()} == {REGISTER, CONFIRMED}
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {0o600}


@pytest.mark.parametrize("name", [REGISTER, CONFIRMED])
def test_no_changed_byte_and_no_cut_is_overlooked(
    directory: StateDirectory, tmp_path: Path, name: str
) -> None:
    kept = keep(directory, 0, 1, 2)
    path = tmp_path / "state" / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert reason(directory) in {"STATE_DAMAGED", "STATE_FOREIGN"}, place
    # The confirmation is one line, whole without its newline.
    for size in range(len(whole) - (name == CONFIRMED)):
        path.write_bytes(whole[:size])
        assert reason(directory) == "STATE_DAMAGED", size
    path.write_bytes(whole + b"\0")
    assert reason(directory) == "STATE_DAMAGED"
    path.write_bytes(whole)
    assert directory.read(NOW) == kept


def test_a_register_without_its_confirmation_is_refused(
    directory: StateDirectory, tmp_path: Path
) -> None:
    """It may be the one thing that says that answers are suspended."""
    keep(directory, 0, 1, 2)
    (tmp_path / "state" / CONFIRMED).unlink()
    assert reason(directory) == "STATE_DAMAGED"


def test_a_confirmation_of_another_register_gives_no_time(directory: StateDirectory) -> None:
    keep(directory, 0, 1, 2)
    last = replace(opt_out(0), seq=8)
    newer = snapshot(0, seq=8, last=last)
    digest = directory.write_register(newer, AS_OF - 100)
    reached = Reached(Revision("g", 8), "8", 1, last)
    kept = directory.read(NOW)
    assert kept == Kept(newer, Confirmation(digest, AS_OF - 100, suspended=False, reached=reached))


def test_a_suspension_counts_whichever_register_it_is_about(directory: StateDirectory) -> None:
    kept = keep(directory, 0, 1, 2)
    directory.write_confirmation(replace(kept.confirmed, suspended=True))
    directory.write_register(snapshot(0, seq=8), AS_OF)
    assert directory.read(NOW).confirmed.suspended


@pytest.mark.parametrize("other", ["redis://cache:6379/1 ndoo", "redis://cache:6379/0 other", ""])
def test_the_state_of_another_feed_is_refused(tmp_path: Path, other: str) -> None:
    directory = StateDirectory(tmp_path, other)
    keep(directory, 0, 1, 2)
    directory.close()
    directory = StateDirectory(tmp_path, FEED)
    assert reason(directory) == "STATE_FOREIGN"
    directory.close()


def test_a_state_from_the_future_is_refused(directory: StateDirectory) -> None:
    keep(directory, 0, 1, 2)
    assert directory.read(AS_OF - CLOCK_BACK_S_MAX) is not None
    assert reason(directory, AS_OF - CLOCK_BACK_S_MAX - 1) == "STATE_FUTURE"


@pytest.mark.parametrize("as_of", [float("nan"), float("inf"), float("-inf")])
def test_a_state_of_no_moment_is_refused(directory: StateDirectory, as_of: float) -> None:
    keep(directory, 0, 1, 2, as_of=as_of)
    assert reason(directory) == "STATE_DAMAGED"


def test_a_state_of_another_version_is_refused(
    directory: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(directory, 0, 1, 2)
    monkeypatch.setattr(state, "FORMAT", "2")
    assert reason(directory) == "STATE_DAMAGED"


def test_an_empty_register_is_not_kept(directory: StateDirectory) -> None:
    kept = keep(directory, 0, 1, 2)
    with pytest.raises(SnapshotRefused):
        directory.write_register(snapshot(), AS_OF)
    assert directory.read(NOW) == kept


def test_a_forgotten_state_is_not_used(directory: StateDirectory) -> None:
    keep(directory, 0, 1, 2)
    directory.forget()
    directory.forget()
    assert reason(directory) == "STATE_DAMAGED"


@pytest.mark.parametrize("name", [REGISTER, CONFIRMED])
def test_a_full_disk_leaves_what_was_kept(
    directory: StateDirectory, tmp_path: Path, name: str
) -> None:
    kept = keep(directory, 0, 1, 2)
    temporary = tmp_path / "state" / durable.temporary(name)
    for _ in range(2):
        temporary.symlink_to("/dev/full")
        with pytest.raises(StateRefused, match="No space left") as refused:
            if name == REGISTER:
                directory.write_register(snapshot(3, seq=9), AS_OF)
            else:
                directory.write_confirmation(replace(kept.confirmed, as_of=NOW))
        assert refused.value.reason == "STATE_NOT_WRITTEN"
        assert not temporary.is_symlink(), "what fills the disk has to go"
        assert directory.read(NOW) == kept
    assert keep(directory, 0, 4, seq=9) == directory.read(NOW)


def test_a_directory_that_vanished_is_made_again(directory: StateDirectory, tmp_path: Path) -> None:
    keep(directory, 0, 1, 2)
    shutil.rmtree(tmp_path / "state")
    assert directory.read(NOW) is None
    assert keep(directory, 0, 1, 2) == directory.read(NOW)


def test_a_directory_that_cannot_be_is_told_of_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = StateDirectory(tmp_path / "file" / "state", FEED)
    assert reason(directory) == "STATE_UNREADABLE"
    with pytest.raises(StateRefused, match="cannot be written"):
        keep(directory, 0)
    (tmp_path / "file").unlink()
    assert keep(directory, 0, 1, 2) == directory.read(NOW)
    directory.close()


def test_two_do_not_share_a_directory(directory: StateDirectory, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(InputError, match="NDOO_STATE_DIR"):
        StateDirectory(path, FEED)
    directory.close()
    directory.close()
    other = StateDirectory(path, FEED)
    with pytest.raises(StateRefused, match="in use") as refused:
        keep(directory, 0)
    assert refused.value.reason == "STATE_NOT_WRITTEN"
    other.close()
    keep(directory, 0, 1, 2)


class Killed(BaseException):
    """The end of the process, as far as what it leaves behind goes."""


class DyingSystem:
    """The system's calls, of which the one numbered *last* is the process's last: not made."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in {"open", "fdopen", "fsync", "rename"}:
            return real

        def call(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*args, **kwargs)

        return call


def test_killed_at_any_step_it_leaves_the_old_state_or_the_new(
    directory: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keep(directory, 0, 1, 2, seq=5, as_of=AS_OF - 50)
    directory.close()
    seen: list[int] = []
    for last in range(100):
        shutil.copytree(tmp_path / "state", tmp_path / str(last))
        dying = StateDirectory(tmp_path / str(last), FEED)
        with monkeypatch.context() as patch:
            system = DyingSystem(last)
            for module in (state, durable):
                patch.setattr(module, "os", system)
            try:
                new = keep(dying, 0, 1, 2, 3, seq=9)
            except Killed:
                new = None
        dying.close()
        after = StateDirectory(tmp_path / str(last), FEED)
        kept = after.read(NOW)
        after.close()
        seen.append(kept.snapshot.revision.seq)
        if kept.snapshot.revision == old.snapshot.revision:
            assert kept == old
        else:
            assert kept.snapshot.keys == bitmap(0, 1, 2, 3)
            assert kept.confirmed.as_of in {AS_OF - 5, AS_OF}
        if new is not None:
            assert kept == new
            break
    assert seen == sorted(seen)
    assert {5, 9} == set(seen)
    assert len(seen) > 8, "it was never killed on the way"
