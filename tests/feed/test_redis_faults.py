"""A follower over a real Redis to which all that can happen does happen.

Every state it publishes is held to what was recorded: no view that differs from the register at its
revision, no *as_of* that claims a change which the view lacks. Each fault is proven to have struck,
and afterwards the follower comes back by itself, or says that a load is needed and comes back then.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from ndoo.errors import FeedUnavailable
from ndoo.register.replica import Phase
from support.following import Following, Story, Truth, impatient
from support.people import number, opt_in, opt_out
from support.places import Place
from support.proxy import Fault, Proxy
from support.redis_server import DURABLE, RedisServer
from support.scripted import people_seen

CHANGES, HEAD = "{ndoo}:changes", "{ndoo}:head"
LOST_REASONS = {"BACKWARDS", "REWRITTEN", "TRIMMED"}


@dataclass
class Stage:
    """A server, a writer that talks to it, and a follower on the other end of a bad line."""

    server: RedisServer
    proxy: Proxy
    story: Story
    following: Following

    @property
    def truth(self) -> Truth:
        return self.story.truth

    def record(self, *people: int) -> None:
        for person in people:
            self.story.record(opt_out(person))

    def until_seen(self) -> None:
        """Until the follower has all that was recorded, and has had it confirmed."""
        self.following.until_at(self.truth.revision)
        assert people_seen(self.following.until_confirmed()) == self.truth.people

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[redis.Redis]:
        """What is done in here to the server, the follower does not see while it is done."""
        self.proxy.strike(Fault.CUT)
        self.following.until_trouble("cannot be read")
        with self.server.client() as client:
            yield client
        self.proxy.heal()


@pytest.fixture
def raise_stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    with contextlib.ExitStack() as stack:

        def build(*options: str) -> Stage:
            server = RedisServer(tmp_path, *options)
            stack.callback(server.kill)
            proxy = stack.enter_context(contextlib.closing(Proxy(server.port)))
            story = Story(Truth(), Place(server.url, None, stack))
            following = Following(impatient(proxy.url), story.truth.judge)
            stack.enter_context(contextlib.closing(following))
            stage = Stage(server, proxy, story, following)
            stage.story.load(0)
            stage.record(1, 2, 3)
            stage.until_seen()
            return stage

        yield build


@pytest.fixture
def stage(raise_stage: Callable[..., Stage]) -> Stage:
    return raise_stage()


def lost(stage: Stage) -> None:
    """The follower has seen that changes were lost, keeps its register and confirms nothing; a load
    mends it.
    """
    before = stage.following.replica.state
    after = stage.following.until(lambda _: LOST_REASONS & set(stage.following.observer.resyncs))
    assert after.view is before.view
    assert after.as_of == before.as_of
    assert after.phase is not Phase.LIVE
    stage.story.load(0, 1, 2, 3, 50)
    stage.until_seen()


def test_killed_and_started_again_with_its_data(raise_stage: Callable[..., Stage]) -> None:
    stage = raise_stage(*DURABLE)
    for person in range(10, 14):
        stage.server.kill()
        stage.following.until_trouble("cannot be read")
        stage.server.start()
        stage.record(person)
    stage.until_seen()
    assert stage.following.observer.resyncs == []


def test_started_again_empty(stage: Stage) -> None:
    before = stage.following.replica.state
    stage.server.kill()
    stage.server.start()
    after = stage.following.until_trouble("ndoo load")
    assert after.view is before.view
    assert after.as_of <= stage.following.until(lambda _: True).as_of
    stage.story.load(0, 1, 2, 3)
    stage.until_seen()


@pytest.mark.parametrize("later", [0, 1, 3, 5], ids=["none", "fewer", "as many", "more"])
def test_started_again_with_an_older_backup(stage: Stage, later: int) -> None:
    with stage.server.client() as client:
        client.save()
    kept = stage.truth.revision
    stage.record(10, 11, 12)
    stage.until_seen()
    stage.server.kill()
    stage.following.until_trouble("cannot be read")
    stage.server.start()
    stage.truth.lose(kept)
    stage.record(*range(20, 20 + later))
    lost(stage)


@pytest.mark.parametrize("slower", [False, True], ids=["clock right", "clock slow"])
def test_a_replica_with_entries_missing_is_promoted(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, slower: bool
) -> None:
    with contextlib.ExitStack() as stack:
        with stage.server.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        line = stack.enter_context(contextlib.closing(Proxy(stage.server.port)))
        of = ("--replicaof", f"127.0.0.1 {line.port}")
        promoted = RedisServer(tmp_path_factory.mktemp("replica"), *of)
        stack.callback(promoted.kill)
        stage.server.replicate()
        kept = stage.truth.revision
        line.strike(Fault.STALL)
        stage.record(10, 11, 12)
        stage.until_seen()
        stage.server.kill()
        client = stack.enter_context(promoted.client())
        client.execute_command("REPLICAOF", "NO", "ONE")
        stage.truth.lose(kept)
        stage.story = Story(stage.truth, Place(promoted.url, None, stack))
        _record_others(stage, client, slower=slower)
        stage.proxy.target = promoted.port
        lost(stage)


def _record_others(stage: Stage, client: redis.Redis, *, slower: bool) -> None:
    """Under the numbers of the lost ones and beyond; by a slow clock with ids before theirs."""
    if not slower:
        stage.record(*range(20, 25))
        return
    ((last_id, _),) = client.xrevrange(CHANGES, count=1)
    milliseconds, serial = map(int, last_id.split(b"-"))
    for step, person in enumerate(range(20, 25), 1):
        stage.truth.expect(opt_out(person))
        fields = {"seq": stage.truth.revision.seq, "op": "opt_out", "nhs": number(person)}
        client.xadd(CHANGES, fields, id=f"{milliseconds}-{serial + step}")
        client.hincrby(HEAD, "seq", 1)


def test_a_server_that_hangs_and_goes_on(stage: Stage) -> None:
    stage.server.freeze()
    before = stage.following.until_trouble("in time")
    stage.server.thaw()
    assert stage.following.until_confirmed().as_of > before.as_of
    stage.record(10)
    stage.until_seen()
    assert stage.following.observer.resyncs == []


def test_connections_killed_and_answers_held_back(stage: Stage) -> None:
    with stage.server.client() as client:
        for person in range(10, 30):
            assert client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
            stage.story.record_somehow(opt_out(person))
        stage.until_seen()
        client.execute_command("CLIENT", "PAUSE", 700, "ALL")  # for longer than they are waited for
        stage.following.until_trouble("in time")
    stage.until_seen()
    assert stage.following.observer.resyncs == []


def test_trimmed_past_the_reader(stage: Stage) -> None:
    with stage.cut_off() as client:
        stage.record(10, 11, 12)
        stage.story.publisher.snapshot()
        stage.record(13)
        stage.story.publisher.snapshot()
        assert len(client.xrange(CHANGES)) == 2
    stage.until_seen()
    assert "TRIMMED" in stage.following.observer.resyncs


@pytest.mark.parametrize(
    "harm", ["deleted", "recreated", "entry deleted", "id moved back", "emptied"]
)
def test_the_stream_is_harmed(stage: Stage, harm: str) -> None:
    with stage.cut_off() as client:
        stage.record(10, 11, 12)
        ids = [entry_id for entry_id, _ in client.xrange(CHANGES)]
        match harm:
            case "deleted":
                client.delete(CHANGES)
            case "recreated":
                client.delete(CHANGES)
                client.xadd(CHANGES, {"seq": 7, "op": "opt_out", "nhs": number(13)})
            case "entry deleted":
                client.xdel(CHANGES, ids[3])
            case "id moved back":
                client.xdel(CHANGES, *ids[2:])
                client.execute_command("XSETID", CHANGES, ids[1])
            case "emptied":
                client.xtrim(CHANGES, maxlen=0, approximate=False)
    before = stage.following.replica.state
    stage.following.until(lambda _: stage.following.observer.resyncs)
    after = stage.following.replica.state
    assert after.view is before.view
    assert after.as_of == before.as_of
    stage.story.load(0, 1, 2, 3, 10, 11, 12)
    stage.until_seen()


def test_the_last_id_moved_ahead_confirms_nothing(stage: Stage) -> None:
    with stage.cut_off() as client:
        client.execute_command("XSETID", CHANGES, "99999999999999-0")
    stage.following.until(lambda _: "TRIMMED" in stage.following.observer.resyncs)
    with stage.server.client() as client:
        ((last_id, _),) = client.xrevrange(CHANGES, count=1)
        client.execute_command("XSETID", CHANGES, last_id)
    stage.until_seen()


def test_a_server_without_replicas_takes_no_changes_and_is_read(stage: Stage) -> None:
    with stage.server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(FeedUnavailable, match="too few replicas"):
            stage.story.publisher.append([opt_out(60)])
        stage.following.until_confirmed()
        client.config_set("min-replicas-to-write", 0)
    stage.record(10)
    stage.until_seen()


def test_a_server_whose_memory_is_full_confirms_nothing(stage: Stage) -> None:
    with stage.server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(FeedUnavailable, match="its memory is full"):
            stage.story.publisher.append([opt_out(60)])
        stage.following.until_trouble("its memory is full")  # as it queues no transaction
        client.config_set("maxmemory", 0)
    stage.record(10)
    stage.until_seen()
    assert stage.following.observer.resyncs == []


@pytest.fixture
def seed() -> int:
    """Shown with a failure, as every fixture that a test takes."""
    return random.randrange(2**32)


def test_every_line_fault_under_load(stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    for fault in [*Fault] * 2:
        before = stage.proxy.struck[fault]
        after = rng.choice([0, rng.randrange(300), rng.randrange(3000)])
        stage.proxy.strike(fault, way=rng.choice(["up", "down"]), after=after)
        while stage.proxy.struck[fault] == before:
            person = rng.randrange(80)
            stage.story.record(rng.choice([opt_out, opt_out, opt_in])(person))
        if fault is not Fault.CHOPPED:
            stage.following.until(lambda state: state.phase is not Phase.LIVE)
        stage.story.record(opt_out(rng.randrange(80)))
        stage.proxy.heal()
        stage.until_seen()
    assert all(stage.proxy.struck[fault] >= 2 for fault in Fault)
    assert stage.following.observer.resyncs == []


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_cut_after_any_byte_tells_nothing_or_the_truth(stage: Stage, way: str) -> None:
    stage.following.close()
    cut_bytes = 0
    for after in range(0, 10_000, 5):
        struck = stage.proxy.struck[Fault.CUT]
        stage.proxy.strike(Fault.CUT, way=way, after=after)
        with contextlib.closing(impatient(stage.proxy.url)) as feed:
            try:
                snapshot = feed.load()
                batch = feed.read(snapshot.revision, snapshot.position, 0.0)
            except FeedUnavailable:
                assert stage.proxy.struck[Fault.CUT] > struck
                cut_bytes = after
                stage.proxy.heal()
                continue
        assert stage.proxy.struck[Fault.CUT] == struck
        assert [change.seq for change in batch.changes] == [1, 2, 3]
        assert batch.complete
        break
    assert cut_bytes > 200, "the line was never cut in the midst of things"
    stage.proxy.heal()


def test_150_000_changes_at_once_reach_all_without_a_resynchronisation(
    redis_place: Place,
) -> None:
    publisher = redis_place.loaded(0)
    with contextlib.ExitStack() as stack:
        all_of_them = [Following(redis_place.feed()) for _ in range(3)]
        for each in all_of_them:
            stack.enter_context(contextlib.closing(each))
            each.until_confirmed()
        revision = publisher.append([opt_out(1 + n % 90) for n in range(150_000)])
        for each in all_of_them:
            assert people_seen(each.until_at(revision)) == set(range(91))
            assert each.observer.resyncs == []
            assert sum(each.observer.changes.values()) == 150_000
