"""Who tries to list everybody that opted out, over real sockets: noticed, refused, and held to a
budget that neither a restart nor another replica renews; and who works on patients is not.

A fifth of the keys that are kept for tests are taken for the numbers of people, and of these every
eighteenth is opted out.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from pyroaring import BitMap

from ndoo import nhs_number
from ndoo.budgets.open import open_store
from ndoo.nhs_number import Numbers
from ndoo.ops.audit import AuditRecord, NoAudit
from ndoo.server import sample
from ndoo.server.budgets import REST_S, Ledger
from ndoo.server.quotas import Quotas
from ndoo.server.signals import SignalLimits
from ndoo.v1 import check_pb2
from server.conftest import FIRST_KEY, NUMBERS, House, MakeHouse
from support.answers import Refused, refused
from support.quotas import FixedDoor, Time, client_policy
from support.redis_server import RedisServer

SEED = 20_260_102
RNG = np.random.default_rng(SEED)
PEOPLE = np.sort(RNG.permutation(NUMBERS)[: len(NUMBERS) // 5])
OPTED_OUT = PEOPLE[::18]
BUDGET = 300_000
NOON = 20_000 * 86_400.0 + 43_200.0
NO_SIGNAL = SignalLimits(1.0, 1.0, 0.0, 1.0, 1e12)


@pytest.fixture(autouse=True)
def _known_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are taken where the seed says, not where this process drew."""
    print(f"seed {SEED}")  # noqa: T201
    monkeypatch.setattr(sample, "_SECRET", SEED)


class Records(NoAudit):
    """An audit that remembers."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def record(self, record: AuditRecord) -> None:
        self.records.append(record)


@dataclass
class Guarded:
    """A service that holds one client to its limits, on clocks of the test's own."""

    house: House
    quotas: Quotas
    door: FixedDoor
    audit: Records
    steady: Time
    wall: Time

    @property
    def raised(self) -> set[str]:
        registry = self.house.metrics.registry
        samples = [each for family in registry.collect() for each in family.samples]
        return {
            each.labels["signal"]
            for each in samples
            if each.name == "ndoo_client_signal" and each.value
        }

    @property
    def answered(self) -> int:
        return sum(record.received for record in self.audit.records)

    @property
    def marks(self) -> set[str]:
        return {mark for record in self.audit.records for mark in record.marks}


MakeGuarded = Callable[..., Awaitable[Guarded]]


@pytest.fixture
async def guard(make_house: MakeHouse, redis_server: RedisServer) -> AsyncIterator[MakeGuarded]:
    opened: list[Quotas] = []

    async def make(
        prefix: str = "", url: str = "", *, fail_open: bool = False, **limits: object
    ) -> Guarded:
        steady, wall = Time(), Time(NOON)
        audit, observer = Records(), Lent()
        store = open_store(url or redis_server.url, prefix or f"budgets-{secrets.token_hex(4)}")
        ledger = Ledger(store, observer, fail_open=fail_open, clock=steady)
        quotas = Quotas(observer, ledger, clock=steady, wall_clock=wall, sleep=steady.sleep)
        opened.append(quotas)
        door = FixedDoor(quotas, client_policy(**({"numbers_per_day": BUDGET} | limits)))
        house = await make_house(door=door, audit=audit)
        observer.metrics = house.metrics
        house.publish(set(OPTED_OUT.tolist()))
        return Guarded(house, quotas, door, audit, steady, wall)

    yield make
    for quotas in opened:
        with contextlib.suppress(RuntimeError):  # closed by the test
            await quotas.close()


class Lent:
    """Stands for the metrics, which are there only with the service."""

    metrics: object = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.metrics, name)


async def stream(guarded: Guarded, messages: Sequence[Numbers]) -> Refused | None:
    """How a stream of *messages* was refused, if it was."""
    requests = [check_pb2.StreamCheckRequest(nhs_numbers=each.tolist()) for each in messages]
    return await _end_of(guarded.house.stub.StreamCheck(), requests)


async def stream_sets(guarded: Guarded, sets: Sequence[BitMap]) -> Refused | None:
    requests = [check_pb2.CheckSetRequest(keys=keys.serialize()) for keys in sets]
    return await _end_of(guarded.house.stub.CheckSet(), requests)


async def _end_of(call: grpc.aio.StreamStreamCall, requests: Sequence[Message]) -> Refused | None:
    try:
        for request in requests:
            await call.write(request)
            assert (await call.read()).HasField("chunk")
        await call.done_writing()
        assert (await call.read()).HasField("summary")
    except grpc.aio.AioRpcError as error:
        return refused(error)
    return None


