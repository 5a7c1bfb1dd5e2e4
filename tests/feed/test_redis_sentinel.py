"""Redis behind Sentinels: only the master that most of them name is believed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from ndoo.errors import FeedUnavailable
from ndoo.feed.redis import START, RedisFeed
from ndoo.feed.url import RedisUrl, open_feed, parse
from support.following import Following, Story, Truth, impatient, wait_for
from support.people import opt_in, opt_out
from support.places import Place
from support.proxy import Proxy
from support.redis_server import RedisServer, Sentinel


@dataclass
class Watched:
    """A master with a replica, and three Sentinels that watch them."""

    master: RedisServer
    replica: RedisServer
    sentinels: list[Sentinel]

    @property
    def url(self) -> str:
        addresses = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{addresses}/{Sentinel.NAME}/0"

    def promote_unknown_to_the_master(self) -> None:
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def name(self, server: RedisServer, *sentinels: Sentinel) -> None:
        """Let *sentinels* call *server* the master."""
        for each in sentinels:
            with each.client() as client:
                client.execute_command("SENTINEL", "REMOVE", Sentinel.NAME)
                client.execute_command(
                    "SENTINEL", "MONITOR", Sentinel.NAME, "127.0.0.1", server.port, 2
                )


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:

        def directory(name: str) -> Path:
            path = tmp_path / name
            path.mkdir()
            return path

        def kept(server: RedisServer) -> RedisServer:
            stack.callback(server.kill)
            return server

        soon = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        master = kept(RedisServer(directory("master"), *soon))
        replica = kept(
            RedisServer(directory("replica"), *soon, "--replicaof", f"127.0.0.1 {master.port}")
        )
        master.replicate()
        sentinels = [kept(Sentinel(directory(f"s{n}"), master.port, 2)) for n in range(3)]
        yield Watched(master, replica, sentinels)


def feed_of(url: str, clock: Callable[[], float]) -> contextlib.closing[RedisFeed]:
    place = parse(url)
    assert isinstance(place, RedisUrl)
    return contextlib.closing(RedisFeed(place, clock=clock))


def test_most_of_the_sentinels_decide_whom_to_believe(watched: Watched) -> None:
    now = [0.0]
    with contextlib.ExitStack() as stack:
        Place(watched.url, None, stack).loaded(0)
        feed = stack.enter_context(feed_of(watched.url, lambda: now[0]))
        revision = feed.load().revision
        watched.promote_unknown_to_the_master()
        watched.name(watched.replica, watched.sentinels[0])
        now[0] += 1.0
        assert feed.read(revision, START, 0.0).complete, "one of three decided"
        watched.name(watched.replica, watched.sentinels[1])
        assert feed.read(revision, START, 0.0).complete, "asked before its time"
        now[0] += 1.0
        with pytest.raises(FeedUnavailable, match="another server has become the master"):
            feed.read(revision, START, 0.0)
        with redis.Redis(port=watched.replica.port) as promoted:
            promoted.hset("{ndoo}:head", "generation", "from the promoted")
        with pytest.raises(Exception, match="another history"):
            feed.read(revision, START, 0.0)


def test_without_most_of_the_sentinels_changes_come_and_nothing_is_confirmed(
    watched: Watched,
) -> None:
    truth = Truth()
    with contextlib.ExitStack() as stack:
        story = Story(truth, Place(watched.master.url, None, stack))
        story.load(0)
        following = stack.enter_context(
            contextlib.closing(Following(impatient(watched.url), truth.judge))
        )
        following.until_at(story.record(opt_out(1)))
        for each in watched.sentinels[:2]:
            each.kill()
        before = following.until_trouble("1 of its 3 Sentinels answered, where 2 have to agree")
        revision = story.record(opt_out(2))
        after = following.until(lambda state: state.view.revision == revision)
        assert after.as_of == before.as_of, "confirmed by a server that may have been replaced"
        for each in watched.sentinels[:2]:
            each.start()
        following.until_confirmed()


def test_a_failover_is_followed_under_load(watched: Watched) -> None:
    truth = Truth()
    with contextlib.ExitStack() as stack:
        story = Story(truth, Place(watched.url, None, stack))
        story.load(0)
        following = stack.enter_context(
            contextlib.closing(Following(impatient(watched.url), truth.judge))
        )
        for person in range(1, 40):
            story.record(opt_out(person))
        _until_ready_to_fail_over(watched)
        watched.master.kill()
        revision = story.record_somehow(opt_in(0))
        following.until_trouble("cannot be read")
        assert 0 not in truth.people
        following.until_at(revision)
        for person in range(40, 60):
            revision = story.record(opt_out(person))
        following.until_at(revision)
        with contextlib.closing(impatient(watched.replica.url)) as promoted:
            assert promoted.load().revision.generation == revision.generation
        assert following.observer.resyncs == []


def _until_ready_to_fail_over(watched: Watched) -> None:
    """The replica has everything, and each Sentinel knows of the others and of the replica."""
    watched.master.replicate()
    for each in watched.sentinels:
        with each.client() as client:
            wait_for(
                lambda client=client: (
                    (state := client.sentinel_master(Sentinel.NAME))["num-other-sentinels"] == 2
                    and state["num-slaves"] == 1
                )
            )


def test_what_is_wrong_with_the_sentinels_is_told(watched: Watched) -> None:
    ports = [each.port for each in watched.sentinels]
    cases = {
        f"redis+sentinel://127.0.0.1:{ports[0]}/other": "know no master named 'other'",
        f"redis+sentinel://127.0.0.1:1,127.0.0.1:{ports[0]}/register": "1 of its 2 Sentinels",
        f"redis+sentinel://127.0.0.1:{watched.master.port}/register": r"the command \(ERR\)",
    }
    for url, words in cases.items():
        with contextlib.closing(open_feed(url)) as feed, \
             pytest.raises(FeedUnavailable, match=words):  # fmt: skip
            feed.load()
    watched.name(watched.replica, watched.sentinels[0])
    two = f"redis+sentinel://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/register"
    with contextlib.closing(open_feed(two)) as feed, \
         pytest.raises(FeedUnavailable, match="do not agree"):  # fmt: skip
        feed.load()


def test_a_replica_is_not_believed(watched: Watched) -> None:
    with contextlib.ExitStack() as stack:
        Place(watched.master.url, None, stack).loaded(0)
        feed = stack.enter_context(contextlib.closing(open_feed(watched.replica.url)))
        with pytest.raises(FeedUnavailable, match="it is a replica"):
            feed.load()
        publisher = Place(watched.replica.url, None, stack).publisher()
        with watched.master.client() as client:  # what has not reached the replica is not there
            assert client.wait(1, 60_000) == 1
        with pytest.raises(FeedUnavailable, match="it is a replica, which cannot be written"):
            publisher.append([opt_out(1)])
        own = stack.enter_context(contextlib.closing(open_feed(watched.master.url)))
        revision = own.load().revision
        watched.promote_unknown_to_the_master()
        with watched.master.client() as client:  # as an administrator does, and no Sentinel
            client.execute_command("REPLICAOF", "127.0.0.1", watched.replica.port)
        with pytest.raises(FeedUnavailable, match="it is a replica"):
            own.read(revision, START, 0.0)


def test_an_address_that_leads_to_another_server_now_is_gone_to_again(watched: Watched) -> None:
    with contextlib.ExitStack() as stack:
        Place(watched.master.url, None, stack).loaded(0)
        line = stack.enter_context(contextlib.closing(Proxy(watched.master.port)))
        feed = stack.enter_context(contextlib.closing(open_feed(line.url)))
        revision = feed.load().revision
        watched.master.replicate()
        watched.promote_unknown_to_the_master()
        with watched.master.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", watched.replica.port)
        line.target = watched.replica.port
        with pytest.raises(FeedUnavailable, match="it is a replica"):
            feed.read(revision, START, 0.0)
        assert feed.read(revision, START, 0.0).complete
