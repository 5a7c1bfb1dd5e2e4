"""The client against `ndoo serve` that is killed, restarted, or reloaded, in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.client import AsyncClient, CallFailed, Client, Verdicts, bulk
from support.people import KEYS, opt_out
from support.places import Place
from support.service import Service

PEOPLE = nhs_number.numbers_of(KEYS[:5000])
BEFORE, AFTER = {1, 3, 4999}, {2, 3, 4998}


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SEGMENT_NUMBERS", 1000)


@pytest.fixture
def feed(directory_place: Place) -> Place:
    directory_place.loaded(*BEFORE)
    return directory_place


@pytest.fixture
def service(feed: Place) -> Iterator[Service]:
    service = Service(feed.url)
    yield service
    service.kill()


def opted_out(verdicts: Verdicts) -> set[int]:
    """Who is, of the people asked about, of whom nobody may be invalid."""
    assert len(verdicts) == len(PEOPLE)
    assert not verdicts.invalid.any()
    np.testing.assert_array_equal(verdicts.cleared, ~verdicts.opted_out)
    return set(np.flatnonzero(verdicts.opted_out).tolist())


def columns_with(harm: Callable[[], object]) -> Iterator[np.ndarray]:
    """Fifty columns, before the tenth of which something happens."""
    for place in range(50):
        if place == 10:
            harm()
        yield PEOPLE


def test_killed_and_restarted_in_the_middle_of_a_job(service: Service) -> None:
    def harm() -> None:
        service.kill()
        service.start()

    with Client(service.address) as client:
        answers = list(client.check_each(columns_with(harm)))
    assert [opted_out(answer) for answer in answers] == [BEFORE] * 50
    assert len({answer.revision.token for answer in answers}) == 1


def test_killed_for_good(service: Service) -> None:
    with Client(service.address, timeout_s=1.0) as client:
        answers = []
        with pytest.raises(CallFailed):
            answers.extend(client.check_each(columns_with(service.kill)))
        with pytest.raises(CallFailed):
            client.check_many(PEOPLE)


def test_another_generation_in_the_middle_of_a_job(service: Service, feed: Place) -> None:
    def harm() -> None:
        feed.loaded(*AFTER)
        while client.check(int(PEOPLE[2])):
            pass

    seen = []
    with Client(service.address) as client:
        with pytest.raises(CallFailed) as caught:
            seen.extend(client.check_each(columns_with(harm)))
        assert caught.value.reason in {"OTHER_GENERATION", "REVISION_GONE"}
        assert opted_out(client.check_many(PEOPLE)) == AFTER
    assert all(opted_out(answer) == BEFORE for answer in seen)


def test_changes_in_the_middle_of_a_job_do_not_show(service: Service, feed: Place) -> None:
    publisher = feed.publisher()

    def harm() -> None:
        revision = publisher.append([opt_out(7)])
        assert not client.check(int(PEOPLE[7]), at_least_as_fresh=revision.token)

    with Client(service.address) as client:
        answers = list(client.check_each(columns_with(harm)))
        assert [opted_out(answer) for answer in answers] == [BEFORE] * 50
        assert opted_out(client.check_many(PEOPLE)) == BEFORE | {7}


async def test_checks_while_the_service_is_restarted(service: Service) -> None:
    async with AsyncClient(service.address) as client:
        assert not await client.check(int(PEOPLE[1]))
        service.kill()
        service.start()
        assert not await client.check(int(PEOPLE[1]))
        assert await client.check(int(PEOPLE[2]))
        assert opted_out(await client.check_many(PEOPLE)) == BEFORE
