"""What is special about writing to Redis: doubt, refusals, and a server that dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from ndoo.errors import FeedUnavailable, SnapshotRefused
from ndoo.feed.feed import HistoryChanged
from ndoo.publish import redis as publishing
from ndoo.publish.fold import first_snapshot
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import CHANGES_PER_STEP_MAX, Unconfirmed
from ndoo.publish.source import Terms
from support.people import KEYS, number, opt_in, opt_out
from support.places import Place, RedisHarm, bitmap, people_in
from support.redis_server import DURABLE, RedisServer

CHANGES, SNAPSHOT, HEAD = "{ndoo}:changes", "{ndoo}:snapshot", "{ndoo}:head"
REQUEST = "{ndoo}:request:"

Start = Callable[..., RedisServer]


def test_entries_are_as_the_contract_says(redis_place: Place) -> None:
    redis_place.loaded(0).append([opt_out(1), opt_in(1)])
    client = redis_place.harm.client
    first, second = (fields for _, fields in client.xrange(CHANGES))
    assert first == {b"seq": b"1", b"op": b"opt_out", b"nhs": number(1).encode()}
    assert second == {b"seq": b"2", b"op": b"opt_in", b"nhs": number(1).encode()}
    assert client.hget(HEAD, "seq") == b"2"


def test_of_a_request_little_is_kept_and_not_for_long(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    generation = redis_place.feed().load().revision.generation
    publisher.append([opt_out(9)])
    publisher.append([opt_out(1), opt_in(1)], request_id="abc")
    client = redis_place.harm.client
    first_id = client.xrange(CHANGES)[1][0].decode()
    assert client.get(REQUEST + "abc/0") == f"{generation} 2 3 2 {first_id}".encode()
    assert 0 < client.ttl(REQUEST + "abc/0") <= 24 * 3600
    assert list(client.scan_iter(REQUEST + "*")) == [(REQUEST + "abc/0").encode()]


def test_when_a_change_was_recorded_comes_from_its_id(redis_place: Place) -> None:
    redis_place.loaded(0).append([opt_out(1)])
    client = redis_place.harm.client
    ((entry_id, _),) = client.xrange(CHANGES)
    entry_ms = int(entry_id.partition(b"-")[0])
    redis_place.harm.append_raw({"seq": "2", "op": "suspend", "recorded": str(entry_ms - 1)})
    redis_place.harm.append_raw({"seq": "3", "op": "suspend", "recorded": str(entry_ms * 2)})
    feed = redis_place.feed()
    snapshot = feed.load()
    own, carried, ahead = feed.read(snapshot.revision, snapshot.position, 0.0).changes
    assert own.recorded_ms == entry_ms
    assert carried.recorded_ms == entry_ms - 1
    assert entry_ms <= ahead.recorded_ms < entry_ms * 2


def test_a_large_request_broken_off_goes_on_where_it_broke(start_redis: Start) -> None:
    server = start_redis(*DURABLE)
    changes = [opt_out(person) for person in range(1, 2 * CHANGES_PER_STEP_MAX + 11)]
    with contextlib.ExitStack() as stack:
        publisher = Place(server.url, None, stack).loaded(0)
        append, steps = publisher._append, []

        def killed_before_the_second(**arguments: object) -> object:
            steps.append(1)
            if len(steps) == 2:
                server.kill()
            return append(**arguments)

        publisher._append = killed_before_the_second
        with pytest.raises(Unconfirmed, match=r"whether 2,000 .* \(the 2,000 before them were\)"):
            publisher.append(changes, request_id="large")
        with pytest.raises(FeedUnavailable, match="Nothing was sent"):
            publisher.append(changes, request_id="large")
        server.start()
        place = Place(server.url, None, stack)
        assert place.register().revision.seq == CHANGES_PER_STEP_MAX
        place.publisher().append([opt_in(0)], request_id="other")
        revision = place.publisher().append(changes, request_id="large")
        register = place.register()
        assert register.revision == revision
        assert register.revision.seq == len(changes) + 1
        assert people_in(register) == set(range(1, len(changes) + 1))


def test_a_right_that_is_missing_is_missed_before_anything_is_written(redis_place: Place) -> None:
    client = redis_place.harm.client
    for denied in ("set", "hincrby", "xadd"):
        client.flushall()
        redis_place.loaded(0)
        client.execute_command("ACL", "SETUSER", "few", "on", ">few", "~*", "+@all", f"-{denied}")
        try:
            url = redis_place.url.replace("//", "//few:few@")
            with (
                contextlib.closing(open_publisher(url)) as publisher,
                pytest.raises(FeedUnavailable) as refused,
            ):
                publisher.append([opt_out(1)], request_id=denied)
            assert "unknown" not in str(refused.value)
            assert client.xlen(CHANGES) == 0
            assert redis_place.publisher().append([opt_out(1)], request_id=denied).seq == 1
        finally:
            client.execute_command("ACL", "DELUSER", "few")


def test_a_change_lost_while_a_load_is_prepared_is_missed(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, other = redis_place.loaded(0), redis_place.publisher()

    def lost_meanwhile(*arguments: object) -> object:
        first = first_snapshot(*arguments)
        other.append([opt_out(1)])
        redis_place.harm.client.xtrim(CHANGES, maxlen=0, approximate=False)
        return first

    monkeypatch.setattr(publishing, "first_snapshot", lost_meanwhile)
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(0))
    assert refused.value.reason == "SOURCE_IN_DOUBT"


def test_a_snapshot_is_not_built_on_one_whose_last_change_is_another_now(
    redis_place: Place,
) -> None:
    publisher = redis_place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    publisher.snapshot()
    redis_place.rewrite_last()
    publisher.append([opt_out(3)])
    with pytest.raises(HistoryChanged) as changed:
        publisher.snapshot()
    assert changed.value.reason == "REWRITTEN"
    assert redis_place.feed().load().revision.seq == 2
    with pytest.raises(SnapshotRefused, match="--accept-jump"):
        publisher.load(bitmap(0, 1, 2, 3, 9))
    publisher.load(bitmap(0, 1, 2, 3, 9), Terms(accept_jump=True))
    assert people_in(redis_place.register()) == {0, 1, 2, 3, 9}


def test_the_last_change_may_have_been_written_in_groups_of_digits(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    old, new = number(1), f"{number(2)[:3]}-{number(2)[3:6]}-{number(2)[6:]}"
    grouped = {"nhs": f"{old[:3]} {old[3:6]} {old[6:]}", "new": new, "at": "", "future": "x"}
    redis_place.harm.append_raw({"seq": "1", "op": "supersede", **grouped})
    assert publisher.snapshot().revision.seq == 1
    redis_place.harm.append_raw({"seq": "2", "op": "suspend", "nhs": "mixed up"})
    assert publisher.snapshot().revision.seq == 2
    publisher.load(bitmap(0))
    assert redis_place.register().suspended


def test_what_lies_ready_for_a_load_that_never_came_goes_away(redis_place: Place) -> None:
    publisher = redis_place.loaded(0)
    publisher.append([opt_out(1)])
    publisher._replace_all = lambda **_: pytest.fail("killed")
    with pytest.raises(pytest.fail.Exception):
        publisher.load(bitmap(0))
    client = redis_place.harm.client
    (staged,) = client.scan_iter(CHANGES + ":*")
    assert 0 < client.ttl(staged) <= 3600
    redis_place.publisher().load(bitmap(0))
    assert client.ttl(CHANGES) == -1
    assert people_in(redis_place.register()) == {0, 1}


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
