"""What a feed still holds, with what its snapshot includes, for whoever loads a source."""

from __future__ import annotations

import time

import pytest

from ndoo.errors import FeedUnavailable
from ndoo.feed import redis
from ndoo.feed.feed import HistoryChanged
from ndoo.publish.source import Terms
from ndoo.register.changes import Change
from support.people import opt_in, opt_out, supersede
from support.places import Place, bitmap


def retained(place: Place) -> list[Change | None]:
    feed = place.feed()
    return list(feed.retained(feed.load().revision.generation))


def seqs(place: Place) -> list[int | None]:
    return [change and change.seq for change in retained(place)]


def test_all_changes_are_told_oldest_first_and_when_they_were_recorded(place: Place) -> None:
    before_ms = int(time.time() * 1000)
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_in(0)])
    publisher.append([supersede(1, 9)])
    changes = retained(place)
    assert [(change.seq, change.kind, change.key) for change in changes] == [
        (seq, change.kind, change.key)
        for seq, change in enumerate([opt_out(1), opt_in(0), supersede(1, 9)], 1)
    ]
    times = [change.recorded_ms for change in changes]
    assert times == sorted(times)
    assert before_ms <= times[0] <= times[-1] <= int(time.time() * 1000)


def test_more_than_one_reading_of_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "CHANGES_PER_READ_MAX", 7)
    place.loaded(0).append([opt_out(person) for person in range(1, 24)])
    assert seqs(place) == list(range(1, 24))


def test_what_a_snapshot_includes_is_there_until_it_is_trimmed(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    publisher.snapshot()
    publisher.append([opt_out(3)])
    assert seqs(place) == [1, 2, 3]
    for person in range(4, 8):
        publisher.append([opt_out(person)])
        publisher.snapshot()
    held = seqs(place)
    assert held == list(range(held[0], 8))
    assert 1 < held[0] <= 7


def test_what_cannot_be_read_has_its_place(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    place.harm.append_raw({"seq": "2", "op": "vanish"})
    publisher.append([opt_out(3)])
    assert seqs(place) == [1, None, 3]


def test_a_generation_tells_nothing_of_the_one_before(place: Place) -> None:
    publisher = place.loaded(0, 1)
    publisher.append([opt_in(1)])
    before = place.feed().load().revision.generation
    publisher.load(bitmap(0), Terms(accept_jump=True))
    assert retained(place) == []
    with pytest.raises(HistoryChanged) as changed:
        list(place.feed().retained(before))
    assert changed.value.reason == "OTHER_GENERATION"


def test_a_feed_without_a_register_holds_nothing(place: Place) -> None:
    assert list(place.feed().retained(None)) == []


def test_a_closed_feed_tells_nothing(place: Place) -> None:
    place.loaded(0)
    feed = place.feed()
    feed.close()
    with pytest.raises(FeedUnavailable, match="closed"):
        list(feed.retained(None))
