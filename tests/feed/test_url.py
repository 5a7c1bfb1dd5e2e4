from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ndoo.errors import InputError
from ndoo.feed.directory import DirectoryFeed
from ndoo.feed.redis import Keys, RedisFeed
from ndoo.feed.url import (
    Address,
    DirectoryUrl,
    Login,
    RedisUrl,
    Shape,
    Tls,
    open_feed,
    parse,
)
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.open import open_publisher
from ndoo.publish.redis import RedisPublisher

CACHE = (Address("cache", 6379),)
FILES = "ca=/ca.pem&cert=/own.pem&key=/own.key"
URLS = [
    ("redis://cache", RedisUrl(CACHE), "redis://cache:6379/0"),
    ("redis://cache:7000/3", RedisUrl((Address("cache", 7000),), database=3), None),
    ("redis://cache:7000/", RedisUrl((Address("cache", 7000),)), "redis://cache:7000/0"),
    ("redis://[::1]:7000", RedisUrl((Address("::1", 7000),)), "redis://[::1]:7000/0"),
    ("rediss://cache/1", RedisUrl(CACHE, database=1, tls=Tls()), "rediss://cache:6379/1"),
    (
        f"rediss://cache?{FILES}",
        RedisUrl(CACHE, tls=Tls("/ca.pem", "/own.pem", "/own.key")),
        "rediss://cache:6379/0",
    ),
    (
        "redis://reader:p%40ss@cache",
        RedisUrl(CACHE, login=Login("reader", "p@ss")),
        "redis://cache:6379/0",
    ),
    ("redis://:p%2Fs@s@cache", RedisUrl(CACHE, login=Login(None, "p/s@s")), "redis://cache:6379/0"),
    (
        "redis://reader@cache?password_file=/run/p%20w",
        RedisUrl(CACHE, login=Login("reader", None, "/run/p w")),
        "redis://cache:6379/0",
    ),
    (
        "redis+sentinel://one,two:7000,[::1]/register",
        RedisUrl(
            (Address("one", 26379), Address("two", 7000), Address("::1", 26379)),
            Shape.SENTINEL,
            "register",
        ),
        "redis+sentinel://one:26379,two:7000,[::1]:26379/register/0",
    ),
    (
        "rediss+sentinel://u:p@one/register/2?ca=/ca.pem&sentinel_user=s&sentinel_password_file=/s",
        RedisUrl(
            (Address("one", 26379),),
            Shape.SENTINEL,
            "register",
            2,
            Login("u", "p"),
            Login("s", None, "/s"),
            Tls("/ca.pem"),
        ),
        "rediss+sentinel://one:26379/register/2",
    ),
    (
        "redis+cluster://one,two:7000,one:6379/",
        RedisUrl((Address("one", 6379), Address("two", 7000)), Shape.CLUSTER),
        "redis+cluster://one:6379,two:7000",
    ),
    ("rediss+cluster://cache", RedisUrl(CACHE, Shape.CLUSTER, tls=Tls()), None),
    ("dir:/var/lib/ndoo", DirectoryUrl(Path("/var/lib/ndoo")), "dir:/var/lib/ndoo"),
    ("dir:feed", DirectoryUrl(Path("feed")), "dir:feed"),
    ("dir:a feed", DirectoryUrl(Path("a feed")), "dir:a feed"),
]


@pytest.mark.parametrize(("url", "place", "name"), URLS, ids=[url for url, _, _ in URLS])
def test_a_url_is_parsed_once(url: str, place: RedisUrl | DirectoryUrl, name: str | None) -> None:
    assert parse(url) == place
    assert place.name == name or (name is None and parse(place.name) == place)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "feed",
        "/var/lib/ndoo",
        "dir:",
        "http://cache",
        "redis:cache",
        "redis://",
        "redis://:secret@",
        "redis://:secret@cache:port",
        "redis://:secret@cache:99999",
        "redis://:secret@cache/first",
        "redis://:secret@cache/1/2",
        "redis://:secret@cache/-1",
        "redis://:secret@cache/0?timeout=1",
        "redis://:secret@cache/0#1",
        "redis://:secret@[::1/0",
        "redis://:secret@cache,other",
        "redis://:secret@cache:1:2",
        "redis://:secret@cache?ca=/ca.pem",
        "redis://:secret@cache?sentinel_user=s",
        "redis://:secret@cache?password_file=/a",
        "redis://cache?password_file=/a&password_file=/secret",
        "redis://cache?password_file=",
        "redis://cache?secret",
        "rediss://:secret@cache?verify=no",
        "rediss://:secret@cache?key=/own.key",
        "redis+sentinel://:secret@one",
        "redis+sentinel://:secret@one/",
        "redis+sentinel://:secret@one/a service",
        "redis+sentinel://:secret@one/register/first",
        "redis+sentinel://:secret@/register",
        "redis+cluster://:secret@one/1",
        "redis+cluster://:secret@one,,two",
        "redis+other://:secret@one",
        "REDIS://:secret@one",
        "unix:///run/redis.sock",
    ],
)
def test_any_other_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError, match=r"; write .*dir:PATH") as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_a_password_is_nowhere_to_be_seen() -> None:
    for text in (
        "redis://reader:secret@cache",
        "redis+sentinel://reader@one/register?password_file=/secret&sentinel_password_file=/secret",
        "redis+cluster://reader:secret@cache",
    ):
        url = parse(text)
        assert "secret" not in repr(url) + url.name
        assert "reader" not in repr(url) + url.name


def test_a_url_opens_both_sides() -> None:
    with (
        contextlib.closing(open_feed("redis://cache", "other")) as redis_feed,
        contextlib.closing(open_publisher("redis://cache", "other")) as redis_publisher,
        contextlib.closing(open_feed("dir:feed")) as directory_feed,
        contextlib.closing(open_publisher("dir:feed")) as directory_publisher,
    ):
        assert isinstance(redis_feed, RedisFeed)
        assert isinstance(redis_publisher, RedisPublisher)
        assert isinstance(directory_feed, DirectoryFeed)
        assert isinstance(directory_publisher, DirectoryPublisher)
        assert redis_feed.name == redis_publisher.name == "redis://cache:6379/0"
        assert directory_feed.name == directory_publisher.name == "dir:feed"


def test_keys_lie_in_one_slot() -> None:
    assert Keys.of("ndoo") == Keys("{ndoo}:changes", "{ndoo}:snapshot", "{ndoo}:head")
