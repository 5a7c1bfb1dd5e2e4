"""Two replicas under steady load, restarted one after the other, and killed: nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.client import AsyncClient, Client, Verdict, Verdicts, bulk
from ndoo.client import client as client_module
from support.people import KEYS, opt_out
from support.places import Place
from support.service import Service

OPTED_OUT = {1, 3, 4999}
PEOPLE = nhs_number.numbers_of(KEYS[:5000])
NEWCOMERS = range(6000, 6010)
PATIENCE_S = 60


@pytest.fixture(autouse=True)
def small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are cut into many streams, and are worth asking as sets."""
    monkeypatch.setattr(bulk, "SEGMENT_NUMBERS", 1000)
    monkeypatch.setattr(client_module, "SET_NUMBERS_MIN", 1000)


@pytest.fixture
def feed(directory_place: Place) -> Place:
    directory_place.loaded(*OPTED_OUT)
    return directory_place


@pytest.fixture
def replicas(feed: Place) -> Iterator[list[Service]]:
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(2):
            started.append(Service(feed.url, "--connection-age-s", "1"))
            stack.callback(started[-1].kill)
        yield started


class Load:
    """Asks the same over and over, in a thread each, until it is closed."""

    def __init__(self, *questions: Callable[[], None]) -> None:
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

    def _ask(self, place: int, question: Callable[[], None]) -> None:
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


def judge(verdicts: Verdicts) -> None:
    assert set(np.flatnonzero(verdicts.opted_out).tolist()) == OPTED_OUT
    assert not verdicts.invalid.any()
    np.testing.assert_array_equal(verdicts.cleared, ~verdicts.opted_out)


def judge_one(person: int, verdict: Verdict) -> None:
    assert verdict is (Verdict.OPTED_OUT if person in OPTED_OUT else Verdict.CLEARED)


async def ask_together(client: AsyncClient) -> None:
    people = range(200)
    verdicts = await asyncio.gather(*(client.check(int(PEOPLE[person])) for person in people))
    for person, verdict in zip(people, verdicts, strict=True):
        judge_one(person, verdict)


@pytest.fixture
def load(replicas: list[Service]) -> Iterator[Load]:
    targets = [each.address for each in replicas]
    loop = asyncio.new_event_loop()
    turning = threading.Thread(target=loop.run_forever)
    turning.start()

    def in_loop(work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    async def opened() -> AsyncClient:
        return AsyncClient(targets)

    with Client(targets) as client:
        asking = in_loop(opened())
        load = Load(
            lambda: [judge_one(person, client.check(int(PEOPLE[person]))) for person in range(20)],
            lambda: judge(client.check_many(PEOPLE)),
            lambda: judge(client.check_set(PEOPLE)),
            lambda: [judge(each) for each in client.check_each([PEOPLE] * 3)],
            lambda: in_loop(ask_together(asking)),
            lambda: judge(in_loop(asking.check_many(PEOPLE))),
        )
        try:
            yield load
        finally:
            load.close()
            in_loop(asking.close())
            loop.call_soon_threadsafe(loop.stop)
            turning.join()
            loop.close()


def test_a_rolling_restart_fails_no_call(replicas: list[Service], load: Load, feed: Place) -> None:
    """Of any kind; and what is recorded meanwhile counts on both replicas."""
    publisher = feed.publisher()
    targets = [each.address for each in replicas]
    newcomers = iter(NEWCOMERS)

    def record() -> None:
        person = next(newcomers)
        token = publisher.append([opt_out(person)]).token
        number = int(nhs_number.numbers_of([KEYS[person]])[0])
        with Client(targets) as client:
            for _ in replicas:
                assert client.check(number, at_least_as_fresh=token) is Verdict.OPTED_OUT

    for each in replicas:
        load.go_on()
        record()
        each.stop()
        load.go_on()
        record()
        each.start()
    load.go_on()
    load.close()


def test_a_killed_replica_fails_no_call(replicas: list[Service], load: Load) -> None:
    for each in replicas:
        load.go_on()
        each.kill()
        load.go_on()
        each.start()
    load.go_on()
    load.close()
