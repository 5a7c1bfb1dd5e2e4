"""Loads beside everybody else: nothing that was recorded is lost, and no writer can hold one up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from itertools import count

import pytest

from ndoo.errors import SnapshotRefused
from ndoo.feed.feed import HistoryChanged
from ndoo.publish import directory, redis
from ndoo.publish.fold import first_snapshot
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind
from support.people import opt_in, opt_out, supersede
from support.places import DirectoryHarm, Place, bitmap, people_in

Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture
def while_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Has an act done each time when a load has looked at what is in place, before its switch."""

    def arrange(act: Callable[[], object]) -> None:
        def racing(*arguments: object) -> object:
            first = first_snapshot(*arguments)
            act()
            return first

        for module in (directory, redis):
            monkeypatch.setattr(module, "first_snapshot", racing)

    return arrange


def test_what_is_recorded_while_a_load_is_prepared_comes_along(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    publisher, other = place.loaded(0, 1, 2), place.publisher()
    publisher.append([opt_out(3)])
    acts = [lambda: other.append([opt_in(1), supersede(2, 9), opt_out(5), opt_in(3)])]
    while_it_is_prepared(lambda: acts.pop()() if acts else None)
    before = place.feed().load().revision.generation
    revision = publisher.load(bitmap(0, 1, 2))
    register = place.register()
    assert register.revision.generation == revision.generation != before
    assert people_in(register) == {0, 2, 5, 9}


def test_what_comes_along_keeps_the_moment_it_was_recorded(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    publisher, other = place.loaded(0), place.publisher()
    recorded: list[Change] = []

    def act() -> None:
        if recorded:
            return
        other.append([opt_out(1), Change(Kind.SUSPEND, at="2026-01-01T00:00:00Z", src="test")])
        recorded.extend(_changes(place))

    while_it_is_prepared(act)
    for _ in range(2):  # what was carried is carried again, as a choice that stands or by a load
        publisher.load(bitmap(0, 1))
        by_kind = {change.kind: change for change in _changes(place)}
        assert by_kind.get(Kind.OPT_OUT, recorded[0]).recorded_ms == recorded[0].recorded_ms
        assert place.register().suspended
    assert recorded[0].recorded_ms > 0


def _changes(place: Place) -> tuple[Change, ...]:
    feed = place.feed()
    snapshot = feed.load()
    return feed.read(snapshot.revision, snapshot.position, 0.0).changes


def test_more_than_one_step_carries_is_folded_first(
    place: Place, while_it_is_prepared: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "CARRIED_MAX", 2)
    publisher, other = place.loaded(0), place.publisher()
    people = count(10)
    while_it_is_prepared(lambda: other.append([opt_out(next(people)) for _ in range(5)]))
    publisher.load(bitmap(0))
    last = next(people)
    assert people_in(place.register()) == {0, *range(10, last)}


def test_what_is_recorded_behind_an_unreadable_change_comes_along(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    publisher, other = place.loaded(0), place.publisher()
    publisher.append([opt_out(1)])
    place.harm.append_raw({"seq": "2", "op": "vanish"})
    acts = [lambda: other.append([opt_out(2)])]
    while_it_is_prepared(lambda: acts.pop()() if acts else None)
    publisher.load(bitmap(0), Terms(accept_jump=True))
    assert people_in(place.register()) == {0, 1, 2}
    other.append([opt_out(3)])
    assert people_in(place.register()) == {0, 1, 2, 3}


def test_a_change_lost_among_those_that_came_meanwhile_is_missed(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    """Numbering them anew would hide the gap for good."""
    publisher, other = place.loaded(0), place.publisher()

    def act() -> None:
        other.append([opt_out(1), opt_out(2), opt_out(3)])
        _lose_the_second(place)

    acts = [act]
    while_it_is_prepared(lambda: acts.pop()() if acts else None)
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(0))
    assert refused.value.reason == "SOURCE_IN_DOUBT"


def _lose_the_second(place: Place) -> None:
    if isinstance(place.harm, DirectoryHarm):
        header, *lines = place.harm.segment.read_bytes().splitlines(keepends=True)
        place.harm.segment.write_bytes(b"".join([header, lines[0], lines[2]]))
        return
    _, (lost, _), _ = place.harm.client.xrange("{ndoo}:changes")
    place.harm.client.xdel("{ndoo}:changes", lost)
    place.harm.client.hincrby("{ndoo}:head", "seq", -1)  # as that of a writer whose head lags


def test_a_load_overtaken_by_another_load_begins_again(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    publisher, other = place.loaded(0), place.publisher()
    acts = iter([None])

    def overtake() -> None:
        if next(acts, 1) is None:
            other.append([opt_out(1)])
            other.load(bitmap(0, 1, 2))
            other.append([opt_out(3)])

    while_it_is_prepared(overtake)
    publisher.load(bitmap(0, 5), Terms(accept_jump=True))
    assert people_in(place.register()) == {0, 1, 3, 5}


def test_a_load_overtaken_by_another_is_held_against_that_one(
    place: Place, while_it_is_prepared: Meanwhile
) -> None:
    publisher, other = place.loaded(0), place.publisher()
    acts = [lambda: other.load(bitmap(0, 1, 2))]
    while_it_is_prepared(lambda: acts.pop()() if acts else None)
    with pytest.raises(SnapshotRefused, match="release 2 of 3"):
        publisher.load(bitmap(0))
    assert people_in(place.register()) == {0, 1, 2}


def test_writers_snapshots_and_loads_at_once(place: Place) -> None:
    """Three processes write without a pause; nothing that they were told was recorded is lost."""
    publisher, other = place.loaded(0), place.publisher()
    with (
        place.writer(100, 80) as first,
        place.writer(300, 80) as second,
        place.writer(500, 80) as third,
    ):
        writers, loads = (first, second, third), 0
        while any(writer.poll() is None for writer in writers) or loads < 3:
            # As a source that is drawn while others write. More than one snapshot between that and
            # the load could trim changes which the source does not know.
            source = bitmap(*people_in(place.register()))
            snapshot = threading.Thread(target=_take_snapshot, args=(other,))
            snapshot.start()
            publisher.load(source)
            snapshot.join()
            loads += 1
        printed = [writer.communicate()[0].split() for writer in writers]
    assert [len(people) for people in printed] == [80, 80, 80]
    everybody = {0, *range(100, 180), *range(300, 380), *range(500, 580)}
    assert people_in(place.register()) == everybody


def _take_snapshot(publisher: Publisher) -> None:
    with contextlib.suppress(HistoryChanged):  # a load was quicker
        publisher.snapshot()
