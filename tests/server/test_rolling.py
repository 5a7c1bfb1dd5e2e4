"""Two replicas under steady load, restarted one after the other, and killed: nobody notices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ndoo import nhs_number
from ndoo.client import Client, Verdict
from support.load import OPTED_OUT, Load, asking
from support.people import KEYS, opt_out
from support.places import Place
from support.service import Service

NEWCOMERS = range(6000, 6010)


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


@pytest.fixture
def load(replicas: list[Service]) -> Iterator[Load]:
    with asking([each.address for each in replicas]) as load:
        yield load


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
