"""Both kinds of feed behind one face, with the means to harm them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Protocol

import redis
from pyroaring import BitMap

from ndoo.feed import log
from ndoo.feed.feed import Feed
from ndoo.feed.url import open_feed
from ndoo.publish.fold import fold
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from ndoo.register.register import Register
from support.people import KEYS, number

WRITER = Path(__file__).with_name("writer.py")


class Harm(Protocol):
    def append_raw(self, fields: Mapping[str, str]) -> None:
        """Add an entry of these fields, whatever they are, as a foreign writer would."""

    def remove_last(self) -> None:
        """Take the last entry away, as a restored backup would."""

    def replace_last(self, fields: Mapping[str, str]) -> None:
        """Put another entry in the last one's place."""


class Place:
    """One feed, and whoever uses it. *harm* is there for the tests."""

    def __init__(self, url: str, harm: Harm, stack: contextlib.ExitStack) -> None:
        self.url = url
        self.harm = harm
        self._stack = stack

    def feed(self) -> Feed:
        return self._stack.enter_context(contextlib.closing(open_feed(self.url)))

    def publisher(self) -> Publisher:
        return self._stack.enter_context(contextlib.closing(open_publisher(self.url)))

    def loaded(self, *people: int) -> Publisher:
        publisher = self.publisher()
        publisher.load(bitmap(*people), Terms(accept_jump=True))
        return publisher

    def register(self) -> Register:
        """What a reader who comes now gets to."""
        with contextlib.closing(open_feed(self.url)) as feed:
            return fold(feed).register

    def rewrite_last(self) -> None:
        """Put another change, that person 9 opts out, in the very place of the last one, with its
        number and its moment, as a fail-over can do it.
        """
        *_, last = self.feed().retained(None)
        recorded = str(last.recorded_ms)
        self.harm.replace_last(
            {"seq": str(last.seq), "op": "opt_out", "nhs": number(9), "recorded": recorded}
        )

    @contextlib.contextmanager
    def writer(self, first: int, count: int) -> Iterator[Popen[str]]:
        """A process that opts people out one by one, and prints each once it is recorded."""
        paths = os.pathsep.join(sys.path)
        process = Popen(
            [sys.executable, str(WRITER), self.url, str(first), str(count)],
            stdout=PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()


def bitmap(*people: int) -> BitMap:
    return BitMap([KEYS[person] for person in people])


def people_in(register: Register) -> set[int]:
    return {KEYS.index(key) for key in register.keys().tolist()}


class RedisHarm:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def append_raw(self, fields: Mapping[str, str]) -> None:
        self.client.xadd("{ndoo}:changes", dict(fields))
        self.client.hincrby("{ndoo}:head", "seq", 1)

    def remove_last(self) -> None:
        (last_id, _), *before = self.client.xrevrange("{ndoo}:changes", count=2)
        self.client.xdel("{ndoo}:changes", last_id)
        self.client.hincrby("{ndoo}:head", "seq", -1)
        self.client.execute_command("XSETID", "{ndoo}:changes", before[0][0])

    def replace_last(self, fields: Mapping[str, str]) -> None:
        ((last_id, _),) = self.client.xrevrange("{ndoo}:changes", count=1)
        entries = self.client.xrange("{ndoo}:changes")[:-1]
        self.client.delete("{ndoo}:changes")
        for entry_id, old in [*entries, (last_id, dict(fields))]:
            self.client.xadd("{ndoo}:changes", old, id=entry_id)


class DirectoryHarm:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def segment(self) -> Path:
        generation = log.generation_of(self.path)
        own = [each for each in log.segments(self.path) if each.generation == generation]
        return self.path / own[-1].name

    def append_bytes(self, raw: bytes) -> None:
        with self.segment.open("ab") as file:
            file.write(raw)

    def append_raw(self, fields: Mapping[str, str]) -> None:
        self.append_bytes(log.encode_line(fields))

    def remove_last(self) -> None:
        self._write(self._lines()[:-1])

    def replace_last(self, fields: Mapping[str, str]) -> None:
        self._write([*self._lines()[:-1], log.encode_line(fields)])

    def _lines(self) -> list[bytes]:
        return self.segment.read_bytes().splitlines(keepends=True)

    def _write(self, lines: list[bytes]) -> None:
        self.segment.write_bytes(b"".join(lines))
