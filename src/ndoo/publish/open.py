"""The publisher that a feed URL names."""

from __future__ import annotations

from ndoo.feed.url import PREFIX, DirectoryUrl, parse
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.redis import RedisPublisher
from ndoo.publish.seal import UNSIGNED, Seal


def open_publisher(url: str, prefix: str = PREFIX, seal: Seal = UNSIGNED) -> Publisher:
    """The writing side of the feed that *url* names. Nothing is connected to yet.

    Raises InputError.
    """
    place = parse(url)
    if isinstance(place, DirectoryUrl):
        return DirectoryPublisher(place, seal=seal)
    return RedisPublisher(place, prefix, seal)
