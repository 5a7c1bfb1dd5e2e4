"""What is special about writing to Redis: doubt, refusals, and a server that dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from ndoo.errors import FeedUnavailable
from ndoo.publish import redis as publishing
from support.people import KEYS, number, opt_in, opt_out
from support.places import Place, RedisHarm, bitmap, people_in
from support.redis_server import DURABLE, RedisServer

CHANGES, SNAPSHOT, HEAD = "{ndoo}:changes", "{ndoo}:snapshot", "{ndoo}:head"

Start = Callable[..., RedisServer]


def test_entries_are_as_the_contract_says(redis_place: Place) -> None:
    redis_place.loaded(0).append([opt_out(1), opt_in(1)])
    client = redis_place.harm.client
    first, second = (fields for _, fields in client.xrange(CHANGES))
    assert first == {b"seq": b"1", b"op": b"opt_out", b"nhs": number(1).encode()}
    assert second == {b"seq": b"2", b"op": b"opt_in", b"nhs": number(1).encode()}
    assert client.hget(HEAD, "seq") == b"2"


def test_trimming_keeps_the_entry_of_the_previous_snapshot(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    client = redis_place.harm.client
    publisher.append([opt_out(1), opt_out(2)])
    publisher.snapshot()
    assert client.xlen(CHANGES) == 2
    publisher.append([opt_out(3), opt_out(4)])
    publisher.snapshot()
    seqs = [fields[b"seq"] for _, fields in client.xrange(CHANGES)]
    assert seqs == [b"2", b"3", b"4"]


def test_a_server_that_is_away_was_sent_nothing(start_redis: Start) -> None:
    server = start_redis()
    with contextlib.ExitStack() as stack:
        publisher = Place(server.url, None, stack).loaded(0)
        server.kill()
        with pytest.raises(FeedUnavailable, match="Nothing was sent"):
            publisher.append([opt_out(1)])
        with pytest.raises(FeedUnavailable):
            publisher.load(bitmap(0, 1))
        with pytest.raises(FeedUnavailable):
            publisher.snapshot()


def test_an_answer_that_does_not_come_leaves_doubt_and_is_not_sent_again(
    start_redis: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis()
    monkeypatch.setattr(publishing, "ANSWER_S_MAX", 0.2)
    with contextlib.ExitStack() as stack:
        place = Place(server.url, None, stack)
        publisher = place.loaded(0)
        publisher.append([opt_out(1)])
        # Frozen after the question whether it is there, so that the write is what gets no answer.
        monkeypatch.setattr(publisher, "_connect", server.freeze)
        with pytest.raises(
            FeedUnavailable, match="unknown whether 1 changes were recorded"
        ) as doubt:
            publisher.append([opt_out(2)])
        assert doubt.value.__suppress_context__
        server.thaw()
        register = place.register()
        assert register.revision.seq <= 2
        assert people_in(register) <= {0, 1, 2}


def test_a_refused_write_leaves_no_doubt_and_no_trace(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    client = redis_place.harm.client
    client.set(CHANGES, "not a stream")
    with pytest.raises(FeedUnavailable, match="refuses the command") as refused:
        publisher.append([opt_out(1)])
    assert "unknown" not in str(refused.value)
    for secret in (number(1), str(KEYS[1])):
        assert secret not in str(refused.value)
    assert client.hget(HEAD, "seq") == b"0"


def test_a_killed_server_keeps_what_was_recorded(start_redis: Start) -> None:
    server = start_redis(*DURABLE)
    with contextlib.ExitStack() as stack, server.client() as client:
        place = Place(server.url, RedisHarm(client), stack)
        place.loaded(0)
        with place.writer(100, 100_000) as process:
            recorded = [int(process.stdout.readline()) for _ in range(50)]
            server.kill()
            recorded += [int(line) for line in process.stdout.read().split()]
        assert process.returncode != 0
        server.start()
        register = place.register()
        assert people_in(register) >= {0, *recorded}
        assert register.revision.seq <= len(recorded) + 1
