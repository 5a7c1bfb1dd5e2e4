"""The follower in its thread over real feeds: what is written is seen, whatever happens between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from ndoo.errors import NotAnswering
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind
from support.following import Following
from support.people import number, opt_in, opt_out
from support.places import Place, bitmap
from support.scripted import people_seen


@pytest.fixture
def following(place: Place) -> Iterator[Following]:
    with contextlib.closing(Following(place.feed())) as following:
        yield following


def test_a_register_loaded_later_is_found(place: Place, following: Following) -> None:
    state = following.until(lambda state: "ndoo load" in state.trouble)
    assert state.view is None
    revision = place.publisher().load(bitmap(0, 1))
    assert people_seen(following.until_at(revision)) == {0, 1}


def test_changes_snapshots_and_loads_are_followed(place: Place, following: Following) -> None:
    publisher = place.loaded(0)
    for person in range(1, 20):
        revision = publisher.append([opt_out(person), opt_in(0)])
        if person % 5 == 0:
            publisher.snapshot()
    assert people_seen(following.until_at(revision)) == set(range(1, 20))
    revision = publisher.load(bitmap(*range(30)))
    assert people_seen(following.until_at(revision)) == set(range(30))


def test_suspension_stops_all_answers_until_resumed(place: Place, following: Following) -> None:
    publisher = place.loaded(0)
    publisher.append([Change(Kind.SUSPEND)])
    following.until(lambda state: state.suspended)
    with pytest.raises(NotAnswering, match="suspended"):
        following.replica.answering_state(time.time())
    revision = publisher.append([Change(Kind.RESUME)])
    assert not following.until_at(revision).suspended


def test_an_unreadable_change_is_held_until_a_snapshot_is_past_it(
    place: Place, following: Following
) -> None:
    publisher = place.loaded(0)
    following.until_at(publisher.append([opt_out(1)]))
    place.harm.append_raw({"seq": "2", "op": "vanish", "nhs": number(2)})
    publisher.append([opt_out(3)])
    held = following.until(lambda state: state.trouble != "")
    assert people_seen(held) == {0, 1}
    assert "999" not in held.trouble
    revision = publisher.load(bitmap(0, 1, 3), Terms(accept_jump=True))
    assert people_seen(following.until_at(revision)) == {0, 1, 3}
