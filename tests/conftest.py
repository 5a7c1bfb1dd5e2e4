"""A real Redis server for the whole run, and feeds of both kinds that are empty for each test."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.places import DirectoryHarm, Place, RedisHarm
from support.redis_server import RedisServer

# What a shell starts in the background ignores Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Shared by all tests: leave it running."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Servers of the test's own, to kill, freeze and start again."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path, *options)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture
def redis_place(redis_server: RedisServer) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(redis_server.client())
        client.flushall()
        yield Place(redis_server.url, RedisHarm(client), stack)


@pytest.fixture
def directory_place(tmp_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(f"dir:{tmp_path}/feed", DirectoryHarm(tmp_path / "feed"), stack)


@pytest.fixture(params=["redis_place", "directory_place"])
def place(request: pytest.FixtureRequest) -> Place:
    """One feed of each kind: what holds for one holds for the other."""
    return request.getfixturevalue(request.param)
