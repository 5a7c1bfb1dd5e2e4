"""The follower in its thread over real feeds: what is written is seen, whatever happens between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ndoo.errors import NotAnswering
from ndoo.feed.follower import Follower
from ndoo.feed.url import open_feed
from ndoo.register.changes import Change, Kind
from ndoo.register.replica import Phase, Replica, State
from ndoo.revision import Revision
from support.people import number, opt_in, opt_out
from support.places import Place, RedisHarm, bitmap
from support.redis_server import DURABLE, RedisServer
from support.scripted import people_seen

PATIENCE_S = 60


class Following:
    def __init__(self, url: str) -> None:
        self.replica = Replica(3600.0)
        self._news = threading.Condition()
        self.replica.listen(self._tell)
        self.follower = Follower(open_feed(url), self.replica, clock=time.time)
        self._thread = threading.Thread(target=self.follower.run)
        self._thread.start()

    def until(self, condition: Callable[[State], bool]) -> State:
        with self._news:
            assert self._news.wait_for(lambda: condition(self.replica.state), PATIENCE_S)
            return self.replica.state

    def until_at(self, revision: Revision) -> State:
        return self.until(
            lambda state: (
                state.phase is Phase.LIVE
                and state.view is not None
                and state.view.revision == revision
            )
        )

    def close(self) -> None:
        self.follower.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _tell(self, _: State) -> None:
        with self._news:
            self._news.notify_all()


@pytest.fixture
def following(place: Place) -> Iterator[Following]:
    with contextlib.closing(Following(place.url)) as following:
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
    revision = publisher.load(bitmap(0, 1, 3))
    assert people_seen(following.until_at(revision)) == {0, 1, 3}


def test_a_server_killed_and_restarted_is_followed_on(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis(*DURABLE)
    with contextlib.ExitStack() as stack:
        following = stack.enter_context(contextlib.closing(Following(server.url)))
        place = Place(server.url, RedisHarm(stack.enter_context(server.client())), stack)
        publisher = place.loaded(0)
        before = following.until_at(publisher.append([opt_out(1)]))
        server.kill()
        away = following.until(lambda state: state.trouble != "")
        assert away.view is before.view
        server.start()
        revision = place.publisher().append([opt_out(2)])
        assert people_seen(following.until_at(revision)) == {0, 1, 2}


def test_a_server_restarted_empty_leaves_the_last_register_in_use(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    with contextlib.ExitStack() as stack:
        following = stack.enter_context(contextlib.closing(Following(server.url)))
        place = Place(server.url, RedisHarm(stack.enter_context(server.client())), stack)
        before = following.until_at(place.loaded(0).append([opt_out(1)]))
        server.kill()
        server.start()
        empty = following.until(lambda state: "ndoo load" in state.trouble)
        assert empty.view is before.view
        assert people_seen(empty) == {0, 1}
        revision = place.publisher().load(bitmap(0, 1, 2))
        assert people_seen(following.until_at(revision)) == {0, 1, 2}
