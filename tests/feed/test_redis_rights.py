"""The users that the contract tells to set up: each can do its job, and nothing else."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from ndoo.errors import FeedUnavailable, NdooError
from ndoo.feed.url import open_feed
from ndoo.publish.open import open_publisher
from ndoo.publish.source import Terms
from support.people import opt_out
from support.places import bitmap
from support.redis_server import RedisServer

CONTRACT = Path(__file__).parents[2] / "docs" / "redis-contract.md"
LINES = re.findall(r"^ACL SETUSER (\S+) (.*)$", CONTRACT.read_text("utf-8"), re.MULTILINE)
RIGHTS = dict(LINES)


@dataclass
class Guarded:
    """A server with these users and no other, and its administrator."""

    port: int
    admin: redis.Redis

    def url(self, user: str) -> str:
        return f"redis://{user}:PASSWORD@127.0.0.1:{self.port}/0"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = RedisServer(tmp_path_factory.mktemp("guarded"))
    try:
        with contextlib.closing(server.client()) as client:
            if int(client.info("server")["redis_version"].split(".")[0]) < 7:
                pytest.skip("keys that may only be read came with Redis 7")
            client.execute_command(
                "ACL", "SETUSER", "admin", "on", ">PASSWORD", "~*", "&*", "+@all"
            )
            for user, rights in LINES:
                client.execute_command("ACL", "SETUSER", user, *rights.split())
        with redis.Redis(
            port=server.port, username="admin", password="PASSWORD", protocol=2
        ) as admin:
            yield Guarded(server.port, admin)
    finally:
        server.kill()


def read(url: str) -> None:
    with contextlib.closing(open_feed(url)) as feed:
        snapshot = feed.load()
        assert feed.read(snapshot.revision, snapshot.position, 0.01).complete
        list(feed.retained(None))


def record(url: str) -> None:
    with contextlib.closing(open_publisher(url)) as publisher:
        first = publisher.append([opt_out(1)], request_id="one")
        assert publisher.append([opt_out(1)], request_id="one") == first


def load_and_snapshot(url: str) -> None:
    """The first load has no changes to bring along, the second has."""
    with contextlib.closing(open_publisher(url)) as publisher:
        publisher.load(bitmap(0, 1), Terms(accept_jump=True))
        publisher.append([opt_out(2)], request_id="two")
        publisher.snapshot()
        publisher.load(bitmap(0, 1), Terms(accept_jump=True))


JOBS = {"ndoo-reader": read, "ndoo-writer": record, "ndoo-loader": load_and_snapshot}


def prepare(guarded: Guarded) -> None:
    guarded.admin.flushall()
    guarded.admin.script_flush()
    with contextlib.closing(open_publisher(guarded.url("admin"))) as publisher:
        publisher.load(bitmap(0), Terms(accept_jump=True))
    guarded.admin.script_flush()


@pytest.mark.parametrize(("user", "job"), JOBS.items(), ids=JOBS)
def test_a_user_can_do_its_job(guarded: Guarded, user: str, job: Callable[[str], None]) -> None:
    prepare(guarded)
    job(guarded.url(user))
    assert not guarded.admin.execute_command("ACL", "LOG"), "something was tried that was refused"


@pytest.mark.parametrize(
    ("user", "right"),
    [(user, right) for user in JOBS for right in re.findall(r"\+(\S+)", RIGHTS[user])],
)
def test_a_user_has_no_right_to_spare(guarded: Guarded, user: str, right: str) -> None:
    prepare(guarded)
    guarded.admin.execute_command("ACL", "SETUSER", user, f"-{right}")
    try:
        with pytest.raises(NdooError) as refused:
            JOBS[user](guarded.url(user))
    finally:
        guarded.admin.execute_command("ACL", "SETUSER", user, *RIGHTS[user].split())
        guarded.admin.acl_log_reset()
    assert refused.value.reason == "FEED_UNAVAILABLE"


def test_readers_write_nothing_and_writers_do_not_touch_the_snapshot(guarded: Guarded) -> None:
    prepare(guarded)
    for user, command in (
        ("ndoo-reader", ["HSET", "{ndoo}:head", "seq", "1"]),
        ("ndoo-reader", ["HMGET", "{other}:head", "seq"]),
        ("ndoo-writer", ["HMGET", "{ndoo}:snapshot", "header"]),
        ("ndoo-writer", ["DEL", "{ndoo}:changes"]),
        ("ndoo-loader", ["DEL", "{other}:changes"]),
        ("ndoo-loader", ["FLUSHALL"]),
    ):
        with redis.Redis(port=guarded.port, username=user, password="PASSWORD") as client, \
             pytest.raises(redis.exceptions.NoPermissionError):  # fmt: skip
            client.execute_command(*command)
    guarded.admin.acl_log_reset()


def test_nobody_comes_in_without_a_name(guarded: Guarded) -> None:
    with contextlib.closing(open_feed(f"redis://127.0.0.1:{guarded.port}")) as feed, \
         pytest.raises(FeedUnavailable, match="refuses the user or password"):  # fmt: skip
        feed.load()


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (["-xinfo"], r"no right to run xinfo\|stream"),
        (["resetkeys"], "no right to what it is asked"),
    ],
)
def test_the_right_that_is_missing_is_told(guarded: Guarded, lacking: list[str], told: str) -> None:
    prepare(guarded)
    guarded.admin.execute_command("ACL", "SETUSER", "ndoo-reader", *lacking)
    try:
        with pytest.raises(FeedUnavailable, match=told):
            read(guarded.url("ndoo-reader"))
    finally:
        guarded.admin.execute_command(
            "ACL", "SETUSER", "ndoo-reader", *RIGHTS["ndoo-reader"].split()
        )
        guarded.admin.acl_log_reset()


def test_a_password_may_come_from_a_file(guarded: Guarded, tmp_path: Path) -> None:
    prepare(guarded)
    file = tmp_path / "password"
    url = f"redis://ndoo-reader@127.0.0.1:{guarded.port}/0?password_file={file}"
    with contextlib.closing(open_feed(url)) as feed, \
         pytest.raises(FeedUnavailable, match="file of the password"):  # fmt: skip
        feed.load()
    file.write_text("PASSWORD\n")
    read(url)
