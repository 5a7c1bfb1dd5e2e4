"""What every publisher promises."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from pyroaring import BitMap

from ndoo.errors import FeedEmpty, SnapshotRefused
from ndoo.feed.feed import Feed, HistoryChanged
from ndoo.publish import directory, redis
from ndoo.publish.fold import Folded, first_snapshot, fold
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind
from ndoo.register.snapshot import Snapshot
from support.people import KEYS, opt_in, opt_out, supersede
from support.places import Place, bitmap, people_in


def test_nothing_is_appended_where_nothing_was_loaded(place: Place) -> None:
    publisher = place.publisher()
    with pytest.raises(FeedEmpty, match="ndoo load"):
        publisher.append([opt_out(1)])
    with pytest.raises(FeedEmpty, match="ndoo load"):
        publisher.snapshot()
    with pytest.raises(FeedEmpty):
        place.feed().load()


def test_a_load_starts_a_generation(place: Place) -> None:
    publisher = place.publisher()
    first = publisher.load(bitmap(0, 1))
    publisher.append([opt_out(2)])
    second = publisher.load(bitmap(0, 1, 5))
    assert first.generation != second.generation
    assert (first.seq, second.seq) == (0, 1)  # what outweighs the source comes first
    assert people_in(place.register()) == {0, 1, 2, 5}


def test_appending_nothing_changes_nothing(place: Place) -> None:
    publisher = place.loaded(0)
    revision = publisher.append([opt_out(1)])
    assert publisher.append([]) == revision


def test_more_changes_than_one_step_takes_are_all_appended(place: Place) -> None:
    publisher = place.loaded(0)
    revision = publisher.append([opt_out(person) for person in range(1, 5001)])
    assert revision.seq == 5000
    assert len(place.register()) == 5001


def test_an_empty_register_is_refused(place: Place) -> None:
    publisher = place.loaded(0)
    for accept in (False, True):
        with pytest.raises(SnapshotRefused) as refused:
            publisher.load(BitMap(), Terms(accept_jump=accept))
        assert refused.value.reason == "SNAPSHOT_EMPTY"
    assert people_in(place.register()) == {0}


def test_a_shrunken_register_is_refused_unless_accepted(place: Place) -> None:
    publisher = place.loaded(*range(100))
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(*range(90)))
    assert refused.value.reason == "SOURCE_JUMP"
    assert len(place.register()) == 100
    publisher.load(bitmap(*range(99)))
    publisher.load(bitmap(*range(50)), Terms(accept_jump=True))
    assert len(place.register()) == 50


def test_what_a_load_is_held_against_includes_the_changes(place: Place) -> None:
    publisher = place.loaded(*range(100))
    publisher.append([opt_out(person) for person in range(100, 200)])
    for person in range(3):  # until the others are trimmed
        publisher.append([opt_out(person)])
        publisher.snapshot()
    with pytest.raises(SnapshotRefused, match="--accept-jump"):
        publisher.load(bitmap(*range(100)))


def test_accepted_shrinking_stays_accepted_in_later_snapshots(place: Place) -> None:
    publisher = place.loaded(*range(100))
    publisher.load(bitmap(*range(50)), Terms(accept_jump=True))
    publisher.append([opt_out(60)])
    assert publisher.snapshot().shrink_accepted
    assert place.feed().load().shrink_accepted


def test_a_snapshot_holds_all_changes_so_far(place: Place) -> None:
    publisher = place.loaded(0, 1)
    publisher.append([opt_out(2), opt_in(0), supersede(1, 7)])
    taken = publisher.snapshot()
    loaded = place.feed().load()
    assert loaded.revision == taken.revision
    assert loaded.revision.seq == 3
    assert loaded.keys == bitmap(1, 2, 7)


def test_a_snapshot_of_an_unchanged_feed_is_fine(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    first = publisher.snapshot()
    for _ in range(3):
        assert publisher.snapshot().revision == first.revision
    publisher.append([opt_out(2)])
    assert people_in(place.register()) == {0, 1, 2}


def test_links_persist_in_snapshots(place: Place) -> None:
    publisher = place.loaded(0, 1)
    publisher.append([supersede(1, 7)])
    publisher.snapshot()
    publisher.snapshot()
    publisher.append([opt_in(7)])
    assert people_in(place.register()) == {0}


def test_suspension_persists_in_snapshots(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([Change(Kind.SUSPEND)])
    publisher.snapshot()
    assert place.feed().load().suspended
    assert place.register().suspended
    publisher.append([Change(Kind.RESUME)])
    assert not place.register().suspended


def test_an_impossible_number_is_refused_before_anything_is_written(place: Place) -> None:
    publisher = place.loaded(0)
    never_issued = next(key for key in range(KEYS[0], KEYS[99]) if key not in KEYS)
    with pytest.raises(ValueError, match="no NHS number"):
        publisher.append([opt_out(1), Change(Kind.OPT_OUT, key=never_issued)])
    assert people_in(place.register()) == {0}


def test_several_processes_write_at_once(place: Place) -> None:
    place.loaded(0)
    with (
        place.writer(100, 60) as first,
        place.writer(200, 60) as second,
        place.writer(300, 60) as third,
    ):
        publisher = place.publisher()
        for _ in range(10):
            publisher.snapshot()
        printed = [process.communicate()[0].split() for process in (first, second, third)]
    assert [len(people) for people in printed] == [60, 60, 60]
    expected = {0, *range(100, 160), *range(200, 260), *range(300, 360)}
    assert people_in(place.register()) == expected
    assert place.register().revision.seq == 180


def test_snapshots_taken_at_once_do_no_harm(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(person) for person in range(1, 50)])
    publishers = [place.publisher() for _ in range(4)]
    threads = [threading.Thread(target=each.snapshot) for each in publishers]
    for thread in threads:
        thread.start()
    for person in range(50, 60):
        publisher.append([opt_out(person)])
    for thread in threads:
        thread.join()
    assert people_in(place.register()) == set(range(60))


def test_a_writer_killed_while_writing_loses_nothing_recorded(place: Place) -> None:
    place.loaded(0)
    recorded = []
    for first in (1000, 2000, 3000):
        with place.writer(first, 10_000) as process:
            recorded += [int(process.stdout.readline()) for _ in range(25)]
            process.kill()
            recorded += [int(line) for line in process.stdout.read().split()]
        place.publisher().append([opt_in(5000)])
    register = place.register()
    assert people_in(register) >= set(recorded)
    # At most the one change that each was writing when it was killed stands beside them.
    assert register.revision.seq - 3 <= len(recorded) + 3


def test_a_change_racing_a_snapshot_is_neither_lost_nor_doubled(place: Place) -> None:
    publisher = place.loaded(0)
    with place.writer(100, 120) as process:
        registers = []
        while process.poll() is None:
            publisher.snapshot()
            registers.append(place.register())
        process.communicate()
    for register in [*registers, place.register()]:
        seq = register.revision.seq
        assert people_in(register) == {0, *range(100, 100 + seq)}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has an act done once, after the next snapshot is folded and before it is put in place."""

    def arrange(act: Callable[[], object]) -> None:
        acts = [act]

        def racing(feed: Feed) -> Folded:
            folded = fold(feed)
            if acts:
                acts.pop()()
            return folded

        for module in (directory, redis):
            monkeypatch.setattr(module, "fold", racing)

    return arrange


