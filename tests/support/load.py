"""Steady load on replicas through every client, each of whose answers is judged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.client import AsyncClient, Client, Tls, Verdict, Verdicts, bulk
from ndoo.client import client as client_module
from support.people import KEYS

OPTED_OUT = {1, 3, 4999}
PEOPLE = nhs_number.numbers_of(KEYS[:5000])
PATIENCE_S = 60

_FEW = 20
_MANY = 200


class Load:
    """Asks the same over and over, in a thread each, until it is closed."""

    def __init__(self, *questions: Callable[[], object]) -> None:
        self._news = threading.Condition()
        self._answered = [0] * len(questions)
        self._is_over = False
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(place, question))
            for place, question in enumerate(questions)
        ]
        for thread in self._threads:
            thread.start()

    def go_on(self) -> None:
        """Wait until each question was answered a few times more."""
        with self._news:
            wanted = [count + 3 for count in self._answered]
            assert self._news.wait_for(
                lambda: self.failures or all(map(int.__ge__, self._answered, wanted)), PATIENCE_S
            ), self._answered
        assert not self.failures, self.failures

    def close(self) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self.failures, self.failures

    def _ask(self, place: int, question: Callable[[], object]) -> None:
        while not self._is_over:
            try:
                question()
            except BaseException as error:  # noqa: BLE001  (a wrong answer is one, too)
                self.failures.append(error)
            with self._news:
                self._answered[place] += 1
                self._news.notify_all()
            if self.failures:
                return


@contextlib.contextmanager
def asking(
    targets: str | Sequence[str], *more: Callable[[], object], tls: Tls | None = None
) -> Iterator[Load]:
    """Load of every kind on *targets*, and *more*. Columns are cut into many streams, and are worth
    asking as sets.
    """
    with contextlib.ExitStack() as ending:
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(bulk, "SEGMENT_NUMBERS", 1000)
        patch.setattr(client_module, "SET_NUMBERS_MIN", 1000)
        client = ending.enter_context(Client(targets, tls=tls))
        in_loop = ending.enter_context(_loop())

        async def opened() -> AsyncClient:
            return AsyncClient(targets, tls=tls)

        async_client = in_loop(opened())
        ending.callback(lambda: in_loop(async_client.close()))
        load = Load(
            lambda: [judge_one(some, client.check(int(PEOPLE[some]))) for some in range(_FEW)],
            lambda: judge(client.check_many(PEOPLE)),
            lambda: judge(client.check_set(PEOPLE)),
            lambda: [judge(each) for each in client.check_each([PEOPLE] * 3)],
            lambda: in_loop(_ask_together(async_client)),
            lambda: judge(in_loop(async_client.check_many(PEOPLE))),
            *more,
        )
        ending.callback(load.close)
        yield load


def judge(verdicts: Verdicts) -> None:
    assert set(np.flatnonzero(verdicts.opted_out).tolist()) == OPTED_OUT
    assert not verdicts.invalid.any()
    np.testing.assert_array_equal(verdicts.cleared, ~verdicts.opted_out)


def judge_one(person: int, verdict: Verdict) -> None:
    assert verdict is (Verdict.OPTED_OUT if person in OPTED_OUT else Verdict.CLEARED)


async def _ask_together(client: AsyncClient) -> None:
    people = range(_MANY)
    verdicts = await asyncio.gather(*(client.check(int(PEOPLE[person])) for person in people))
    for person, verdict in zip(people, verdicts, strict=True):
        judge_one(person, verdict)


@contextlib.contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """What runs something to its end on an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    turning = threading.Thread(target=loop.run_forever)
    turning.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        turning.join()
        loop.close()
