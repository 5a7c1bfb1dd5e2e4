"""The store that NDOO_BUDGETS names."""

from __future__ import annotations

from ndoo.budgets.directory import DirectoryStore
from ndoo.budgets.store import Store
from ndoo.errors import InputError
from ndoo.feed.url import PREFIX, DirectoryUrl, parse


def open_store(url: str, prefix: str = PREFIX) -> Store:
    """The store at *url*; *prefix* begins its Redis keys. Nothing is connected to yet.

    Raises InputError.
    """
    try:
        place = parse(url)
    except InputError as error:
        raise InputError(f"NDOO_BUDGETS names no place to keep budgets. {error}") from None
    if isinstance(place, DirectoryUrl):
        return DirectoryStore(place.path)
    from ndoo.budgets.redis import RedisStore  # noqa: PLC0415  (a directory needs no Redis client)

    return RedisStore(place, prefix)
