"""Daily budgets: over restarts, crashes, replicas, days and stores that fail, never more than is
allowed, and when all goes well no less.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndoo.budgets.directory import BUDGETS, DirectoryStore
from ndoo.budgets.open import open_store
from ndoo.budgets.store import DAYS_KEPT, Claim, Granted, Store, StoreFailed
from ndoo.errors import InputError
from ndoo.server.budgets import BLOCK_MAX, BLOCKS_A_DAY, REST_S, Budget, Ledger
from ndoo.server.status import OverQuota
from support.quotas import Time, Told
from support.redis_server import RedisServer

DAY_S = 86_400.0
NOON = 20_000 * DAY_S + DAY_S / 2
DOCUMENT = Path(__file__).parents[2] / "docs" / "enumeration.md"
MakeStore = Callable[[], Store]


@pytest.fixture(params=["redis", "directory"])
def make_store(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> Iterator[MakeStore]:
    """Opens one and the same store anew, as a process does that starts."""
    prefix = f"budgets-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:

        def make() -> Store:
            is_redis = request.param == "redis"
            store = open_store(redis_server.url if is_redis else f"dir:{tmp_path}", prefix)
            stack.callback(store.close)
            return store

        yield make


def claim(turn: int = 1, held: int = 0, wanted: int = 10, **more: object) -> Claim:
    given = {"client": "one", "day": "2026-01-01", "holder": "a", "ceiling": 100} | more
    return Claim(turn=turn, held=held, wanted=wanted, **given)


def test_what_is_claimed_is_kept_over_a_restart(make_store: MakeStore):
    store = make_store()
    assert store.claim(claim(wanted=60)) == Granted(60, 60)
    store.close()
    assert make_store().claim(claim(wanted=60, holder="b")) == Granted(40, 100)


def test_clients_and_days_are_apart(make_store: MakeStore):
    store = make_store()
    for different in ({}, {"client": "two"}, {"day": "2026-01-02"}):
        assert store.claim(claim(wanted=100, **different)) == Granted(100, 100)


def test_what_a_holder_tells_stands_for_what_it_told_before(make_store: MakeStore):
    """A lost answer, and what is given back, are put right by the next claim."""
    store = make_store()
    store.claim(claim(turn=1, wanted=50))
    assert store.claim(claim(turn=2, held=0, wanted=10)) == Granted(10, 10)
    assert store.claim(claim(turn=3, held=3, wanted=0)) == Granted(0, 3)
    assert store.claim(claim(turn=1, held=0, wanted=200, holder="b")) == Granted(97, 100)


def test_a_holder_that_used_more_than_there_is_gets_nothing(make_store: MakeStore):
    assert make_store().claim(claim(held=150)) == Granted(0, 150)


def test_a_lower_ceiling_takes_nothing_back_and_grants_nothing(make_store: MakeStore):
    store = make_store()
    store.claim(claim(wanted=80))
    assert store.claim(claim(turn=2, held=80, wanted=5, ceiling=50)) == Granted(0, 80)


def test_large_numbers_are_exact(make_store: MakeStore):
    store = make_store()
    most = 10**12
    assert store.claim(claim(wanted=most - 1, ceiling=most)) == Granted(most - 1, most - 1)
    last = store.claim(claim(turn=2, held=most - 1, wanted=9, ceiling=most))
    assert last == Granted(1, most)


def test_a_claim_that_was_overtaken_on_its_way_changes_nothing(redis_server: RedisServer):
    store = open_store(redis_server.url, f"budgets-{secrets.token_hex(4)}")
    late = claim(turn=1, wanted=10)
    store.claim(claim(turn=2, held=90, wanted=0))
    with pytest.raises(StoreFailed):
        store.claim(late)
    assert store.claim(claim(holder="b", wanted=100)) == Granted(10, 100)
    store.close()


def test_a_store_that_lost_its_last_writes_is_told_again(redis_server: RedisServer):
    prefix = f"budgets-{secrets.token_hex(4)}"
    store = open_store(redis_server.url, prefix)
    store.claim(claim(wanted=60))
    with redis_server.client() as client:
        assert client.delete(f"{{{prefix}}}:budget:one:2026-01-01") == 1
    assert store.claim(claim(turn=2, held=60, wanted=60)) == Granted(40, 100)
    store.close()


def test_keys_go_away_by_themselves(redis_server: RedisServer):
    prefix = f"budgets-{secrets.token_hex(4)}"
    store = open_store(redis_server.url, prefix)
    store.claim(claim())
    with redis_server.client() as client:
        (key,) = client.keys(f"{{{prefix}}}:*")
        assert 0 < client.ttl(key) <= DAYS_KEPT * DAY_S
    store.close()


def test_a_damaged_hash_is_no_empty_one(redis_server: RedisServer):
    prefix = f"budgets-{secrets.token_hex(4)}"
    store = open_store(redis_server.url, prefix)
    with redis_server.client() as client:
        client.hset(f"{{{prefix}}}:budget:one:2026-01-01", "total", "much")
    with pytest.raises(StoreFailed):
        store.claim(claim())
    store.close()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"format": 2, "days": {}}', b'{"format": 1}', b"\xff",
     b'{"format": 1, "days": {"2026-01-01": {"one": -1}}}',
     b'{"format": 1, "days": {"2026-01-01": {"one": true}}}',
     b'{"format": 1, "days": {"2026-01-01": {"one": 1e3}}}',
     b'{"format": 1, "days": {"2026-01-01": []}}'],
)  # fmt: skip
def test_a_damaged_file_is_no_empty_one(damage: bytes, tmp_path: Path):
    (tmp_path / BUDGETS).write_bytes(damage)
    store = DirectoryStore(tmp_path)
    with pytest.raises(StoreFailed, match="damaged"):
        store.claim(claim())
    (tmp_path / BUDGETS).unlink()
    assert store.claim(claim()).numbers == 10
    store.close()


def test_a_directory_is_one_replicas(tmp_path: Path):
    first, second = DirectoryStore(tmp_path), DirectoryStore(tmp_path)
    first.claim(claim())
    with pytest.raises(StoreFailed, match="another process"):
        second.claim(claim(holder="b"))
    first.close()
    assert second.claim(claim(holder="b")).total == 20
    second.close()


def test_a_directory_that_cannot_be_written_grants_nothing(tmp_path: Path, monkeypatch):
    store = DirectoryStore(tmp_path)
    store.claim(claim(wanted=10))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _fails)
        with pytest.raises(StoreFailed):
            store.claim(claim(turn=2, held=10, wanted=20))
    assert store.claim(claim(turn=3, held=10, wanted=20)) == Granted(20, 30)
    store.close()


def _fails(file: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_directory_keeps_few_days_and_no_number_of_anybody(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    for day in range(1, 20):
        store.claim(claim(day=f"2026-01-{day:02}", wanted=100))
    store.claim(claim(day="2026-01-12", holder="b"))
    kept = json.loads((tmp_path / BUDGETS).read_text())["days"]
    assert len(kept) == DAYS_KEPT
    assert set(kept) >= {"2026-01-12", "2026-01-19"}
    store.close()


@pytest.mark.parametrize("url", ["", "dir:", "budgets", "http://x", "redis://a,b"])
def test_a_url_that_names_no_store_is_refused(url: str):
    with pytest.raises(InputError, match="NDOO_BUDGETS"):
        open_store(url)


def test_the_rights_in_the_document_are_enough_and_no_more(start_redis):
    rights = re.search(r"^ACL SETUSER ndoo-budgets (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "ndoo-budgets", *rights[1].split())
    store = open_store(f"redis://ndoo-budgets:PASSWORD@127.0.0.1:{server.port}/0")
    assert store.claim(claim()) == Granted(10, 10)
    store.close()
    with redis.Redis(
        port=server.port, username="ndoo-budgets", password="PASSWORD", protocol=2
    ) as other:
        for command in (
            ("HGETALL", "{ndoo}:snapshot"),
            ("XADD", "{ndoo}:changes", "*", "a", "b"),
            ("DEL", "{ndoo}:budget:one:2026-01-01"),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                other.execute_command(*command)


class Faulty:
    """*store*, of which the next claims fail: before they are kept ("lost"), or after ("doubt")."""

    name = "faulty"

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fault = ""
        self.claims = 0

    def claim(self, claim: Claim) -> Granted:
        self.claims += 1
        if self.fault == "lost":
            raise StoreFailed("It is away.")
        granted = self.store.claim(claim)
        if self.fault == "doubt":
            raise StoreFailed("It did not answer.")
        return granted

    def close(self) -> None:
        if isinstance(self.store, DirectoryStore):  # one replica's; the others are of one Redis
            self.store.close()


class Replica:
    """The budget of one client at one replica, and what it answered by day."""

    def __init__(self, store: Store, wall: Time, ceiling: int, *, fail_open: bool = False) -> None:
        self.store = Faulty(store)
        self.told = Told()
        self.steady = Time()
        self.ledger = Ledger(self.store, self.told, fail_open=fail_open, clock=self.steady)
        self.budget = Budget("one", ceiling, self.ledger, wall)

    async def ask(self, numbers: int) -> str | None:
        """The day that was spent of, or None."""
        self.steady.now += 2 * REST_S
        try:
            day = await self.budget.spend(numbers)
        except OverQuota as refused:
            self.reason, self.retry_s = refused.reason, refused.retry_s
            return None
        return day.name

    async def stop(self) -> None:
        await self.budget.close()
        await self.ledger.close()

    async def crash(self) -> None:
        """What it holds is forgotten; what is on its way arrives."""
        if self.budget._day.claiming:
            await self.budget._day.claiming
        await self.ledger.close()


WHICH = st.integers(0, 2)
ASK = st.tuples(st.just("ask"), WHICH, st.integers(1, 400))
STEPS = st.lists(
    st.one_of(
        ASK,
        ASK,
        st.tuples(st.sampled_from(["lost", "doubt", "well", "crash", "stop"]), WHICH, st.just(0)),
        st.tuples(st.just("clock"), st.just(0), st.integers(19_999, 20_001)),
    ),
    min_size=5,
    max_size=60,
)


class Replicas:
    """Three that share one Redis and one clock, and what they answered of each day."""

    def __init__(self, ceiling: int, url: str) -> None:
        prefix = f"budgets-{secrets.token_hex(4)}"
        self.ceiling = ceiling
        self.wall = Time(NOON)
        self.stores = [open_store(url, prefix) for _ in range(3)]
        self.all = [Replica(store, self.wall, ceiling) for store in self.stores]
        self.answered: dict[str, int] = {}

    async def step(self, what: str, which: int, much: int) -> None:
        replica = self.all[which]
        if what == "ask":
            await self.ask(which, much)
        elif what == "clock":
            self.wall.now = NOON + (much - 20_000) * DAY_S
        elif what in {"crash", "stop"}:
            await (replica.crash() if what == "crash" else replica.stop())
            self.all[which] = Replica(self.stores[which], self.wall, self.ceiling)
        else:
            replica.store.fault = "" if what == "well" else what

    async def ask(self, which: int, numbers: int) -> bool:
        day = await self.all[which].ask(numbers)
        if day is None:
            return False
        self.answered[day] = self.answered.get(day, 0) + numbers
        return True

    async def ask_for_all(self) -> None:
        """On each of the days, in turn, until nobody gets anything any more."""
        for which, day in itertools.product(range(3), (19_999, 20_000, 20_001)):
            await self.step("well", which, 0)
            await self.step("clock", 0, day)
            for numbers in (300, 10, 1):
                while await self.ask(which, numbers):
                    pass

    async def close(self) -> None:
        for replica in self.all:
            await replica.stop()
        for store in self.stores:
            store.close()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, ceiling=st.sampled_from([0, 1, 90, 1_000, 2_500]))
def test_no_day_is_ever_spent_twice(steps, ceiling, redis_server):
    """Replicas that crash, stop and are cut off from one Redis, while days come, go and return."""

    async def live() -> None:
        replicas = Replicas(ceiling, redis_server.url)
        for step in steps:
            await replicas.step(*step)
        await replicas.ask_for_all()
        assert all(total <= ceiling for total in replicas.answered.values())
        await replicas.close()

    asyncio.run(live())


@given(asked=st.lists(st.integers(1, 300), max_size=20), ceiling=st.integers(0, 2_000))
@settings(deadline=None, max_examples=25)
def test_when_all_goes_well_a_budget_is_spent_to_the_last_number(asked, ceiling, tmp_path_factory):
    async def live() -> None:
        store = DirectoryStore(tmp_path_factory.mktemp("budgets"))
        left = ceiling
        for numbers in asked:  # with a restart before each
            replica = Replica(store, Time(NOON), ceiling)
            is_answered = await replica.ask(numbers) is not None
            assert is_answered == (numbers <= left)
            left -= numbers * is_answered
            await replica.budget.close()
        store.close()

    asyncio.run(live())


@pytest.fixture
async def replica(tmp_path: Path):
    made = Replica(DirectoryStore(tmp_path), Time(NOON), 1_000)
    yield made
    made.store.fault = ""
    await made.stop()


async def test_answers_seldom_wait_for_the_store(replica: Replica):
    for _ in range(500):
        await replica.ask(1)
        await _settled(replica)
    assert replica.store.claims <= BLOCKS_A_DAY


async def test_the_next_block_is_claimed_before_the_last_is_used_up(replica: Replica):
    await replica.ask(6)
    await _settled(replica)
    claims = replica.store.claims
    assert claims == 2
    await replica.ask(8)  # of 14 that are there: the store is not waited for
    assert replica.budget._day.claiming is not None
    assert replica.budget._day.used == 14


async def _settled(replica: Replica) -> None:
    if replica.budget._day.claiming:
        await replica.budget._day.claiming


async def test_over_the_budget_the_retry_is_at_midnight(replica: Replica):
    assert await replica.ask(1_000)
    assert await replica.ask(1) is None
    assert replica.reason == "BUDGET_SPENT"
    assert replica.retry_s == DAY_S / 2
    assert replica.told.budgets[-1] == 0


async def test_who_asks_on_and_on_over_the_budget_is_refused_from_memory(replica: Replica):
    await replica.ask(1_000)
    await replica.ask(1)
    claims = replica.store.claims
    for _ in range(20):
        with pytest.raises(OverQuota):
            await replica.budget.spend(1)
    assert replica.store.claims == claims


async def test_at_midnight_a_new_budget_begins(replica: Replica):
    wall = replica.budget._clock
    await replica.ask(1_000)
    assert await replica.ask(1) is None
    wall.now += DAY_S / 2
    assert await replica.ask(1_000)


async def test_a_clock_set_back_gives_no_day_twice(replica: Replica):
    wall = replica.budget._clock
    assert await replica.ask(600)
    wall.now += DAY_S
    assert await replica.ask(600)
    wall.now -= DAY_S
    assert await replica.ask(600) is None
    assert replica.reason == "BUDGET_SPENT"


@pytest.mark.parametrize("fault", ["lost", "doubt"])
async def test_an_unknown_budget_refuses_and_alarms(replica: Replica, fault: str):
    replica.store.fault = fault
    assert await replica.ask(1) is None
    assert replica.reason == "BUDGET_UNKNOWN"
    assert replica.told.failing == [True]
    assert await replica.ask(1) is None
    assert replica.told.failing == [True], "told once"
    replica.store.fault = ""
    assert await replica.ask(1_000), "nothing was lost by it"
    assert replica.told.failing == [True, False]


async def test_what_is_held_is_answered_while_the_store_is_away(replica: Replica):
    await replica.ask(1)
    await _settled(replica)
    replica.store.fault = "lost"
    assert await replica.ask(9)
    assert await replica.ask(1) is None


async def test_a_store_that_failed_is_left_alone_for_a_moment(replica: Replica):
    replica.store.fault = "lost"
    assert await replica.ask(1) is None
    for _ in range(20):
        with pytest.raises(OverQuota):
            await replica.budget.spend(1)
    assert replica.store.claims == 1


async def test_failing_open_goes_on_alarms_and_counts_it_later(tmp_path: Path):
    store = DirectoryStore(tmp_path)
    replica = Replica(store, Time(NOON), 1_000, fail_open=True)
    replica.store.fault = "lost"
    assert await replica.ask(5_000)
    assert replica.told.failing == [True]
    replica.store.fault = ""
    assert await replica.ask(1) is None
    assert replica.reason == "BUDGET_SPENT"
    replica.store.fault = "lost"
    assert await replica.ask(1) is None, "what is known to be spent stays spent"
    await replica.stop()


async def test_who_goes_away_while_the_store_is_asked_loses_nothing(replica: Replica):
    asking = asyncio.create_task(replica.budget.spend(10))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await replica.ask(1_000)


async def test_many_who_wait_share_one_claim(replica: Replica):
    await asyncio.gather(*(replica.budget.spend(1) for _ in range(10)))
    await _settled(replica)
    assert replica.store.claims <= 2


async def test_what_was_not_answered_is_given_back(replica: Replica):
    day = await replica.budget.spend(1_000)
    replica.budget.give_back(day, 1_000)
    assert await replica.ask(1_000)


async def test_a_higher_ceiling_counts_at_once(replica: Replica):
    await replica.ask(1_000)
    replica.budget.ceiling = 1_500
    assert await replica.ask(500)
    assert await replica.ask(1) is None


async def test_a_crash_loses_a_block_and_a_half_at_most(tmp_path: Path):
    store, block = DirectoryStore(tmp_path), 1_000
    ceiling = block * BLOCKS_A_DAY
    answered = 0
    for numbers in (1, 501, 999, 1_000, 1_001):
        replica = Replica(store, Time(NOON), ceiling)
        assert await replica.ask(numbers)
        answered += numbers
        await replica.crash()
        store = DirectoryStore(tmp_path)
    last = Replica(store, Time(NOON), ceiling)
    assert await last.ask(ceiling - answered - 5 * block * 3 // 2)
    await last.stop()


def test_a_block_is_small_beside_a_day_and_never_huge():
    ledger = Ledger(Faulty(DirectoryStore(Path("unused"))), Told())
    blocks = [Budget("one", ceiling, ledger)._block for ceiling in (1, 99, 10_000, 10**12)]
    assert blocks == [1, 1, 100, BLOCK_MAX]
