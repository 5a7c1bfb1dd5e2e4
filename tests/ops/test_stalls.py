"""A loop that stands still is noticed, where it stands, and when it goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Iterator

import pytest

from ndoo.ops.stalls import StallWatch

LIMIT_S = 0.01


class Observer(logging.Handler):
    """What is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.told: queue.SimpleQueue[object] = queue.SimpleQueue()

    def on_loop_lag(self, seconds: float) -> None:
        self.told.put(("lag", seconds))

    def on_loop_stall(self) -> None:
        self.told.put("stall")

    def emit(self, record: logging.LogRecord) -> None:
        self.told.put((record.msg, record.fields))


@pytest.fixture
def observer() -> Iterator[Observer]:
    made, logger = Observer(), logging.getLogger("ndoo")
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(made)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def watch(loop: asyncio.AbstractEventLoop, observer: Observer, *, limit_s: float) -> StallWatch:
    """Looks without a pause. Its clock is what the observer says."""
    ident = asyncio.run_coroutine_threadsafe(_ident(), loop).result()
    return StallWatch(
        loop, ident, observer, look_s=LIMIT_S, limit_s=limit_s, clock=lambda: observer.now
    )


async def _ident() -> int:
    return threading.get_ident()


def stand_still(entered: threading.Event, until: threading.Event) -> None:
    entered.set()
    until.wait()


def test_a_stall_is_told_while_it_lasts_and_its_length_when_it_is_over(
    loop: asyncio.AbstractEventLoop, observer: Observer
) -> None:
    entered, until = threading.Event(), threading.Event()
    watching = watch(loop, observer, limit_s=LIMIT_S)
    loop.call_soon_threadsafe(stand_still, entered, until)
    entered.wait()
    looking = threading.Thread(target=watching._look)
    looking.start()
    assert observer.told.get() == "stall"
    event, fields = observer.told.get()
    assert event == "loop_stalled"
    assert "stand_still:" in fields["where"]
    assert fields["where"].startswith("Condition.wait:")
    observer.now += 7.25
    while observer.told.get() != ("lag", 7.25):  # of a stall that never ends, too
        pass
    until.set()
    looking.join()
    *_, before, last = [observer.told.get() for _ in range(observer.told.qsize())]
    assert before == ("lag", 7.25)
    assert last == ("loop_runs_again", {"seconds": 7.25})


def test_where_it_stands_holds_names_and_no_values(
    loop: asyncio.AbstractEventLoop, observer: Observer
) -> None:
    entered, until = threading.Event(), threading.Event()
    watching = watch(loop, observer, limit_s=LIMIT_S)
    loop.call_soon_threadsafe(stand_still, entered, until)
    entered.wait()
    where = watching._where()
    until.set()
    assert json.dumps(where).isascii()
    assert all(part.rpartition(":")[2].isdigit() for part in where.split(" < "))


def test_the_watch_ends_with_the_loop(observer: Observer) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    StallWatch(loop, 0, observer, look_s=0).run()


def test_a_loop_that_answers_is_no_stall(
    loop: asyncio.AbstractEventLoop, observer: Observer
) -> None:
    watch(loop, observer, limit_s=3600)._look()
    assert observer.told.get() == ("lag", 0.0)
    assert observer.told.empty()
