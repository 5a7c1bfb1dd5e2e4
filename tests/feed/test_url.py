from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ndoo.errors import InputError
from ndoo.feed.directory import DirectoryFeed
from ndoo.feed.redis import Keys, RedisFeed
from ndoo.feed.url import DirectoryUrl, RedisUrl, open_feed, parse
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.open import open_publisher
from ndoo.publish.redis import RedisPublisher

URLS = [
    ("redis://cache", RedisUrl("cache"), "redis://cache:6379/0"),
    ("redis://cache:7000/3", RedisUrl("cache", 7000, 3), "redis://cache:7000/3"),
    ("redis://cache:7000/", RedisUrl("cache", 7000), "redis://cache:7000/0"),
    ("rediss://cache/1", RedisUrl("cache", database=1, tls=True), "rediss://cache:6379/1"),
    ("redis://[::1]:7000", RedisUrl("::1", 7000), "redis://[::1]:7000/0"),
    (
        "redis://reader:p%40ss@cache",
        RedisUrl("cache", user="reader", password="p@ss"),
        "redis://cache:6379/0",
    ),
    ("redis://:p%2Fss@cache", RedisUrl("cache", password="p/ss"), "redis://cache:6379/0"),
    ("dir:/var/lib/ndoo", DirectoryUrl(Path("/var/lib/ndoo")), "dir:/var/lib/ndoo"),
    ("dir:feed", DirectoryUrl(Path("feed")), "dir:feed"),
    ("dir:a feed", DirectoryUrl(Path("a feed")), "dir:a feed"),
]


@pytest.mark.parametrize(("url", "place", "name"), URLS, ids=[url for url, _, _ in URLS])
def test_a_url_is_parsed_once(url: str, place: RedisUrl | DirectoryUrl, name: str) -> None:
    assert parse(url) == place
    assert place.name == name


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
        "unix:///run/redis.sock",
    ],
)
def test_any_other_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InputError, match=r"; write .*dir:PATH") as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_a_password_is_nowhere_to_be_seen() -> None:
    url = parse("redis://reader:secret@cache")
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
