"""`exactly_at` over real servers: any replica, any revision of the last hour, the same answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from pyroaring import BitMap

from ndoo.errors import RevisionGone
from ndoo.feed.feed import Batch
from ndoo.feed.follower import Follower
from ndoo.register.changes import Change, Kind
from ndoo.register.digest import digest_of
from ndoo.register.history import History
from ndoo.register.register import Register
from ndoo.register.replica import Phase, State
from ndoo.register.snapshot import Snapshot
from ndoo.register.view import View
from ndoo.revision import Revision
from ndoo.server.past import VIEWS_MAX, Flights, Past
from ndoo.server.service import Service
from ndoo.server.status import Busy
from ndoo.v1 import check_pb2
from server.conftest import GENERATION, House, MakeHouse
from support.answers import Refused, bits, refused
from support.people import KEYS, number

PEOPLE = 300
NUMBERS = np.array([int(number(person)) for person in range(PEOPLE)], dtype=np.uint64)
METHODS = ["Check", "BatchCheck", "StreamCheck", "CheckSet", "GetRegister"]
ON_TIME_S = 30.0


def changes_of(seed: int, count: int) -> list[Change]:
    """*count* choices of random people, some of whom turn out to be one."""
    rng = random.Random(seed)
    now_ms = int(time.time() * 1000)
    made = []
    for seq in range(1, count + 1):
        one, other = (KEYS[person] for person in rng.sample(range(PEOPLE), 2))
        if rng.random() < 0.05:
            made.append(Change(Kind.SUPERSEDE, seq, one, other, recorded_ms=now_ms))
        else:
            kind = rng.choice([Kind.OPT_OUT, Kind.OPT_IN])
            made.append(Change(kind, seq, one, recorded_ms=now_ms))
    return made


def first_snapshot() -> Snapshot:
    return Snapshot(Revision(GENERATION, 0), "0", "now", BitMap(KEYS[:PEOPLE:3]))


def keys_after(changes: list[Change], seq: int) -> np.ndarray:
    register = Register(first_snapshot())
    register.apply(changes[:seq])
    return register.keys()


class Feeder:
    """What a follower does, step by step: *house* gets the changes in batches of our choice."""

    def __init__(self, house: House, changes: list[Change], **more: object) -> None:
        self.house = house
        self.changes = changes
        self.register = Register(first_snapshot())
        self.history = History(self.register.revision, 3600.0)
        self.view = View.of(self.register.keys(), self.register.revision)
        self.publish(**more)

    def publish(self, **more: object) -> None:
        fields = {"as_of": time.time(), "suspended": self.register.suspended} | more
        self.history.confirm(self.register.revision.seq, fields["as_of"])
        state = State(Phase.LIVE, self.view, trouble="", history=self.history, **fields)
        self.house.replica.publish(state)

    def take(self, count: int, **more: object) -> None:
        at = self.register.revision.seq
        batch = self.changes[at : at + count]
        applied = self.register.apply(batch)
        self.history.record(batch, applied)
        self.view = self.view.with_flips(applied, self.register.revision)
        self.publish(**more)


def token(seq: int) -> str:
    return Revision(GENERATION, seq).token


async def ask(house: House, method: str, **tokens: str) -> tuple[np.ndarray, check_pb2.Revision]:
    """Who of PEOPLE is cleared, and the revision that said so; for GetRegister, the digest."""
    stub, numbers = house.stub, NUMBERS
    match method:
        case "Check":
            requests = (
                check_pb2.CheckRequest(nhs_number=f"{one:010d}", **tokens) for one in numbers[:9]
            )
            answers = [await stub.Check(request) for request in requests]
            verdicts = [answer.verdict == check_pb2.VERDICT_CLEARED for answer in answers]
            return np.array(verdicts), answers[-1].revision
        case "BatchCheck":
            answer = await stub.BatchCheck(
                check_pb2.BatchCheckRequest(nhs_numbers=numbers, **tokens)
            )
            return bits(answer.cleared, len(numbers)), answer.revision
        case "StreamCheck":
            requests = [check_pb2.StreamCheckRequest(nhs_numbers=numbers, **tokens)]
            responses = [response async for response in stub.StreamCheck(iter(requests))]
            return bits(responses[0].chunk.cleared, len(numbers)), responses[-1].summary.revision
        case "CheckSet":
            keys = BitMap(KEYS[:PEOPLE]).serialize()
            requests = [check_pb2.CheckSetRequest(keys=keys, **tokens)]
            responses = [response async for response in stub.CheckSet(iter(requests))]
            cleared = BitMap.deserialize(responses[0].chunk.cleared)
            return np.isin(KEYS[:PEOPLE], list(cleared)), responses[-1].summary.revision
        case _:
            request = check_pb2.GetRegisterRequest(with_digest=True, **tokens)
            register = await stub.GetRegister(request)
            return np.frombuffer(register.digest, np.uint8), register.revision


def truth(changes: list[Change], seq: int, method: str) -> np.ndarray:
    keys = keys_after(changes, seq)
    if method == "GetRegister":
        return np.frombuffer(digest_of(keys), np.uint8)
    cleared = ~np.isin(KEYS[:PEOPLE], keys)
    return cleared[:9] if method == "Check" else cleared


async def refusal_of(house: House, method: str, **tokens: str) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(house, method, **tokens)
    return refused(caught.value)


@pytest.fixture(name="changes")
def _changes() -> list[Change]:
    return changes_of(20_240_901, 400)


@pytest.fixture(name="feeder")
async def _feeder(make_house: MakeHouse, changes: list[Change]) -> Feeder:
    """A server that has come to change 40 of the feed, in batches of 10."""
    feeder = Feeder(await make_house(), changes)
    for _ in range(4):
        feeder.take(10)
    return feeder


@pytest.mark.parametrize("method", METHODS)
async def test_replicas_with_other_batches_answer_alike_at_every_revision(
    make_house: MakeHouse, changes: list[Change], method: str
) -> None:
    feeders = [Feeder(await make_house(), changes) for _ in range(2)]
    for feeder, sizes in zip(feeders, ([7, 13, 20, 3], [1, 40, 2])):
        for size in sizes:
            feeder.take(size)
    for seq in (0, 5, 7, 20, 33, 39, 40, 41, 43):
        for feeder in feeders:
            answer, revision = await ask(feeder.house, method, exactly_at=token(seq))
            assert revision.token == token(seq)
            assert (answer == truth(changes, seq, method)).all(), (method, seq)


@pytest.mark.parametrize("method", METHODS)
async def test_a_revision_to_come_is_waited_for_and_may_be_overtaken(
    feeder: Feeder, method: str
) -> None:
    asked = asyncio.create_task(ask(feeder.house, method, exactly_at=token(45)))
    await until_waiting(feeder.house)
    feeder.take(3)
    await until_waiting(feeder.house)
    assert not asked.done()
    feeder.take(20)
    answer, revision = await asked
    assert revision.token == token(45)
    assert (answer == truth(feeder.changes, 45, method)).all()


async def until_waiting(house: House) -> None:
    waiting = house.server._service._freshness._waiting
    async with asyncio.timeout(ON_TIME_S):
        while not waiting:
            await asyncio.sleep(0)


@pytest.mark.parametrize("method", METHODS)
async def test_what_is_not_kept_is_gone(
    make_house: MakeHouse, changes: list[Change], method: str
) -> None:
    now = time.time()
    feeder = Feeder(await make_house(), changes, as_of=now - 7200)
    feeder.take(10, as_of=now - 3700)
    feeder.take(10)
    for seq in (0, 9):
        got = await refusal_of(feeder.house, method, exactly_at=token(seq))
        assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_GONE")
        assert got.retry_s is None
    answer, _ = await ask(feeder.house, method, exactly_at=token(10))
    assert (answer == truth(changes, 10, method)).all()
    got = await refusal_of(feeder.house, method, exactly_at=Revision("other", 10).token)
    assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_GENERATION")


@pytest.mark.parametrize("method", METHODS)
async def test_while_suspended_the_past_is_not_answered_either(feeder: Feeder, method: str) -> None:
    assert await ask(feeder.house, method, exactly_at=token(20))
    feeder.publish(suspended=True)
    for seq in (20, 40):
        got = await refusal_of(feeder.house, method, exactly_at=token(seq))
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SUSPENDED")
    feeder.publish()
    assert await ask(feeder.house, method, exactly_at=token(20))


@pytest.mark.parametrize("method", METHODS)
async def test_a_past_revision_is_as_old_as_its_own_moment(
    make_house: MakeHouse, changes: list[Change], method: str
) -> None:
    now = time.time()
    feeder = Feeder(await make_house(staleness_s_max=1000.0), changes, as_of=now - 3000)
    for age_s in (2000, 500, 0):
        feeder.take(10, as_of=now - age_s)
    got = await refusal_of(feeder.house, method, exactly_at=token(15))
    assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_GONE")
    _, revision = await ask(feeder.house, method, exactly_at=token(25))
    assert revision.as_of.ToMicroseconds() / 1e6 == pytest.approx(now - 500, abs=1e-3)


@pytest.mark.parametrize("method", METHODS[:4])
async def test_both_demands_together(feeder: Feeder, method: str) -> None:
    got = await refusal_of(
        feeder.house, method, exactly_at=token(999), at_least_as_fresh=token(1000)
    )
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKENS_CONTRADICT")
    for least in (0, 19, 20):
        answer, revision = await ask(
            feeder.house, method, exactly_at=token(20), at_least_as_fresh=token(least)
        )
        assert revision.token == token(20)
        assert (answer == truth(feeder.changes, 20, method)).all()
    for other in ("exactly_at", "at_least_as_fresh"):
        tokens = {"exactly_at": token(5), "at_least_as_fresh": token(9)}
        tokens[other] = Revision("other", 7).token
        assert (await refusal_of(feeder.house, method, **tokens)).reason == "OTHER_GENERATION"


async def test_a_stream_stays_at_its_past_revision_while_changes_arrive(feeder: Feeder) -> None:
    call = feeder.house.stub.StreamCheck()
    expected = truth(feeder.changes, 25, "StreamCheck")
    for turn in range(10):
        tokens = {} if turn else {"exactly_at": token(25)}
        await call.write(check_pb2.StreamCheckRequest(nhs_numbers=NUMBERS, **tokens))
        chunk = (await call.read()).chunk
        assert chunk.revision.token == token(25)
        assert (bits(chunk.cleared, len(NUMBERS)) == expected).all()
        feeder.take(7)
    await call.done_writing()
    assert (await call.read()).summary.revision.token == token(25)


async def test_tasks_of_a_job_share_one_view(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    view_at = History.view_at

    def counted(self: History, seq: int, newest: View) -> View:
        made.append(seq)
        return view_at(self, seq, newest)

    monkeypatch.setattr(History, "view_at", counted)
    await asyncio.gather(
        *(ask(feeder.house, "BatchCheck", exactly_at=token(17)) for _ in range(20))
    )
    feeder.take(5)
    await ask(feeder.house, "StreamCheck", exactly_at=token(17))
    assert made == [17]


async def test_only_a_few_past_revisions_are_answered_from_at_once(feeder: Feeder) -> None:
    calls = []
    for seq in range(VIEWS_MAX):
        call = feeder.house.stub.StreamCheck()
        request = check_pb2.StreamCheckRequest(nhs_numbers=NUMBERS, exactly_at=token(seq))
        await call.write(request)
        assert (await call.read()).chunk.revision.token == token(seq)
        calls.append(call)
    got = await refusal_of(feeder.house, "Check", exactly_at=token(30))
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REVISIONS")
    assert got.retry_s > 0
    assert await ask(feeder.house, "Check", exactly_at=token(2)), "one in use serves others too"
    assert await ask(feeder.house, "Check"), "the current revision is always there"
    for call in calls:
        await call.done_writing()
        assert (await call.read()).WhichOneof("message") == "summary"
        assert await call.code() is grpc.StatusCode.OK
    for seq in range(10, 20):
        _, revision = await ask(feeder.house, "BatchCheck", exactly_at=token(seq))
        assert revision.token == token(seq)


async def test_a_suspension_while_the_view_is_made_is_heeded(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    view_at = History.view_at

    def slow(self: History, seq: int, newest: View) -> View:
        begun.set()
        assert go_on.wait(ON_TIME_S)
        return view_at(self, seq, newest)

    monkeypatch.setattr(History, "view_at", slow)
    number = f"{NUMBERS[0]:010d}"
    # One call alone: another, asked later, would be refused for the state it finds.
    call = feeder.house.stub.Check(check_pb2.CheckRequest(nhs_number=number, exactly_at=token(3)))
    assert await asyncio.to_thread(begun.wait, ON_TIME_S)
    feeder.publish(suspended=True)
    go_on.set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert refused(caught.value).reason == "SUSPENDED"


async def test_get_register_tells_of_a_past_revision(feeder: Feeder) -> None:
    get = feeder.house.stub.GetRegister
    past = await get(check_pb2.GetRegisterRequest(exactly_at=token(12), with_digest=True))
    keys = keys_after(feeder.changes, 12)
    assert (past.revision.token, past.opt_outs) == (token(12), len(keys))
    assert past.digest == digest_of(keys)
    assert past.phase == check_pb2.PHASE_LIVE
    assert past.limits.streams
    assert not (await get(check_pb2.GetRegisterRequest(exactly_at=token(12)))).digest


async def test_the_digest_is_told_in_every_phase_that_has_a_register(
    make_house: MakeHouse, changes: list[Change]
) -> None:
    house = await make_house()
    request = check_pb2.GetRegisterRequest(with_digest=True)
    assert not (await house.stub.GetRegister(request)).digest
    feeder = Feeder(house, changes)
    for more, phase in (
        ({}, check_pb2.PHASE_LIVE),
        ({"suspended": True}, check_pb2.PHASE_SUSPENDED),
        ({"as_of": time.time() - 90_000}, check_pb2.PHASE_STALE),
    ):
        feeder.publish(**more)
        register = await house.stub.GetRegister(request)
        assert register.phase == phase
        assert register.digest == digest_of(keys_after(changes, 0))


async def test_get_register_without_a_digest_asks_no_thread(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "_digest", lambda *_: pytest.fail("it read the register"))
    register = await feeder.house.stub.GetRegister(check_pb2.GetRegisterRequest())
    assert (register.revision.token, register.digest) == (token(40), b"")


async def test_a_malformed_get_register_is_refused(feeder: Feeder) -> None:
    method = feeder.house.channel.unary_unary("/ndoo.v1.OptOutCheck/GetRegister")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\x0a\xff")
    assert refused(caught.value).reason == "MALFORMED_MESSAGE"


class MovingFeed:
    """A feed in memory, whose every reader gets batches of other sizes."""

    name = "moving"

    def __init__(self, changes: list[Change], rng: random.Random) -> None:
        self.changes = changes
        self._rng = rng
        self._closed = threading.Event()

    def load(self) -> Snapshot:
        return first_snapshot()

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        self._closed.wait(0.001)
        taken = self.changes[revision.seq :][: self._rng.randint(1, 40)]
        end = revision.seq + len(taken)
        return Batch(tuple(taken), str(end), complete=end == len(self.changes))

    def close(self) -> None:
        self._closed.set()


@contextlib.contextmanager
def followed(house: House, feed: MovingFeed) -> Iterator[Follower]:
    follower = Follower(feed, house.replica, clock=time.time)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(follower.run)
        try:
            yield follower
        finally:
            follower.stop()
            running.result()


async def test_followers_of_a_moving_feed_answer_alike(make_house: MakeHouse) -> None:
    seed = 20_241_122
    rng, changes = random.Random(seed), changes_of(seed, 4_000)
    recorded = changes[:50]  # grows while the questions are asked
    houses = [await make_house() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for turn, house in enumerate(houses):
            stack.enter_context(followed(house, MovingFeed(recorded, random.Random(seed + turn))))
        await until(lambda: all(house.replica.state.view for house in houses))
        while len(recorded) < len(changes):
            recorded += changes[len(recorded) :][: rng.randint(1, 120)]
            seq = rng.randint(max(0, len(recorded) - 300), len(recorded))
            method = rng.choice(METHODS)
            first, second = await asyncio.gather(
                *(ask(house, method, exactly_at=token(seq)) for house in houses)
            )
            assert first[1].token == second[1].token == token(seq)
            assert (first[0] == truth(changes, seq, method)).all()
            assert (second[0] == first[0]).all()


@pytest.fixture(name="executor")
def _executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def state_of(changes: list[Change]) -> State:
    register = Register(first_snapshot())
    history = History(register.revision, 3600.0)
    history.confirm(0, 1.0)
    history.record(changes, register.apply(changes))
    view = View.of(register.keys(), register.revision)
    return State(Phase.LIVE, view, 2.0, history=history)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(ON_TIME_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_view_that_nobody_asks_for_any_more_is_dropped(
    executor: Executor, changes: list[Change]
) -> None:
    past = Past(executor, keep_s=0.0)
    await past.state_at(3, state_of(changes))
    await until(lambda: not past._living)
    assert not past._kept


async def test_the_least_recently_asked_for_goes_first(
    executor: Executor, changes: list[Change]
) -> None:
    past, newest = Past(executor, views_max=2), state_of(changes)
    for seq in (1, 2, 1, 3):
        state = await past.state_at(seq, newest)
        assert state.verified.revision.seq == seq
        del state
        await asyncio.sleep(0)  # asyncio lets go of what it handed over
    assert sorted(seq for _, seq in past._living) == [1, 3]


async def test_no_more_views_are_made_at_once_than_may_live(
    executor: Executor, changes: list[Change]
) -> None:
    past, newest = Past(executor, views_max=2), state_of(changes)
    made = await asyncio.gather(
        *(past.state_at(seq, newest) for seq in (1, 2, 3, 2)), return_exceptions=True
    )
    assert [one.verified.revision.seq for one in (made[0], made[1], made[3])] == [1, 2, 2]
    assert isinstance(made[2], Busy)
    assert len(past._living) == 2


async def test_without_a_history_all_but_the_current_is_gone(executor: Executor) -> None:
    with pytest.raises(RevisionGone):
        await Past(executor).state_at(1, State())


async def test_another_history_is_another_past(executor: Executor, changes: list[Change]) -> None:
    """A feed that was loaded again under the same names is not answered from what was before."""
    past = Past(executor)
    first = await past.state_at(50, state_of(changes))
    second = await past.state_at(50, state_of(changes_of(7, 100)))
    assert first.verified.digest() == digest_of(keys_after(changes, 50))
    assert second.verified.digest() == digest_of(keys_after(changes_of(7, 100), 50))


async def test_work_goes_on_when_one_who_waits_for_it_goes_away() -> None:
    flights: Flights[int] = Flights()
    begun, go_on, runs = asyncio.Event(), asyncio.Event(), []

    async def work() -> int:
        runs.append(1)
        begun.set()
        await go_on.wait()
        return 7

    first = asyncio.create_task(flights.do("key", work))
    await begun.wait()
    second = asyncio.create_task(flights.do("key", work))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert await second == 7
    assert runs == [1]
    assert len(flights) == 0


async def test_work_that_fails_unseen_says_nothing() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    flights: Flights[int] = Flights()
    go_on = asyncio.Event()

    async def work() -> int:
        await go_on.wait()
        raise RevisionGone("gone")

    waiting = asyncio.create_task(flights.do("key", work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await until(lambda: len(flights) == 0)
    await asyncio.sleep(0)
    gc.collect()
    assert not told