async def batch(guarded: Guarded, numbers: Numbers) -> Refused | None:
    request = check_pb2.BatchCheckRequest(nhs_numbers=numbers.tolist())
    try:
        await guarded.house.stub.BatchCheck(request)
    except grpc.aio.AioRpcError as error:
        return refused(error)
    return None


def pieces(numbers: Numbers, size: int = 16_384) -> list[Numbers]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


async def in_order(guarded: Guarded) -> Refused | None:
    return await stream(guarded, pieces(NUMBERS))


async def every_number_of_ten_digits(guarded: Guarded) -> Refused | None:
    first = FIRST_KEY * 10
    return await stream(guarded, pieces(np.arange(first, first + 800_000, dtype=np.uint64)))


async def at_random(guarded: Guarded) -> Refused | None:
    return await stream(guarded, pieces(RNG.permutation(NUMBERS)))


async def over_streams(guarded: Guarded) -> Refused | None:
    parts = np.array_split(NUMBERS, 8)
    ends = await asyncio.gather(*(stream(guarded, pieces(part)) for part in parts))
    refused = [end for end in ends if end is not None]  # the quickest may have got all of theirs
    assert refused
    return refused[-1]


async def as_full_ranges(guarded: Guarded) -> Refused | None:
    ranges = [BitMap(range(first, first + 10_000)) for first in _steps(10_000)]
    return await stream_sets(guarded, ranges)


