"""A step that the server refuses half-way has changed nothing: its scripts are not undone, so what
may be refused has to come before what cannot be brought back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ndoo.errors import FeedUnavailable
from ndoo.feed.feed import HistoryChanged
from ndoo.publish import redis as publishing
from ndoo.publish.fold import Folded, first_snapshot, fold
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from support.people import number, opt_in, opt_out
from support.places import Place, bitmap, people_in

CHANGES, SNAPSHOT, HEAD = "{ndoo}:changes", "{ndoo}:snapshot", "{ndoo}:head"
ACCEPTING = Terms(accept_jump=True)


@contextlib.contextmanager
def lacking(place: Place, right: str) -> Iterator[Publisher]:
    """A publisher whose user may do everything but *right*."""
    client = place.harm.client
    client.execute_command("ACL", "SETUSER", "few", "on", ">few", "~*", "+@all", f"-{right}")
    try:
        url = place.url.replace("//", "//few:few@")
        with contextlib.closing(open_publisher(url)) as publisher:
            yield publisher
    finally:
        client.execute_command("ACL", "DELUSER", "few")


def leftovers(place: Place) -> set[bytes]:
    """Keys that would stay for good."""
    client = place.harm.client
    known = {CHANGES.encode(), SNAPSHOT.encode(), HEAD.encode()}
    return {key for key in client.scan_iter() if key not in known and client.ttl(key) < 0}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list:
    """Acts done while a load is prepared."""
    acts: list = []

    def racing(*arguments: object) -> object:
        first = first_snapshot(*arguments)
        while acts:
            acts.pop()()
        return first

    monkeypatch.setattr(publishing, "first_snapshot", racing)
    return acts


@pytest.mark.parametrize("right", ["xadd", "hset", "expire", "persist", "rename", "del"])
@pytest.mark.parametrize("standing", [True, False], ids=["standing", "nothing"])
@pytest.mark.parametrize("carried", [True, False], ids=["carried", "quiet"])
def test_a_load_without_a_right(
    redis_place: Place, meanwhile: list, right: str, standing: bool, carried: bool
) -> None:
    publisher = redis_place.loaded(0, 1)
    expected = {0, 1}
    if standing:
        publisher.append([opt_out(2)])
        expected.add(2)
    if carried:
        meanwhile.append(lambda: publisher.append([opt_out(3)]))
        expected.add(3)
    before = redis_place.register().revision
    # Or the right was not needed.
    with lacking(redis_place, right) as refused, contextlib.suppress(FeedUnavailable):
        before = refused.load(bitmap(0, 1), ACCEPTING)
    assert redis_place.register().revision.generation == before.generation
    assert people_in(redis_place.register()) == expected
    assert not leftovers(redis_place)
    assert redis_place.harm.client.ttl(SNAPSHOT) == redis_place.harm.client.ttl(HEAD) == -1
    redis_place.publisher().load(bitmap(0, 1), ACCEPTING)
    assert people_in(redis_place.register()) == expected


@pytest.mark.parametrize("right", ["hset", "xtrim", "xrange", "xrevrange", "del"])
def test_a_snapshot_without_a_right(redis_place: Place, right: str) -> None:
    redis_place.loaded(0).append([opt_out(1)])
    with lacking(redis_place, right) as refused, contextlib.suppress(FeedUnavailable):
        refused.snapshot()
    assert people_in(redis_place.register()) == {0, 1}


def test_an_entry_too_large_to_carry_over_stops_a_load(redis_place: Place, meanwhile: list) -> None:
    """A script can hand on some thousand texts at once."""
    redis_place.loaded(0, 1)
    fields = {"seq": "1", "op": "opt_out", "nhs": number(2)}
    fields |= {f"more-{n}": "" for n in range(10_000)}
    meanwhile.append(lambda: redis_place.harm.append_raw(fields))
    with pytest.raises(FeedUnavailable):
        redis_place.publisher().load(bitmap(0, 1))
    assert people_in(redis_place.register()) == {0, 1, 2}
    assert not leftovers(redis_place)


def rewind(place: Place) -> None:
    """As a replica that becomes the master without the last change, and with a slower clock: it
    gives the number again, under an earlier id.
    """
    client = place.harm.client
    (last_id, _), (before_id, _) = client.xrevrange(CHANGES, count=2)
    client.xdel(CHANGES, last_id)
    client.execute_command("XSETID", CHANGES, before_id)
    slower = f"{before_id.decode().partition('-')[0]}-9"
    again = {"seq": "2", "op": "opt_out", "nhs": number(9)}
    client.xadd(CHANGES, again, id=slower)


def test_a_load_does_not_overlook_what_another_master_recorded(
    redis_place: Place, meanwhile: list
) -> None:
    publisher = redis_place.loaded(0, 1)
    publisher.append([opt_out(2)])
    skip_to_a_later_millisecond(redis_place)
    publisher.append([opt_in(1)])
    meanwhile.append(lambda: rewind(redis_place))
    publisher.load(bitmap(0, 1), ACCEPTING)
    assert people_in(redis_place.register()) == {0, 1, 2, 9}


def test_a_snapshot_of_what_another_master_never_had_is_not_put_in_place(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = redis_place.loaded(0, 1)
    publisher.append([opt_out(2)])
    skip_to_a_later_millisecond(redis_place)
    publisher.append([opt_in(1)])
    acts = [lambda: rewind(redis_place)]

    def racing(feed: object) -> Folded:
        folded = fold(feed)
        while acts:
            acts.pop()()
        return folded

    monkeypatch.setattr(publishing, "fold", racing)
    with pytest.raises(HistoryChanged) as refused:
        publisher.snapshot()
    assert refused.value.reason == "REWRITTEN"
    assert people_in(redis_place.register()) == {0, 1, 2, 9}


def skip_to_a_later_millisecond(place: Place) -> None:
    """Let the next entry have a later millisecond than the last."""
    client = place.harm.client
    ((last_id, _),) = client.xrevrange(CHANGES, count=1)
    milliseconds = int(last_id.partition(b"-")[0])
    client.execute_command("XSETID", CHANGES, f"{milliseconds + 5}-0")
