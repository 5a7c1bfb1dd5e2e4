"""What is special about writing to a directory: its lock, and requests looked for in its log."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ndoo.errors import ChangeRefused, FeedUnavailable
from ndoo.feed import durable, log
from ndoo.feed.url import DirectoryUrl
from ndoo.publish import directory
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.publisher import HeadMoved, Unconfirmed
from ndoo.publish.request import KEPT_S
from support.people import number, opt_in, opt_out
from support.places import DirectoryHarm, Place, bitmap, people_in

SEVERAL = [opt_out(1), opt_out(2), opt_out(3)]


@pytest.fixture
def place(directory_place: Place) -> Place:
    return directory_place


@pytest.fixture
def harm(place: Place) -> DirectoryHarm:
    return place.harm


def test_a_lock_that_is_held_for_ever_is_told_of(
    place: Place, harm: DirectoryHarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0)
    monkeypatch.setattr(directory, "LOCK_S_MAX", 0.0)
    with (harm.path / log.LOCK).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for act in (lambda: publisher.append([opt_out(1)]), lambda: publisher.load(bitmap(0, 1)),
                    publisher.snapshot):  # fmt: skip
            with pytest.raises(FeedUnavailable, match="another process has held its lock"):
                act()
    publisher.append([opt_out(1)])
    assert people_in(place.register()) == {0, 1}


def test_where_the_log_ends_is_shown_without_a_number(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    assert number(1) not in repr(publisher._end())


def torn(harm: DirectoryHarm, lines: int) -> None:
    """As a writer leaves it that is killed when it has written so many lines, and part of one."""
    raw = harm.segment.read_bytes().splitlines(keepends=True)
    harm.segment.write_bytes(b"".join(raw[: 1 + lines]) + raw[1 + lines][:30])


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_request_cut_short_is_completed(place: Place, harm: DirectoryHarm, lines: int) -> None:
    publisher = place.loaded(0)
    publisher.append(SEVERAL, request_id="a")
    torn(harm, lines)
    assert place.register().revision.seq == lines
    publisher.append([opt_in(0)])
    assert publisher.append(SEVERAL, request_id="a").seq == 4
    assert publisher.append(SEVERAL, request_id="a").seq == 4
    register = place.register()
    assert (people_in(register), register.revision.seq) == ({1, 2, 3}, 4)


def test_a_request_cut_short_that_had_to_come_next(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    start = place.register().revision
    publisher.append(SEVERAL, request_id="a", after=start)
    torn(harm, 1)
    assert publisher.append(SEVERAL, request_id="a", after=start).seq == 3
    torn(harm, 1)
    publisher.append([opt_in(0)])
    with pytest.raises(HeadMoved):
        publisher.append(SEVERAL, request_id="a", after=start)
    assert people_in(place.register()) == {1}


def test_a_full_disk_leaves_doubt_that_a_repetition_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _full)
        with pytest.raises(Unconfirmed, match="unknown whether 3 changes were recorded"):
            publisher.append(SEVERAL, request_id="a")
    assert publisher.append(SEVERAL, request_id="a").seq == 3
    assert place.register().revision.seq == 3


def _full(_file: int) -> None:
    raise OSError(errno.ENOSPC, "full")


def test_a_repetition_is_durable_before_it_is_confirmed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it first may have been killed before it was."""
    publisher = place.loaded(0)
    publisher.append(SEVERAL, request_id="a")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(Unconfirmed):
        publisher.append(SEVERAL, request_id="a")


def test_ids_are_looked_for_where_ids_stand(place: Place) -> None:
    publisher = place.loaded(0)
    trap = '"request":"a 3/3"'
    publisher.append([replace(change, src=trap, at=trap) for change in SEVERAL])
    assert publisher.append(SEVERAL, request_id="a").seq == 6


def test_a_damaged_line_of_a_request_is_not_believed(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    publisher.append(SEVERAL, request_id="a")
    publisher.append([opt_out(4)])
    raw = harm.segment.read_bytes()
    harm.segment.write_bytes(raw.replace(b"a 3/3", b"a 2/3"))
    with pytest.raises(ChangeRefused, match="damaged") as refused:
        publisher.append(SEVERAL, request_id="a")
    assert number(3) not in str(refused.value)


def test_what_readers_need_no_more_is_kept_for_a_day_for_its_ids(
    place: Place, harm: DirectoryHarm, tmp_path: Path
) -> None:
    now = [0.0]
    url = DirectoryUrl(tmp_path / "feed")
    place.loaded(0)
    with contextlib.closing(DirectoryPublisher(url, clock=lambda: now[0])) as publisher:
        publisher.append([opt_out(1)], request_id="a")
        publisher.append([opt_out(2)])
        now[0] = _newest(harm) + 1
        for person in (3, 4, 5):
            publisher.snapshot()
            publisher.append([opt_out(person)])
        assert _past(harm)
        assert len(log.segments(harm.path)) < 4
        assert publisher.append([opt_out(1)], request_id="a").seq == 1
        now[0] += KEPT_S + 1
        publisher.snapshot()
        assert not _past(harm)
    assert people_in(place.register()) == set(range(6))


def test_a_load_removes_what_it_replaces(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    (harm.path / durable.temporary(log.SNAPSHOT)).write_bytes(b"left behind")
    publisher.append([opt_out(1)])
    revision = publisher.load(bitmap(0, 1))
    (segment,) = log.segments(harm.path)
    names = {path.name for path in harm.path.iterdir()}
    assert segment.generation == revision.generation
    assert names == {segment.name, log.SNAPSHOT, log.LOCK}


def _past(harm: DirectoryHarm) -> list[str]:
    return [path.name for path in harm.path.iterdir() if path.name.startswith("past-")]


def _newest(harm: DirectoryHarm) -> float:
    return max(path.stat().st_mtime for path in harm.path.iterdir())


def test_when_a_change_was_recorded_is_told_by_the_writers_clock(
    place: Place, tmp_path: Path
) -> None:
    place.loaded(0)
    url = DirectoryUrl(tmp_path / "feed")
    with contextlib.closing(DirectoryPublisher(url, clock=lambda: 1_790_000_000.5)) as publisher:
        publisher.append([opt_out(1)])
    place.harm.append_raw({"seq": "2", "op": "opt_out", "nhs": number(2)})  # as of an older version
    feed = place.feed()
    snapshot = feed.load()
    told = [c.recorded_ms for c in feed.read(snapshot.revision, snapshot.position, 0.0).changes]
    assert told == [1_790_000_000_500, 0]
