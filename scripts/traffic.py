"""Steady traffic for a service whose register holds made-up people: every method, some refusals,
and changes in its feed. All from the project's own client and publisher.

    scripts/traffic.py HOST:PORT FEED
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from pyroaring import BitMap

from ndoo import nhs_number
from ndoo.client import AsyncClient, CallFailed, Client, ClientError, open_channel
from ndoo.client.set_stream import check_set
from ndoo.client.sets import KeySet
from ndoo.errors import NdooError
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind

_RANGE = np.arange(999_000_000, 999_900_000, dtype=np.uint32)
KEYS = _RANGE[nhs_number.check_digits(_RANGE) != 10]
"""Of numbers that are never issued."""

COLUMN = 200_000
_INVALID_SHARE = 0.01
_CHECKS = 20
_PAUSE_S = 0.2
_NEVER = "not-a-token"


def main() -> None:
    """Go on until ended; what fails is counted by the service and told here once."""
    target, feed = sys.argv[1:]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.closing(open_publisher(feed)) as publisher, Traffic(target) as traffic:
        told = ""
        print("Asking.", flush=True)
        for change in changes():
            try:
                traffic.ask()
                publisher.append([change])
            except (ClientError, NdooError) as error:
                if str(error) != told:
                    told = str(error)
                    print(told, flush=True)
            if stop.wait(_PAUSE_S):
                return


def load(publisher: Publisher) -> None:
    """Every twentieth is opted out."""
    publisher.load(BitMap(KEYS[::20]), Terms(accept_jump=True))


def changes() -> Iterator[Change]:
    """For ever: people who opt out, opt in again, and get new numbers."""
    while True:
        for person, other in zip(KEYS[1::20].tolist(), KEYS[2::20].tolist(), strict=True):
            yield Change(Kind.OPT_OUT, key=person)
            yield Change(Kind.OPT_IN, key=person)
            yield Change(Kind.SUPERSEDE, key=person, new_key=other)


class Traffic:
    """Asks *target* in all ways. *introduction* and *tls* are for the project's client."""

    def __init__(self, target: str, **introduction: Any) -> None:
        self._target = target
        self._introduction = introduction
        self._rng = np.random.default_rng(1)
        self._client = Client(target, **introduction)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def ask(self) -> None:
        """Some calls of each method, and one that is refused."""
        numbers = self._numbers(COLUMN)
        for number in numbers[:_CHECKS].tolist():
            self._client.check(number)
        self._client.check_many(numbers)
        asyncio.run(self._ask_together(numbers[:_CHECKS].tolist()))
        self._ask_set()
        self._refused(lambda: self._client.check(int(numbers[0]), exactly_at=_NEVER))

    def _numbers(self, count: int) -> np.ndarray:
        numbers = nhs_number.numbers_of(self._rng.choice(KEYS, count))
        wrong = self._rng.random(count) < _INVALID_SHARE
        return np.where(wrong, np.uint64(0), numbers)

    async def _ask_together(self, numbers: list[int]) -> None:
        async with AsyncClient(self._target, **self._introduction) as client:
            await asyncio.gather(*(client.check(number) for number in numbers))

    def _ask_set(self) -> None:
        tls, introduction = self._introduction.get("tls"), dict(self._introduction)
        introduction.pop("tls", None)
        with open_channel(self._target, tls, introduction=introduction) as channel:
            check_set(channel, KeySet.of(self._numbers(COLUMN)))

    @staticmethod
    def _refused(ask: Callable[[], object]) -> None:
        with contextlib.suppress(CallFailed):
            ask()


if __name__ == "__main__":
    main()
