"""A Redis cluster: all keys lie in one slot, whose master is found and read like any server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from ndoo.errors import FeedUnavailable
from ndoo.feed.url import open_feed
from support.following import Following, Story, Truth, impatient, wait_for
from support.people import opt_out
from support.places import Place
from support.redis_server import RedisServer

SLOTS = range(16_384)
OURS = key_slot(b"{ndoo}")
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
SOON = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Two masters, of which the second serves the slot of the keys, and a node without any. A
    cluster takes seconds to begin, so that each test begins with what the one before it left.
    """
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(3):
            nodes.append(RedisServer(tmp_path_factory.mktemp("node"), *OPTIONS, *SOON))
            stack.callback(nodes[-1].kill)
        run(nodes[0], "CLUSTER", "ADDSLOTS", *(slot for slot in SLOTS if slot != OURS))
        run(nodes[1], "CLUSTER", "ADDSLOTS", OURS)
        for number, node in enumerate(nodes, 1):
            run(node, "CLUSTER", "SET-CONFIG-EPOCH", number)
            run(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in nodes:
            wait_for(lambda node=node: b"cluster_state:ok" in run(node, "CLUSTER", "INFO"))
            wait_for(lambda node=node: b"cluster_known_nodes:3" in run(node, "CLUSTER", "INFO"))
        yield nodes


def run(node: RedisServer, *command: object) -> bytes:
    with node.client() as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def serving(nodes: list[RedisServer]) -> RedisServer:
    for node in nodes:
        lines = run(node, "CLUSTER", "NODES").decode().splitlines()
        (own,) = [line.split() for line in lines if "myself" in line]
        bounds = [slots.split("-") for slots in own[8:] if slots[0] != "["]
        if any(int(each[0]) <= OURS <= int(each[-1]) for each in bounds):
            return node
    raise AssertionError("nobody serves the slot")


def url_of(*nodes: RedisServer) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def test_a_slot_that_nobody_serves_is_told(nodes: list[RedisServer]) -> None:
    node = serving(nodes)
    run(node, "CLUSTER", "DELSLOTS", OURS)
    for url, words in (
        (url_of(node), "none of its nodes serves the slot of the keys"),
        (node.url, "its cluster does not serve the slot of the keys"),
    ):
        with contextlib.closing(open_feed(url)) as feed, \
             pytest.raises(FeedUnavailable, match=words):  # fmt: skip
            feed.load()
    run(node, "CLUSTER", "ADDSLOTS", OURS)
    wait_for(lambda: b"cluster_state:ok" in run(node, "CLUSTER", "INFO"))


def test_a_cluster_and_a_server_are_told_apart(
    nodes: list[RedisServer], redis_server: RedisServer
) -> None:
    for url, words in (
        (nodes[0].url, r"redis\+cluster:// finds it"),
        (url_of(redis_server), "it is not a cluster"),
        ("redis+cluster://127.0.0.1:1", "one of them: there is no connection"),
    ):
        with contextlib.closing(open_feed(url)) as feed, \
             pytest.raises(FeedUnavailable, match=words):  # fmt: skip
            feed.load()


def test_the_master_of_the_slot_is_found_and_followed(nodes: list[RedisServer]) -> None:
    first, second, third = nodes
    assert serving(nodes) is second
    run(third, "CLUSTER", "REPLICATE", run(second, "CLUSTER", "MYID"))
    truth = Truth()
    with contextlib.ExitStack() as stack:
        story = Story(truth, Place(url_of(first, third), None, stack))
        story.load(0)
        feed = impatient(url_of(first, second, third))
        following = stack.enter_context(contextlib.closing(Following(feed, truth.judge)))
        following.until_at(story.record(opt_out(1)))
        wait_for(lambda: b"master_link_status:up" in run(third, "INFO", "replication"))
        second.replicate()
        run(third, "CLUSTER", "FAILOVER", "TAKEOVER")
        following.until_at(story.record_somehow(opt_out(2)))
        assert following.observer.resyncs == []
        assert serving(nodes) is third


def test_while_the_slot_is_moved_nothing_is_read(nodes: list[RedisServer]) -> None:
    first, second = nodes[0], serving(nodes)
    with contextlib.ExitStack() as stack:
        Place(url_of(second), None, stack).loaded(0)
        feed = stack.enter_context(contextlib.closing(open_feed(url_of(first, second))))
        snapshot = feed.load()
        ids = [run(each, "CLUSTER", "MYID").decode() for each in (first, second)]
        run(first, "CLUSTER", "SETSLOT", OURS, "IMPORTING", ids[1])
        run(second, "CLUSTER", "SETSLOT", OURS, "MIGRATING", ids[0])
        run(second, "MIGRATE", "127.0.0.1", first.port, "{ndoo}:head", 0, 5000)
        with pytest.raises(FeedUnavailable, match="is being moved"):
            feed.read(snapshot.revision, snapshot.position, 0.0)
        for key in run(second, "CLUSTER", "GETKEYSINSLOT", OURS, 100):
            run(second, "MIGRATE", "127.0.0.1", first.port, key, 0, 5000)
        for node in (second, first):
            run(node, "CLUSTER", "SETSLOT", OURS, "NODE", ids[0])
        following = stack.enter_context(contextlib.closing(Following(impatient(feed.name))))
        following.until_confirmed()
        assert serving(nodes) is first
