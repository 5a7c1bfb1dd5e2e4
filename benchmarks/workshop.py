"""What benchmarks share in a run: made once, when first needed, gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import uvloop
from pyroaring import BitMap

from benchmarks import data
from benchmarks.data import Asked
from benchmarks.harness import Progress
from benchmarks.processes import Child, Served, child, end_all, service
from benchmarks.scale import CHUNK, Scale
from ndoo.cli.demo_data import draw_register
from ndoo.nhs_number import Keys
from ndoo.publish.open import open_publisher
from ndoo.publish.source import Terms

SEED = 1
T = TypeVar("T")


class Workshop:
    """People, questions, a feed that holds the people, and one event loop for all clients."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.progress = Progress()
        self._stack = contextlib.ExitStack()
        self._stack.callback(end_all)
        self._clients: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self.folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ndoo-bench-"))
        )
        self._runner = self._stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.progress.clear()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def close_later(self, close: Callable[[], None]) -> None:
        """Have a client closed before its server ends: left open it would try to reconnect."""
        self._clients.append(close)

    @contextlib.contextmanager
    def _clients_closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            while self._clients:
                self._clients.pop()()

    def rng(self, salt: str) -> np.random.Generator:
        """The same numbers in every run, others for every *salt*."""
        return np.random.default_rng([SEED, *salt.encode()])

    @cached_property
    def register(self) -> Keys:
        self.progress.say("drawing the register")
        return draw_register(self.rng("register"), self.scale.opt_outs)

    @cached_property
    def population(self) -> Keys:
        """The keys of very many people, ascending, some of whom are in the register."""
        self.progress.say("drawing a population")
        return draw_register(self.rng("population"), self.scale.set_keys)

    @cached_property
    def asked(self) -> Asked:
        register = self.register
        self.progress.say("drawing the questions")
        return data.draw(self.rng("questions"), register, self.scale.questions)

    @cached_property
    def feed(self) -> str:
        return self.feed_of(self.register, "feed")

    def feed_of(self, register: Keys, name: str) -> str:
        """A directory feed of that name which holds *register*."""
        url = f"dir:{self.folder / name}"
        self.load(url, register)
        return url

    def load(self, url: str, register: Keys) -> None:
        self.progress.say("loading the feed")
        with contextlib.closing(open_publisher(url)) as publisher:
            publisher.load(BitMap(register), Terms(accept_jump=True))

    @contextlib.contextmanager
    def service(self, feed: str | None = None) -> Iterator[Served]:
        """The real service, LIVE, on *feed* or on the one that holds the register."""
        feed = feed or self.feed
        self.progress.say("starting the service")
        with service(feed) as served, self._clients_closed():
            yield served

    @contextlib.contextmanager
    def echo(self, feed: str = "") -> Iterator[tuple[Child, str]]:
        """The transport alone (see `echo`), and where it listens."""
        started = child("echo", *([feed] if feed else []))
        with started as (process, target), self._clients_closed():
            yield process, target

    @contextlib.contextmanager
    def load_on(self, target: str, method: str) -> Iterator[Callable[[], float]]:
        """Two bulk streams flat out from a process of their own; tells their numbers a second."""
        raw = self.asked.numbers[: 8 * CHUNK].astype("<u8").tobytes()
        with child("load", target, method, stdin=raw) as (process, _):
            yield lambda: _rate(process)


def _rate(process: Child) -> float:
    """Numbers a second, from the first to the last count that the process told."""
    told = [(moment, int(line)) for moment, line in process.lines if line.isdigit()]
    (begin, first), (end, last) = told[0], told[-1]
    return (last - first) / (end - begin) if end > begin else 0.0
