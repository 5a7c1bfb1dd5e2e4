"""A feed that lost changes and gave their numbers to others is never taken for the one before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from ndoo.errors import FeedUnavailable
from ndoo.feed import log
from ndoo.feed.feed import Feed, HistoryChanged
from ndoo.feed.url import DirectoryUrl
from ndoo.publish.directory import DirectoryPublisher
from ndoo.revision import Revision
from support.people import opt_out
from support.places import Place, people_in
from support.scripted import Run, batch, snapshot

STREAM = "{ndoo}:changes"


def read_all(feed: Feed) -> tuple[Revision, str]:
    """Where a reader is who has read everything."""
    loaded = feed.load()
    read = feed.read(loaded.revision, loaded.position, 0.0)
    last = read.changes[-1].seq
    return Revision(loaded.revision.generation, last), read.position


def test_numbers_given_again_show_where_the_own_entry_was_trimmed(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    publisher.append([opt_out(1), opt_out(2), opt_out(3)])
    feed = redis_place.feed()
    revision, position = read_all(feed)
    client: redis.Redis = redis_place.harm.client
    client.xtrim(STREAM, maxlen=0)
    client.xadd(STREAM, {"seq": "3", "op": "suspend"})
    with pytest.raises(HistoryChanged) as changed:
        feed.read(revision, position, 0.0)
    assert changed.value.reason == "REWRITTEN"


def forked(path: Path, *, take_snapshot: bool) -> tuple[Feed, Revision, str]:
    """A reader of a directory that was then put back, and written to since."""
    clock = iter(range(1_000_000_000, 2_000_000_000))
    place = DirectoryUrl(path / "feed")
    publisher = DirectoryPublisher(place)
    publisher._clock = lambda: next(clock)
    publisher.load(snapshot(0).keys)
    publisher.append([opt_out(1)])
    shutil.copytree(place.path, path / "copy")
    if take_snapshot:
        publisher.snapshot()
    publisher.append([opt_out(2)])
    feed = publisher._feed
    read = read_all(feed)
    shutil.rmtree(place.path)
    shutil.copytree(path / "copy", place.path)
    publisher.append([opt_out(3)])
    return feed, *read


@pytest.mark.parametrize("take_snapshot", [False, True])
def test_another_line_in_the_place_of_the_own_is_seen(tmp_path: Path, take_snapshot: bool) -> None:
    feed, revision, position = forked(tmp_path, take_snapshot=take_snapshot)
    with pytest.raises(HistoryChanged) as changed:
        feed.read(revision, position, 0.0)
    assert changed.value.reason == "REWRITTEN"


@pytest.mark.parametrize("moved_on", [False, True])
def test_another_change_in_front_of_a_new_segment_is_seen(
    directory_place: Place, tmp_path: Path, moved_on: bool
) -> None:
    """Whoever waits at the end of a log is led to the next segment, which begins with a header."""
    publisher, path = directory_place.loaded(0), directory_place.harm.path
    publisher.append([opt_out(1)], request_id="once")
    shutil.copytree(path, tmp_path / "copy")
    feed = directory_place.feed()
    revision, position = read_all(feed)
    publisher.snapshot()
    led = feed.read(revision, position, 0.0)
    (last,) = feed.retained(None)
    assert (led.own, feed.read(revision, led.position, 0.0).own) == (last, last)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "copy", path)
    directory_place.rewrite_last()
    publisher.snapshot()
    other = feed.read(revision, led.position if moved_on else position, 0.0)
    with pytest.raises(HistoryChanged):
        other.after(last)


def test_a_header_has_room_for_any_change(directory_place: Place) -> None:
    publisher = directory_place.loaded(0)
    long = replace(opt_out(1), src="x" * (log.LINE_BYTES_MAX - 200))
    publisher.append([long])
    publisher.snapshot()
    publisher.append([opt_out(2)])
    assert people_in(directory_place.register()) == {0, 1, 2}
    assert None not in list(directory_place.feed().retained(None))


def test_a_generation_that_was_replaced_does_not_come_back() -> None:
    other = HistoryChanged("Another.", reason="OTHER_GENERATION")
    run = Run(
        *(snapshot(0, generation="g"), batch(after=0)),
        *(other, snapshot(0, 1, generation="h"), batch(after=0)),
        *(other, snapshot(0, generation="g"), FeedUnavailable("The feed is away.")),
        *(snapshot(0, 1, 2, generation="i"), batch(after=0)),
    ).to_end()
    assert [state.view.revision.generation for state in run.states if state.view][-1] == "i"
    generations = [state.view.revision.generation for state in run.states if state.view]
    assert generations == sorted(generations)
    assert "BACKWARDS" in run.observer.resyncs
    assert run.people == {0, 1, 2}
