"""What is special about a directory: torn writes, damage, leftovers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ndoo.errors import ChangeRefused, FeedEmpty, FeedUnavailable, InputError, SnapshotRefused
from ndoo.feed import directory, log
from ndoo.feed.directory import DirectoryFeed
from ndoo.feed.feed import HistoryChanged
from ndoo.feed.log import Position, Segment
from ndoo.feed.url import DirectoryUrl, open_feed
from ndoo.publish import directory as publishing
from ndoo.publish.open import open_publisher
from ndoo.publish.source import Terms
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, Kind
from support.people import KEYS, number, opt_out
from support.places import DirectoryHarm, Place, people_in


@pytest.fixture
def place(directory_place: Place) -> Place:
    return directory_place


@pytest.fixture
def harm(place: Place) -> DirectoryHarm:
    assert isinstance(place.harm, DirectoryHarm)
    return place.harm


def line(seq: int, person: int) -> bytes:
    return log.encode_line({"seq": str(seq), "op": "opt_out", "nhs": number(person)})


def test_a_torn_last_write_is_no_change_and_is_cut_off(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    torn = line(1, 99)
    for seq, size in enumerate(range(1, len(torn)), 1):
        harm.append_bytes(torn[:size])
        assert people_in(place.register()) == set(range(seq))
        publisher.append([opt_out(seq)])
        assert people_in(place.register()) == set(range(seq + 1))


def test_a_torn_last_write_of_many_lines_loses_only_the_torn_one(
    place: Place, harm: DirectoryHarm
) -> None:
    publisher = place.loaded(0)
    harm.append_bytes(line(1, 1) + line(2, 2) + line(3, 3)[:-1])
    assert people_in(place.register()) == {0, 1, 2}
    assert publisher.append([opt_out(4)]).seq == 3
    assert people_in(place.register()) == {0, 1, 2, 4}


def test_a_long_torn_write_leaves_nothing_behind(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    harm.append_bytes(log.encode_line({"seq": "1", "src": "x" * 1000})[:-1])
    publisher.append([opt_out(1)])
    assert b"xx" not in harm.segment.read_bytes()
    assert people_in(place.register()) == {0, 1}


def test_a_snapshot_beside_a_torn_write_is_fine(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    harm.append_bytes(line(2, 2)[:-1])
    assert publisher.snapshot().revision.seq == 1
    publisher.append([opt_out(3)])
    assert people_in(place.register()) == {0, 1, 3}


def test_a_writer_completes_a_line_that_a_reader_saw_torn(
    place: Place, harm: DirectoryHarm
) -> None:
    place.loaded(0)
    feed = place.feed()
    snapshot = feed.load()
    harm.append_bytes(line(1, 1)[:20])
    batch = feed.read(snapshot.revision, snapshot.position, 0.0)
    assert (batch.changes, batch.complete) == ((), True)
    harm.append_bytes(line(1, 1)[20:])
    batch = feed.read(snapshot.revision, batch.position, 0.0)
    assert [change.key for change in batch.changes] == [KEYS[1]]


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_no_damaged_byte_goes_unnoticed(place: Place, harm: DirectoryHarm, damaged: int) -> None:
    place.loaded(0).append([opt_out(person) for person in (1, 2, 3)])
    segment, good = harm.segment, harm.segment.read_bytes()
    starts = [0, *(at + 1 for at, byte in enumerate(good) if byte == 0x0A)]
    for at in range(starts[1 + damaged], starts[2 + damaged]):
        for flipped in (good[at] ^ 1, good[at] ^ 0x80, 0x0A):
            if flipped == good[at]:
                continue
            segment.write_bytes(good[:at] + bytes([flipped]) + good[at + 1 :])
            if damaged == 2 and at == len(good) - 1:  # the newline at the very end: a torn write
                assert people_in(place.register()) == {0, 1, 2}
                continue
            with pytest.raises(ChangeRefused) as refused:
                place.register()
            assert "999" not in str(refused.value)


def test_nothing_is_appended_after_damage(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    segment = harm.segment
    segment.write_bytes(segment.read_bytes().replace(b'"opt_out"', b'"opt_in"'))
    with pytest.raises(ChangeRefused, match="damaged"):
        publisher.append([opt_out(2)])
    with pytest.raises(ChangeRefused):
        publisher.snapshot()
    publisher.load(place.feed().load().keys, Terms(accept_jump=True))
    publisher.append([opt_out(2)])
    assert people_in(place.register()) == {0, 2}


def test_a_line_seen_while_it_was_replaced_is_looked_at_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0)
    feed = place.feed()
    snapshot = feed.load()
    publisher.append([opt_out(1)])
    real, mixtures = directory._read_bytes, [b"opt_owt"]

    def read_bytes(path: Path, offset: int) -> bytes:
        return real(path, offset).replace(b"opt_out", mixtures.pop() if mixtures else b"opt_out")

    monkeypatch.setattr(directory, "_read_bytes", read_bytes)
    first = feed.read(snapshot.revision, snapshot.position, 0.0)
    assert (first.changes, first.complete) == ((), False)
    assert len(feed.read(snapshot.revision, first.position, 0.0).changes) == 1


def test_a_log_longer_than_one_read_is_read_to_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.loaded(0).append([opt_out(person) for person in range(1, 50)])
    for size in (200, 201, 300, 1000):
        monkeypatch.setattr(directory, "READ_BYTES", size)
        assert people_in(place.register()) == set(range(50))


def test_a_line_without_end_is_damage(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    harm.append_bytes(b"\0" * (log.LINE_BYTES_MAX + 1))
    with pytest.raises(ChangeRefused, match="longer"):
        place.register()
    harm.append_bytes(b"\0" * 2 * log.LINE_BYTES_MAX)
    with pytest.raises(ChangeRefused):
        publisher.append([opt_out(1)])


def test_a_change_too_long_for_a_line_is_refused(place: Place) -> None:
    publisher = place.loaded(0)
    with pytest.raises(InputError, match="too long"):
        publisher.append([Change(Kind.OPT_OUT, key=KEYS[1], src="x" * log.LINE_BYTES_MAX)])
    assert people_in(place.register()) == {0}


def test_a_snapshot_cut_short_anywhere_is_refused(place: Place, harm: DirectoryHarm) -> None:
    place.loaded(0, 1, 2)
    snapshot = harm.path / log.SNAPSHOT
    whole = snapshot.read_bytes()
    for size in range(len(whole)):
        snapshot.write_bytes(whole[:size])
        with pytest.raises(SnapshotRefused):
            place.feed().load()
    snapshot.write_bytes(whole + b"x")
    with pytest.raises(SnapshotRefused):
        place.feed().load()


def test_a_snapshot_at_no_position_of_a_log_is_refused(place: Place, harm: DirectoryHarm) -> None:
    place.loaded(0)
    packed = snapshots.pack(replace(place.feed().load(), position="1-0"))
    (harm.path / log.SNAPSHOT).write_bytes(log.encode_snapshot(packed))
    with pytest.raises(SnapshotRefused) as refused:
        place.feed().load()
    assert refused.value.reason == "SNAPSHOT_POSITION"


def test_only_what_may_be_needed_is_kept(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    for person in range(1, 30):
        publisher.append([opt_out(person)])
        publisher.snapshot()
        assert len(log.segments(harm.path)) <= 3
    publisher.load(place.register().snapshot("1:0", "now").keys)
    assert len(log.segments(harm.path)) == 1


KILLED_BEFORE = [
    ("load", "segment"),
    ("load", "snapshot"),
    ("load", "removal"),
    ("snapshot", "segment"),
    ("snapshot", "snapshot"),
    ("snapshot", "removal"),
]


@pytest.mark.parametrize(("act", "step"), KILLED_BEFORE)
def test_a_writer_killed_at_any_step_leaves_a_sound_feed(
    place: Place, harm: DirectoryHarm, monkeypatch: pytest.MonkeyPatch, act: str, step: str
) -> None:
    class KilledError(BaseException):
        pass

    publisher = place.loaded(0, 1)
    for person in (2, 3):
        publisher.append([opt_out(person)])
        publisher.snapshot()
    publisher.append([opt_out(4)])
    keys = place.register().snapshot("1:0", "now").keys
    with monkeypatch.context() as killing:
        rename, unlink = os.rename, os.unlink

        def doomed(real: Callable[..., object]) -> Callable[..., object]:
            def do(path: Path | str, *args: object, **directories: int) -> object:
                kind = "snapshot" if Path(path).name.startswith("snapshot") else "segment"
                if step == ("removal" if real is unlink else kind):
                    raise KilledError
                return real(path, *args, **directories)

            return do

        killing.setattr(os, "rename", doomed(rename))
        killing.setattr(os, "unlink", doomed(unlink))
        with pytest.raises(KilledError):
            publisher.load(keys) if act == "load" else publisher.snapshot()
    assert people_in(place.register()) == {0, 1, 2, 3, 4}
    publisher.append([opt_out(5)])
    publisher.snapshot()
    publisher.snapshot()
    publisher.append([opt_out(6)])
    assert people_in(place.register()) == {0, 1, 2, 3, 4, 5, 6}
    assert not list(harm.path.glob("*.tmp"))
    assert len({segment.generation for segment in log.segments(harm.path)}) == 1


def test_a_full_disk_is_told_and_leaves_no_half_change(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0)
    real = os.write
    room = [70, 0]

    def write(file: int, raw: bytes) -> int:
        if not (left := room.pop(0)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, raw[:left])

    with monkeypatch.context() as full:
        full.setattr(publishing.os, "write", write)
        with pytest.raises(FeedUnavailable, match=r"No space left.*unknown whether 2 changes"):
            publisher.append([opt_out(1), opt_out(2)])
    recorded = place.register().revision.seq
    assert publisher.append([opt_out(3)]).seq == recorded + 1
    assert 3 in people_in(place.register())


def test_a_log_that_goes_while_it_is_read_is_not_taken_for_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0)
    feed = place.feed()
    snapshot = feed.load()
    real = directory._read_piece

    def overtaken(*args: object) -> object:
        piece = real(*args)
        monkeypatch.setattr(directory, "_read_piece", real)
        for person in range(1, 6):
            publisher.append([opt_out(person)])
            publisher.snapshot()
        return piece

    monkeypatch.setattr(directory, "_read_piece", overtaken)
    with pytest.raises(HistoryChanged) as changed:
        feed.read(snapshot.revision, snapshot.position, 0.0)
    assert changed.value.reason == "TRIMMED"


def test_a_reader_whose_log_is_gone_is_told(place: Place, harm: DirectoryHarm) -> None:
    publisher = place.loaded(0)
    feed = place.feed()
    snapshot = feed.load()
    harm.segment.unlink()
    with pytest.raises(HistoryChanged) as changed:
        feed.read(snapshot.revision, snapshot.position, 0.0)
    assert changed.value.reason == "TRIMMED"
    with pytest.raises(FeedUnavailable, match="ndoo load"):
        publisher.append([opt_out(1)])


def test_a_reader_whose_snapshot_is_gone_is_told(place: Place, harm: DirectoryHarm) -> None:
    place.loaded(0)
    feed = place.feed()
    snapshot = feed.load()
    (harm.path / log.SNAPSHOT).unlink()
    with pytest.raises(HistoryChanged):
        feed.read(snapshot.revision, snapshot.position, 0.0)
    with pytest.raises(FeedEmpty):
        feed.load()


def test_paths_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, error in (("file", FeedUnavailable), ("file/feed", FeedUnavailable)):
        feed, publisher = (
            open_feed(f"dir:{tmp_path}/{path}"),
            open_publisher(f"dir:{tmp_path}/{path}"),
        )
        with pytest.raises(error, match="Not a directory"):
            feed.load()
        with pytest.raises(error, match="cannot be"):
            publisher.append([opt_out(1)])
    with pytest.raises(FeedEmpty, match="ndoo load"):
        DirectoryFeed(DirectoryUrl(tmp_path / "missing")).load()
    assert not (tmp_path / "missing").exists()


def test_files_are_not_for_everybody(place: Place, harm: DirectoryHarm) -> None:
    place.loaded(0).append([opt_out(1)])
    for path in (harm.path, *harm.path.iterdir()):
        assert path.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    "text", ["", "1", "0:0", "1:-1", "1:0:0", "\u0661:0", f"{2**63}:0", "1:0 "]
)
def test_other_texts_are_no_position(place: Place, text: str) -> None:
    assert Position.parse(text) is None
    revision = place.loaded(0).append([opt_out(1)])
    with pytest.raises(HistoryChanged):
        place.feed().read(revision, text, 0.0)


def test_names_of_segments_read_back_and_order() -> None:
    segments = [Segment("g-1_a", 1), Segment("g-1_a", 12), Segment("h", 3)]
    assert [Segment.of_name(each.name) for each in segments] == segments
    assert sorted(each.name for each in segments) == [each.name for each in segments]
    assert Segment.of_name("changes-g-1.log") is None


def test_files_of_others_are_left_alone(place: Place, harm: DirectoryHarm) -> None:
    others = [harm.path / name for name in ("report.tmp", ".tmp", "changes-g-1.log.tmp", "tmp")]
    harm.path.mkdir(exist_ok=True)
    for path in others:
        path.write_text("")
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    publisher.snapshot()
    assert all(path.exists() for path in others)
