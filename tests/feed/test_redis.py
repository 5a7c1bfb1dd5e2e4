"""What is special about reading from Redis: a real server, and everything that can befall it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable

import pytest
import redis

from ndoo.errors import ChangeRefused, FeedUnavailable, SequenceBroken, SnapshotRefused
from ndoo.feed.feed import Batch, HistoryChanged
from ndoo.feed.redis import START, RedisFeed
from ndoo.feed.url import RedisUrl, open_feed, parse
from ndoo.publish.source import Terms
from ndoo.register.register import Register
from ndoo.revision import Revision
from support.people import KEYS, number, opt_out
from support.places import Place
from support.redis_server import RedisServer

CHANGES, SNAPSHOT, HEAD = "{ndoo}:changes", "{ndoo}:snapshot", "{ndoo}:head"
PATIENCE_S = 60

Start = Callable[..., RedisServer]


@pytest.fixture
def client(redis_place: Place) -> redis.Redis:
    return redis_place.harm.client


def ids(client: redis.Redis) -> list[str]:
    return [entry_id.decode() for entry_id, _ in client.xrange(CHANGES)]


class Late:
    """A reader who stopped at change 3 of 6."""

    def __init__(self, place: Place, read: int = 3) -> None:
        publisher = place.loaded(0)
        publisher.append([opt_out(person) for person in range(1, 7)])
        self.feed = place.feed()
        self.ids = ids(place.harm.client)
        snapshot = self.feed.load()
        self.register = Register(snapshot)
        batch = self.feed.read(snapshot.revision, START, 0.0)
        self.register.apply(batch.changes[:read])
        self.position = self.ids[read - 1]

    def read(self) -> Batch:
        batch = self.feed.read(self.register.revision, self.position, 0.0)
        self.register.apply(batch.changes)
        self.position = batch.position
        return batch


@pytest.fixture
def late(redis_place: Place) -> Late:
    return Late(redis_place)


def test_a_quiet_stream_outlasts_every_timeout(redis_place: Place) -> None:
    redis_place.loaded(0)
    url = parse(redis_place.url)
    assert isinstance(url, RedisUrl)
    with contextlib.closing(RedisFeed(url, wait_s_max=0.2, answer_s_max=0.1)) as feed:
        revision = feed.load().revision
        # The server is asked to wait for longer than answers may take, and is not taken for dead.
        assert feed.read(revision, START, PATIENCE_S) == Batch((), START, complete=True)


@pytest.mark.parametrize("minimum", [1, 2])
def test_trimming_up_to_the_own_entry_is_no_loss(
    late: Late, client: redis.Redis, minimum: int
) -> None:
    client.xtrim(CHANGES, minid=late.ids[minimum], approximate=False)
    batch = late.read()
    assert ([change.seq for change in batch.changes], batch.complete) == ([4, 5, 6], True)


@pytest.mark.parametrize("minimum", [3, 4, 5])
def test_with_the_own_entry_trimmed_nothing_proves_what_follows(
    late: Late, client: redis.Redis, minimum: int
) -> None:
    client.xtrim(CHANGES, minid=late.ids[minimum], approximate=False)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "TRIMMED"


def test_trimming_to_nothing_is_a_loss_only_for_who_was_behind(
    redis_place: Place, late: Late, client: redis.Redis
) -> None:
    client.xtrim(CHANGES, maxlen=0, approximate=False)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "TRIMMED"


def test_who_has_everything_needs_no_entry(redis_place: Place, client: redis.Redis) -> None:
    in_time = Late(redis_place, read=6)
    client.xtrim(CHANGES, maxlen=0, approximate=False)
    assert in_time.read() == Batch((), in_time.position, complete=True)


def test_a_loss_is_noticed_even_if_the_head_says_nothing(late: Late, client: redis.Redis) -> None:
    client.xtrim(CHANGES, maxlen=0, approximate=False)
    client.hset(HEAD, "seq", 3)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "TRIMMED"


@pytest.mark.parametrize("deleted", [3, 4])
def test_an_entry_deleted_ahead_is_a_gap(late: Late, client: redis.Redis, deleted: int) -> None:
    client.xdel(CHANGES, late.ids[deleted])
    with pytest.raises(SequenceBroken) as broken:
        late.read()
    assert broken.value.reason == "GAP"


def test_with_the_last_entry_deleted_nothing_is_ever_complete(
    late: Late, client: redis.Redis
) -> None:
    client.xdel(CHANGES, late.ids[5])
    client.hset(HEAD, "seq", 5)
    assert not late.read().complete
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "TRIMMED"


def test_the_own_entry_deleted_means_rewritten(late: Late, client: redis.Redis) -> None:
    client.xdel(CHANGES, late.ids[2])
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "REWRITTEN"


@pytest.mark.parametrize("fields", [{"seq": "4"}, {"seq": "x"}, {"op": "opt_out"}])
def test_the_own_entry_changed_means_rewritten(
    late: Late, client: redis.Redis, fields: dict[str, str]
) -> None:
    client.delete(CHANGES)
    client.xadd(CHANGES, fields, id=late.position)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "REWRITTEN"


def test_a_deleted_stream_went_back(late: Late, client: redis.Redis) -> None:
    client.delete(CHANGES)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "BACKWARDS"


@pytest.mark.parametrize("seq", [4, 5])
def test_a_stream_made_anew_proves_nothing(late: Late, client: redis.Redis, seq: int) -> None:
    client.delete(CHANGES)
    client.xadd(CHANGES, {"seq": str(seq), "op": "opt_out", "nhs": number(5)})
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "TRIMMED"


def test_a_promoted_server_with_a_slower_clock_went_back(late: Late, client: redis.Redis) -> None:
    milliseconds = int(late.ids[0].split("-")[0]) - 1000
    client.delete(CHANGES)
    for seq in range(1, 5):
        fields = {"seq": seq, "op": "opt_out", "nhs": number(seq)}
        client.xadd(CHANGES, fields, id=f"{milliseconds}-{seq}")
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "BACKWARDS"


def test_a_head_that_lags_behind_the_stream_is_tolerated(late: Late, client: redis.Redis) -> None:
    client.hset(HEAD, "seq", 2)
    assert late.read().complete
    assert late.read() == Batch((), late.ids[5], complete=True)


def test_a_head_that_is_ahead_of_the_stream_is_not_complete(
    late: Late, client: redis.Redis
) -> None:
    client.hset(HEAD, "seq", 7)
    assert not late.read().complete
    with pytest.raises(HistoryChanged):
        late.read()


def test_without_a_head_it_is_another_history(late: Late, client: redis.Redis) -> None:
    client.delete(HEAD)
    with pytest.raises(HistoryChanged) as changed:
        late.read()
    assert changed.value.reason == "OTHER_GENERATION"
    with pytest.raises(SnapshotRefused) as refused:
        late.feed.load()
    assert refused.value.reason == "SNAPSHOT_GENERATION"


def test_a_head_without_a_number_confirms_nothing(late: Late, client: redis.Redis) -> None:
    client.hdel(HEAD, "seq")
    with pytest.raises(FeedUnavailable, match="'seq'"):
        late.read()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("register", None, "SNAPSHOT_DIGEST"),
        ("register", b"damaged", "SNAPSHOT_DIGEST"),
        ("header", None, "SNAPSHOT_HEADER"),
        ("header", b"{", "SNAPSHOT_HEADER"),
        ("links", b"12345678", "SNAPSHOT_DIGEST"),
    ],
)
def test_a_half_written_snapshot_is_refused(
    late: Late, client: redis.Redis, field: str, value: bytes | None, reason: str
) -> None:
    if value is None:
        client.hdel(SNAPSHOT, field)
    else:
        client.hset(SNAPSHOT, field, value)
    with pytest.raises(SnapshotRefused) as refused:
        late.feed.load()
    assert refused.value.reason == reason


@pytest.mark.parametrize("stream_id", ["0", "$", "12", "1-2-3", "a-b", f"{2**64}-0", "-1-0"])
def test_a_position_that_is_no_entry_id_is_refused(
    late: Late, client: redis.Redis, stream_id: str
) -> None:
    header = json.loads(client.hget(SNAPSHOT, "header")) | {"stream_id": stream_id}
    del header["header_sha256"]  # which other writers may leave out
    client.hset(SNAPSHOT, "header", json.dumps(header))
    with pytest.raises(SnapshotRefused) as refused:
        late.feed.load()
    assert refused.value.reason == "SNAPSHOT_POSITION"


def test_an_entry_that_is_not_text_is_waited_for(late: Late, client: redis.Redis) -> None:
    client.xadd(CHANGES, {"seq": "7", "op": "opt_out", "nhs": b"\xff" + number(7).encode()})
    client.hset(HEAD, "seq", 7)
    assert not late.read().complete
    with pytest.raises(ChangeRefused, match="UTF-8"):
        late.read()


def test_an_entry_with_a_field_twice_is_waited_for(late: Late, client: redis.Redis) -> None:
    fields = ["seq", "7", "op", "opt_out", "nhs", number(7), "nhs", number(8)]
    client.execute_command("XADD", CHANGES, "*", *fields)
    late.read()
    with pytest.raises(ChangeRefused, match="twice"):
        late.read()


def test_a_register_of_full_size_is_carried(redis_place: Place) -> None:
    publisher = redis_place.publisher()
    keys = type(redis_place.loaded(0).snapshot().keys)(range(0, 999_999_999, 277))
    publisher.load(keys, Terms(accept_jump=True))
    assert redis_place.feed().load().keys == keys


def test_other_prefixes_are_other_feeds(redis_place: Place) -> None:
    redis_place.loaded(0)
    with contextlib.closing(open_feed(redis_place.url, "other")) as other, \
         pytest.raises(Exception, match="holds no register"):  # fmt: skip
        other.load()


def test_a_read_blocked_in_the_server_ends_with_close(
    redis_place: Place, client: redis.Redis
) -> None:
    redis_place.loaded(0)
    url = parse(redis_place.url)
    assert isinstance(url, RedisUrl)
    feed = RedisFeed(url, wait_s_max=PATIENCE_S)
    revision, outcome = feed.load().revision, []

    def read() -> None:
        try:
            outcome.append(feed.read(revision, START, PATIENCE_S))
        except FeedUnavailable as error:
            outcome.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while not client.info("clients")["blocked_clients"]:
        assert thread.is_alive()
    feed.close()
    thread.join(PATIENCE_S / 2)
    assert outcome == ["The feed is closed."]


def test_a_server_that_is_away_is_unavailable_and_comes_back(start_redis: Start) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    with contextlib.closing(open_feed(server.url)) as feed:
        place = Place(server.url, None, contextlib.ExitStack())
        place.loaded(0).append([opt_out(1)])
        snapshot = feed.load()
        batch = feed.read(snapshot.revision, snapshot.position, 0.0)
        here = Revision(snapshot.revision.generation, 1)
        server.kill()
        for _ in range(2):
            with pytest.raises(FeedUnavailable, match="cannot be read"):
                feed.read(here, batch.position, 0.1)
        server.start()
        assert feed.read(here, batch.position, 0.0).complete


def test_a_server_that_hangs_is_unavailable(start_redis: Start) -> None:
    server = start_redis()
    url = parse(server.url)
    assert isinstance(url, RedisUrl)
    with contextlib.ExitStack() as stack:
        Place(server.url, None, stack).loaded(0)
        feed = RedisFeed(url, wait_s_max=0.05, answer_s_max=0.05)
        stack.callback(feed.close)
        revision = feed.load().revision
        server.freeze()
        with pytest.raises(FeedUnavailable, match="in time"):
            feed.read(revision, START, 0.05)
        server.thaw()
        # The answers that came too late are not taken for those to the next question.
        assert feed.read(revision, START, 0.0) == Batch((), START, complete=True)


def test_what_is_wrong_is_told_without_secrets(redis_place: Place, client: redis.Redis) -> None:
    url = redis_place.url.replace("//", "//nobody:secret@")
    client.set(HEAD, number(0))
    with (
        contextlib.closing(open_feed(url)) as stranger,
        contextlib.closing(open_feed(redis_place.url)) as feed,
        contextlib.closing(open_feed("redis://127.0.0.1:1")) as nowhere,
    ):
        for reader, match in (
            (stranger, "refuses the user or password"),
            (feed, "WRONGTYPE"),
            (nowhere, "cannot be read"),
        ):
            with pytest.raises(FeedUnavailable, match=match) as refused:
                reader.load()
            assert refused.value.__cause__ is None
            assert refused.value.__suppress_context__
            for secret in ("secret", "nobody", number(0), str(KEYS[0])):
                assert secret not in str(refused.value)