Meanwhile = Callable[[Callable[[], object]], None]


def test_changes_appended_while_a_snapshot_is_made_are_kept(
    place: Place, meanwhile: Meanwhile
) -> None:
    publisher, other = place.loaded(0), place.publisher()
    publisher.append([opt_out(1)])
    publisher.snapshot()
    meanwhile(lambda: other.append([opt_out(2), opt_out(3)]))
    assert publisher.snapshot().revision.seq == 1
    assert people_in(place.register()) == {0, 1, 2, 3}


def test_of_two_snapshots_the_newer_stays(place: Place, meanwhile: Meanwhile) -> None:
    publisher, faster = place.loaded(0), place.publisher()
    publisher.append([opt_out(1)])

    def overtake() -> None:
        faster.append([opt_out(2)])
        faster.snapshot()

    meanwhile(overtake)
    assert publisher.snapshot().revision.seq == 2
    assert place.feed().load().revision.seq == 2


def test_a_snapshot_overtaken_by_a_load_changes_nothing(place: Place, meanwhile: Meanwhile) -> None:
    publisher, loader = place.loaded(0), place.publisher()
    meanwhile(lambda: loader.load(bitmap(0, 7)))
    with pytest.raises(HistoryChanged, match="take the snapshot again"):
        publisher.snapshot()
    assert people_in(place.register()) == {0, 7}


