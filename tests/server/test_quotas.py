"""How much a client may ask: its rate, its messages, its streams, and when all that changes."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndoo.register.view import Answers
from ndoo.server.quotas import STREAM_WAIT_S_MAX, Quota, Quotas, Rate
from ndoo.server.status import Busy, NotAllowed, OverQuota, refusal
from support.quotas import Time, Told, client_policy

MESSAGES = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 5_000), st.sampled_from([0.0, 5.0, 60.0])),
    min_size=1,
    max_size=40,
)


@given(rate=st.integers(1, 2_000), burst=st.integers(1, 2_000), messages=MESSAGES)
def test_never_more_than_the_rate_the_burst_and_one_message(rate, burst, messages):
    bucket = Rate(rate, burst, 0.0)
    now, gone = 0.0, []
    for passed_s, numbers, patience_s in messages:
        now += passed_s
        wait_s = bucket.wait_s(numbers, now)
        if wait_s <= patience_s:
            bucket.take(numbers)
            gone.append((now + wait_s, numbers))
    assert [at for at, _ in gone] == sorted(at for at, _ in gone), "who came first goes first"
    for first, last in itertools.combinations_with_replacement(range(len(gone)), 2):
        interval = gone[first : last + 1]
        let_through = sum(numbers for _, numbers in interval)
        elapsed_s = interval[-1][0] - interval[0][0]
        one = max(burst, *(numbers for _, numbers in interval), 0)
        assert let_through <= (rate * elapsed_s + one) * (1 + 1e-9) + 1e-3


@given(rate=st.integers(1, 2_000), burst=st.integers(1, 2_000), messages=MESSAGES)
def test_who_waits_as_long_as_told_goes_whatever_the_size(rate, burst, messages):
    bucket = Rate(rate, burst, 0.0)
    now = 0.0
    for passed_s, numbers, _ in messages:
        now += passed_s
        now += bucket.wait_s(numbers, now) + 1e-3
        assert bucket.wait_s(numbers, now) == 0.0
        bucket.take(numbers)


def quota(time: Time | None = None, **limits: object) -> Quota:
    time = time or Time()
    return Quota(client_policy(**limits), Told(), time, time.sleep)


async def test_a_single_call_is_told_when_to_come_again_and_then_goes():
    time = Time()
    one = quota(time, numbers_per_second=100, burst=150)
    call = one.begin("BatchCheck")
    await call.spend(150)
    with pytest.raises(OverQuota) as refused:
        await call.spend(50)
    assert refused.value.reason == "RATE_EXCEEDED"
    assert refused.value.retry_s == pytest.approx(0.5, abs=0.002)
    assert not time.slept
    told_s = int(refused.value.retry_s * 1000) / 1000  # as it goes over the wire
    time.now += told_s
    await call.spend(50)


async def test_a_stream_waits_for_all_that_its_client_asks():
    time = Time()
    one = quota(time, numbers_per_second=100, burst=100)
    streams = [one.begin("StreamCheck"), one.begin("CheckSet")]
    for stream in streams * 3:
        await stream.spend(100)
    assert time.now == pytest.approx(1_005.0)


async def test_a_stream_does_not_wait_for_ever():
    time = Time()
    one = quota(time, numbers_per_second=1, burst=1)
    stream = one.begin("StreamCheck")
    await stream.spend(2 + int(STREAM_WAIT_S_MAX))
    with pytest.raises(OverQuota) as refused:
        await stream.spend(1)
    assert refused.value.retry_s > STREAM_WAIT_S_MAX


async def test_what_was_waited_for_in_vain_is_given_back():
    time = Time()
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    one = Quota(client_policy(numbers_per_second=10, burst=10), Told(), time, sleep)
    await one.begin("StreamCheck").spend(10)
    task = asyncio.create_task(one.begin("StreamCheck").spend(100))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    time.now += 1.0
    await one.begin("Check").spend(10)


async def test_no_numbers_need_no_room():
    one = quota(numbers_per_second=10, burst=10)
    call = one.begin("BatchCheck")
    await call.spend(10)
    await call.spend(0)


async def test_a_client_that_may_ask_nothing_a_second_asks_nothing():
    with pytest.raises(OverQuota) as refused:
        await quota(numbers_per_second=0, burst=0).begin("Check").spend(1)
    assert refused.value.retry_s is None


async def test_a_message_may_be_too_large_for_a_client():
    call = quota(numbers_per_message=10).begin("BatchCheck")
    await call.spend(10)
    with pytest.raises(NotAllowed) as refused:
        await call.spend(11)
    assert refusal(refused.value).reason == "TOO_LARGE_FOR_CLIENT"


def test_streams_of_a_client_are_counted_and_calls_are_not():
    one = quota(streams=2)
    first, second, third = (one.begin(rpc) for rpc in ("StreamCheck", "BatchCheck", "CheckSet"))
    first.take_place()
    second.take_place()  # a large one
    with pytest.raises(Busy):
        third.take_place()
    third.release()
    with pytest.raises(Busy):
        one.begin("StreamCheck").take_place()
    first.release()
    one.begin("StreamCheck").take_place()


async def test_new_limits_do_not_forget_what_was_asked():
    time = Time()
    quotas = Quotas(Told(), clock=time, sleep=time.sleep)
    old = client_policy(numbers_per_second=100, burst=100)
    await quotas.for_client(old).begin("Check").spend(100)
    new = client_policy(numbers_per_second=10, burst=50)
    renewed = quotas.for_client(new)
    assert renewed is quotas.for_client(old), "one client, one quota"
    renewed = quotas.for_client(new)
    with pytest.raises(OverQuota) as refused:
        await renewed.begin("Check").spend(10)
    assert refused.value.retry_s == pytest.approx(1.0, abs=0.002)


async def test_clients_do_not_share():
    quotas = Quotas(Told(), clock=Time())
    first, second = (client_policy(name, numbers_per_second=10) for name in ("one", "two"))
    await quotas.for_client(first).begin("Check").spend(10)
    await quotas.for_client(second).begin("Check").spend(10)


async def test_a_budget_that_is_nowhere_kept_is_no_budget_without_end():
    with pytest.raises(RuntimeError):
        Quotas(Told()).for_client(client_policy(numbers_per_day=10))


async def test_what_is_spent_is_counted_by_client():
    told = Told()
    call = Quota(client_policy("one"), told, Time()).begin("Check")
    await call.spend(3)
    call.observe(Answers(3, b"\0", b"", 0, 0), lambda: np.empty(0, np.uint32))
    call.release()
    assert told.spent == {"one": 3}
    assert call.marks == ()