async def as_sets_with_a_decoy(guarded: Guarded) -> Refused | None:
    """The first container of each message looks like work."""
    decoy = BitMap((PEOPLE[:200] // 10).tolist())
    ranges = [decoy | BitMap(range(first, first + 10_000)) for first in _steps(10_000)[8:]]
    return await stream_sets(guarded, ranges)


async def slowly(guarded: Guarded) -> Refused | None:
    for numbers in pieces(NUMBERS[:60_000], 50):
        guarded.steady.now += 60.0
        end = await batch(guarded, numbers)
        if end is not None:
            return end
    return None


def _steps(size: int) -> list[int]:
    return list(range(FIRST_KEY, FIRST_KEY + 900_000, size))


LISTING = {
    in_order: {"NEAR_NUMBERS"},
    every_number_of_ten_digits: {"INVALID_NUMBERS"},
    at_random: {"FEW_OPTED_OUT"},
    over_streams: {"NEAR_NUMBERS"},
    as_full_ranges: {"NEAR_NUMBERS"},
    as_sets_with_a_decoy: {"NEAR_NUMBERS"},
    slowly: {"NEAR_NUMBERS"},
}


@pytest.mark.parametrize("listing", LISTING)
async def test_listing_is_cut_off_and_noticed(guard: MakeGuarded, listing) -> None:
    guarded = await guard()
    end = await listing(guarded)
    assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ENUMERATION")
    assert end.retry_s > 0
    assert guarded.answered <= BUDGET
    assert guarded.raised >= LISTING[listing]
    assert guarded.marks >= LISTING[listing]
    assert "ENUMERATION" in {record.reason for record in guarded.audit.records}
    assert {record.client for record in guarded.audit.records} == {"client"}
    again = await batch(guarded, PEOPLE[:10])
    assert again.reason == "ENUMERATION", "whatever it asks now"


@pytest.mark.parametrize("listing", [in_order, at_random, over_streams, as_full_ranges])
async def test_without_limits_on_signals_the_budget_holds(guard: MakeGuarded, listing) -> None:
    guarded = await guard(signals=NO_SIGNAL)
    end = await listing(guarded)
    assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_SPENT")
    assert end.retry_s == pytest.approx(43_200.0)
    assert BUDGET * 0.7 < guarded.answered <= BUDGET
    assert guarded.raised >= LISTING[listing]


async def test_work_of_the_same_size_is_neither(guard: MakeGuarded) -> None:
    guarded = await guard()
    mistaken = PEOPLE[::30] + np.uint64(1)  # whose check digits are wrong, or of other keys
    some = RNG.permutation(np.concatenate([PEOPLE, mistaken]))[:140_000]
    assert await stream(guarded, pieces(some)) is None
    keys = BitMap((PEOPLE[:120_000] // 10).tolist())
    assert await stream_sets(guarded, [keys]) is None
    assert await batch(guarded, PEOPLE[:1_000]) is None
    assert guarded.answered == 261_000
    assert guarded.raised == guarded.marks == set()


async def spend_all(guarded: Guarded) -> int:
    """How many numbers are answered until no more are, asked in small messages."""
    before = guarded.answered
    while await batch(guarded, PEOPLE[:500]) is None:
        guarded.steady.now += 2 * REST_S
    return guarded.answered - before


async def test_a_spent_budget_is_spent_after_a_restart(guard: MakeGuarded) -> None:
    first = await guard("restarted", numbers_per_day=20_000, signals=NO_SIGNAL)
    assert await batch(first, PEOPLE[:12_000]) is None
    await first.quotas.close()
    second = await guard("restarted", numbers_per_day=20_000, signals=NO_SIGNAL)
    assert await spend_all(second) == 8_000
    await second.quotas.close()
    third = await guard("restarted", numbers_per_day=20_000, signals=NO_SIGNAL)
    end = await batch(third, PEOPLE[:1])
    assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_SPENT")
    assert third.audit.records[-1].reason == "BUDGET_SPENT"
    third.wall.now += 43_200.0
    assert await batch(third, PEOPLE[:1]) is None, "a new day"


async def test_two_replicas_share_one_budget(guard: MakeGuarded) -> None:
    ceiling = 40_000
    limits = {"numbers_per_day": ceiling, "signals": NO_SIGNAL}
    replicas = [await guard("shared", **limits) for _ in range(2)]
    answered = sum(await asyncio.gather(*(spend_all(each) for each in replicas)))
    assert ceiling - 2 * 500 <= answered <= ceiling
    for replica in replicas:
        end = await batch(replica, PEOPLE[:500])
        assert end.reason == "BUDGET_SPENT"


@pytest.mark.parametrize("fail_open", [False, True])
async def test_a_store_that_is_away(guard: MakeGuarded, start_redis, fail_open: bool) -> None:
    server = start_redis()
    guarded = await guard(url=server.url, fail_open=fail_open, signals=NO_SIGNAL)
    assert await batch(guarded, PEOPLE[:10]) is None
    server.kill()
    end = await batch(guarded, PEOPLE[:10_000])
    value = guarded.house.metrics.registry.get_sample_value
    assert value("ndoo_budget_store_failing") == 1
    if fail_open:
        assert end is None
    else:
        assert (end.code, end.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "BUDGET_UNKNOWN",
        )
        assert "redis" not in end.everything.lower(), "where it is kept is nobody's business"
    server.start()
    guarded.steady.now += 2 * REST_S
    assert await batch(guarded, PEOPLE[:10_000]) is None
    assert value("ndoo_budget_store_failing") == 0


async def test_numbers_that_were_not_answered_cost_nothing(guard: MakeGuarded) -> None:
    guarded = await guard(numbers_per_day=1_000)
    guarded.house.publish(set(), suspended=True)
    for _ in range(5):
        assert (await batch(guarded, PEOPLE[:1_000])).reason == "SUSPENDED"
    guarded.house.publish(set())
    assert await batch(guarded, PEOPLE[:1_000]) is None


async def test_a_rate_over_the_wire(guard: MakeGuarded) -> None:
    guarded = await guard(numbers_per_second=1_000, burst=10_000, numbers_per_day=None)
    assert await batch(guarded, PEOPLE[:10_000]) is None
    end = await batch(guarded, PEOPLE[:500])
    assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_EXCEEDED")
    assert end.retry_s == pytest.approx(0.5, abs=0.002)
    guarded.steady.now += end.retry_s
    assert await batch(guarded, PEOPLE[:500]) is None
    assert await stream(guarded, pieces(PEOPLE[:30_000], 10_000)) is None
    assert sum(guarded.steady.slept) == pytest.approx(30.0, abs=0.1)


async def test_limits_of_a_client_over_the_wire(guard: MakeGuarded) -> None:
    guarded = await guard(numbers_per_message=100, streams=1)
    end = await batch(guarded, PEOPLE[:101])
    assert (end.code, end.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TOO_LARGE_FOR_CLIENT")
    async with contextlib.aclosing(_open_stream(guarded)) as opened:
        await anext(opened)
        end = await stream(guarded, [PEOPLE[:1]])
        assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert await stream(guarded, [PEOPLE[:1]]) is None


async def test_large_single_messages_take_the_places_of_streams(guard: MakeGuarded) -> None:
    """Or a client with one stream could still take all the places that there are."""
    guarded = await guard(streams=1)
    async with contextlib.aclosing(_open_stream(guarded)) as opened:
        await anext(opened)
        assert await batch(guarded, PEOPLE[:1_000]) is None
        end = await batch(guarded, PEOPLE[:10_000])
        assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert await batch(guarded, PEOPLE[:10_000]) is None


async def _open_stream(guarded: Guarded) -> AsyncIterator[None]:
    call = guarded.house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=PEOPLE[:1].tolist()))
    await call.read()
    try:
        yield
    finally:
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass


def test_people_are_a_fifth_and_few_of_them_opted_out() -> None:
    assert len(NUMBERS) > 800_000
    keys = PEOPLE // 10
    assert (nhs_number.check_digits(keys) == PEOPLE % 10).all()
    assert 0.05 < len(OPTED_OUT) / len(PEOPLE) < 0.06