def test_no_snapshot_mixes_two_histories(place: Place, meanwhile: Meanwhile) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    meanwhile(place.rewrite_last)
    with pytest.raises(HistoryChanged) as changed:
        publisher.snapshot()
    assert changed.value.reason == "REWRITTEN"
    assert people_in(place.register()) == {0, 9}


def test_no_load_mixes_two_histories(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opted out in the history that is there now stays so."""
    publisher, acts = place.loaded(0), [place.rewrite_last]
    publisher.append([opt_out(1)])

    def racing(*arguments: object) -> object:
        first = first_snapshot(*arguments)
        if acts:
            acts.pop()()
        return first

    for module in (directory, redis):
        monkeypatch.setattr(module, "first_snapshot", racing)
    publisher.load(bitmap(0))
    assert people_in(place.register()) == {0, 9}


def test_a_load_does_not_lift_a_suspension(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([Change(Kind.SUSPEND)])
    publisher.load(bitmap(0, 1))
    assert place.register().suspended
    publisher.append([Change(Kind.RESUME)])
    publisher.load(bitmap(0, 1))
    assert not place.register().suspended


def test_a_suspension_while_a_load_is_made_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the load looked at what is in place: before the switch, or after it."""
    publisher = place.loaded(0)
    suspending = threading.Thread(target=place.publisher().append, args=([Change(Kind.SUSPEND)],))

    def racing(*arguments: object, **named: object) -> Snapshot:
        snapshot = first_snapshot(*arguments, **named)
        if not suspending.ident:
            suspending.start()
            if place.url.startswith("redis"):
                suspending.join()  # it gets through; a directory is locked meanwhile
        return snapshot

    for module in (directory, redis):
        monkeypatch.setattr(module, "first_snapshot", racing)
    publisher.load(bitmap(0, 1))
    suspending.join()
    assert place.register().suspended
    assert people_in(place.register()) == {0, 1}


def test_a_load_that_mends_an_unreadable_feed_does_not_lift_its_suspension(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([Change(Kind.SUSPEND), opt_out(1)])
    place.harm.append_raw({"seq": "3", "op": "vanish"})
    with pytest.raises(SnapshotRefused):
        publisher.load(bitmap(0))
    publisher.load(bitmap(0, 1), Terms(accept_jump=True))
    register = place.register()
    assert (people_in(register), register.suspended) == ({0, 1}, True)


def test_a_load_does_not_forget_whose_numbers_are_one_persons(place: Place) -> None:
    publisher = place.loaded(0, 1)
    publisher.append([supersede(1, 7), supersede(4, 5)])
    keys = bitmap(0, 7)
    publisher.load(keys)
    assert keys == bitmap(0, 7)
    assert people_in(place.register()) == {0, 1, 7}
    publisher.append([opt_in(1), opt_out(5)])
    assert people_in(place.register()) == {0, 4, 5}
