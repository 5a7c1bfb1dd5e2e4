"""The publisher that a feed URL names."""

from __future__ import annotations

from ndoo.feed.url import PREFIX, DirectoryUrl, parse
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.redis import RedisPublisher


def open_publisher(url: str, prefix: str = PREFIX) -> Publisher:
    """The writing side of the feed that *url* names. Nothing is connected to yet.

    Raises InputError.
    """
    place = parse(url)
    if isinstance(place, DirectoryUrl):
        return DirectoryPublisher(place)
    return RedisPublisher(place, prefix)
