"""Many tasks, few messages: each has its own answer, deadline, error and end."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from client.fake_service import TOKEN, FakeService, serving
from client.people import mixed_numbers
from client.test_client import MAY_BE_DISCLOSED, NUMBERS, OPTED_OUT, is_right
from client.threads import at_work
from ndoo.client import AsyncClient, CallFailed, ClientClosed, IncompleteAnswer, Verdict, aio, bulk
from ndoo.client.coalesce import BATCH_NUMBERS_MAX, Coalescer
from ndoo.v1 import check_pb2

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def service() -> FakeService:
    return FakeService(opted_out=OPTED_OUT, numbers_per_message=100)


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    with serving(service) as address:
        async with AsyncClient(address) as client:
            yield client


async def test_everybody_gets_the_right_answer(client: AsyncClient, service: FakeService) -> None:
    values = NUMBERS.tolist()
    verdicts = await asyncio.gather(*(client.check(value) for value in values))
    assert [verdict is Verdict.CLEARED for verdict in verdicts] == MAY_BE_DISCLOSED.tolist()
    assert verdicts == [service.verdict(value) for value in values]
    asked = [number for batch in service.batches for number in batch.nhs_numbers]
    assert len(asked) == len(values)
    assert len(service.batches) == 1, "all were asked in one turn of the loop"


async def test_text_and_nonsense(client: AsyncClient) -> None:
    opted_out = next(iter(OPTED_OUT))
    assert await client.check(f"{opted_out}") is Verdict.OPTED_OUT
    for nothing in ("", None, -1, 2**80, float("nan")):
        assert await client.check(nothing) is Verdict.INVALID
    with pytest.raises(TypeError):
        await client.check(True)
    answer = await client.answer(opted_out)
    assert (answer.verdict, answer.revision.token) == (Verdict.OPTED_OUT, TOKEN)


async def test_only_callers_with_equal_tokens_share_a_message(client, service) -> None:
    await asyncio.gather(
        client.check(1), client.check(2, exactly_at=TOKEN),
        client.check(3, at_least_as_fresh="earlier"), client.check(4, exactly_at=TOKEN),
    )  # fmt: skip
    sent = {(b.at_least_as_fresh, b.exactly_at): list(b.nhs_numbers) for b in service.batches}
    assert sent == {("", ""): [1], ("", TOKEN): [2, 4], ("earlier", ""): [3]}


async def test_another_revision_than_demanded_is_no_answer(client: AsyncClient) -> None:
    with pytest.raises(IncompleteAnswer):
        await client.check(1, exactly_at="another")


async def test_what_clears_nonsense_is_not_trusted(client, service) -> None:
    service.verdict = lambda _number: check_pb2.VERDICT_CLEARED
    with pytest.raises(IncompleteAnswer, match="no valid number"):
        await client.check(5)


@pytest.mark.parametrize(
    "harm",
    [
        lambda response: response.ClearField("cleared"),
        lambda response: response.ClearField("counts"),
        lambda response: response.ClearField("revision"),
        lambda response: setattr(response, "cleared", response.cleared + b"\0"),
        lambda response: setattr(response, "cleared", b"\xff" * len(response.cleared)),
        lambda response: setattr(response, "invalid", response.cleared),
        lambda response: setattr(response.counts, "received", 9),
    ],
)
async def test_a_broken_batch_is_no_answer(harm) -> None:
    class Harmed(FakeService):
        def BatchCheck(self, request, context):  # noqa: N802
            response = super().BatchCheck(request, context)
            harm(response)
            return response

    with serving(Harmed()) as address:
        async with AsyncClient(address) as client:
            results = await asyncio.gather(
                *(client.check(value) for value in NUMBERS[:10].tolist()), return_exceptions=True
            )
    assert all(isinstance(result, IncompleteAnswer) for result in results)
    assert len({id(result) for result in results}) == 10, "an error for each"


async def test_a_refusal_with_a_delay_is_tried_again(client, service) -> None:
    service.refusal, service.refusals_left = (UNAVAILABLE, "NOT_LOADED", "Not loaded."), 2
    assert await client.check(5) is Verdict.INVALID
    assert len(service.batches) == 3


async def test_of_two_replicas_one_may_be_gone(service) -> None:
    with serving(FakeService()) as dead:
        pass
    with serving(service) as address:
        async with AsyncClient([dead, address]) as client:
            assert await client.check(next(iter(OPTED_OUT))) is Verdict.OPTED_OUT
            assert is_right(await client.check_many(NUMBERS))


async def test_a_replica_at_another_revision_is_passed_over(service, monkeypatch) -> None:
    service.held = {TOKEN}
    with serving(service) as address, serving(FakeService(token="x", held={"x"})) as behind:
        for targets in ([behind, address], f"ipv4:{behind},{address}"):
            async with AsyncClient(targets) as client:
                for _ in range(2):
                    answer = await client.answer(5, exactly_at=TOKEN)
                    assert answer.revision.token == TOKEN
        async with AsyncClient(f"ipv4:{behind}") as client:
            with pytest.raises(CallFailed, match="gone"):
                await client.check(5, exactly_at=TOKEN)
            monkeypatch.setattr(aio, "TURN_PAUSE_S", 3.0)  # there is no time for another turn
            with pytest.raises(CallFailed, match="gone"):
                await client.check(5, exactly_at=TOKEN, timeout_s=2.0)


async def test_each_has_a_deadline_of_its_own(client, service) -> None:
    release = threading.Event()
    service.verdict = lambda _number: (release.wait(30), check_pb2.VERDICT_INVALID)[1]
    patient = asyncio.create_task(client.check(1))
    hasty = asyncio.create_task(client.check(2, timeout_s=0.05))
    with pytest.raises(CallFailed) as caught:
        await hasty
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not patient.done()
    release.set()
    assert await patient is Verdict.INVALID


async def test_who_goes_away_takes_nobody_along(client, service) -> None:
    release = threading.Event()
    service.verdict = lambda _number: (release.wait(30), check_pb2.VERDICT_INVALID)[1]
    staying, leaving = (asyncio.create_task(client.check(value)) for value in (1, 2))
    while not service.batches:
        await asyncio.sleep(0)
    leaving.cancel()
    release.set()
    assert await staying is Verdict.INVALID
    assert leaving.cancelled() or await asyncio.wait({leaving})


async def test_closing_ends_everybody(service) -> None:
    release = threading.Event()
    service.verdict = lambda _number: (release.wait(30), check_pb2.VERDICT_INVALID)[1]
    with serving(service) as address:
        client = AsyncClient(address)
        tasks = [asyncio.create_task(client.check(value)) for value in range(9)]
        column = asyncio.create_task(client.check_many(NUMBERS))
        while not (service.batches and service.requests):
            await asyncio.sleep(0)
        late = asyncio.create_task(client.check(3))
        await asyncio.sleep(0)
        await client.close()
        results = await asyncio.gather(*tasks, late, column, return_exceptions=True)
        release.set()
        assert [type(result) for result in results] == [ClientClosed] * 11
        with pytest.raises(ClientClosed):
            await client.check(5)
        await client.close()


async def test_columns(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SEGMENT_NUMBERS", 300)
    assert is_right(await client.check_many(NUMBERS))
    assert is_right(await client.check_set(NUMBERS))
    assert await client.filter(NUMBERS.tolist()) == NUMBERS[MAY_BE_DISCLOSED].tolist()
    parts = [slice(start, start + 250) for start in range(0, 1000, 250)]
    answers = [each async for each in client.check_each(NUMBERS[part] for part in parts)]
    assert all(is_right(answer, part) for answer, part in zip(answers, parts, strict=True))
    assert (await client.revision()).token == TOKEN


async def test_cancelling_a_column_ends_its_threads(client, service, monkeypatch) -> None:
    monkeypatch.setattr(bulk, "SEGMENT_NUMBERS", 300)
    release = threading.Event()

    def stuck(responses):
        yield next(responses)
        release.wait(30)

    service.flaw = stuck
    task = asyncio.create_task(client.check_many(NUMBERS))
    while not service.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while at_work():
        await asyncio.sleep(0)
    release.set()


async def test_cancelling_does_not_wait_for_whoever_makes_the_columns(client) -> None:
    begun, release, in_vain = threading.Event(), threading.Event(), []

    def columns():
        begun.set()
        in_vain.append(not release.wait(30))
        yield NUMBERS

    async def consume() -> None:
        async for _ in client.check_each(columns()):
            pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    while not in_vain:
        await asyncio.sleep(0)
    assert in_vain == [False], "the loop stood still until the columns had come"


@pytest.mark.parametrize("seed", range(5))
async def test_under_any_schedule_everybody_gets_his_own_answer(client, service, seed) -> None:
    """Tasks that come, go, are cancelled and time out, while batches fail now and then."""
    rng = random.Random(seed)
    numbers, service.opted_out = mixed_numbers(400, seed)
    service.refusal = (UNAVAILABLE, "NOT_LOADED", "Not loaded.")
    service.refusals_left = 3

    async def ask(value: int) -> None:
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        timeout_s = rng.choice([30.0, 30.0, 0.001])
        try:
            verdict = await client.check(value, timeout_s=timeout_s)
        except CallFailed:
            assert timeout_s < 1 or service.refusals_left >= 0
        else:
            assert verdict == service.verdict(value)

    tasks = [asyncio.create_task(ask(value)) for value in numbers.tolist()]
    for task in rng.sample(tasks, 40):
        await asyncio.sleep(0)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}


async def test_what_is_gathered_meanwhile_leaves_with_the_first_answer() -> None:
    sent: list[list[int]] = []
    held: list[asyncio.Future[None]] = []

    async def send(batch) -> None:
        sent.append(batch.numbers.tolist())
        held.append(asyncio.get_running_loop().create_future())
        await held[-1]
        raise IncompleteAnswer("Enough.")

    coalescer = Coalescer(send)
    callers = []

    async def ask(*numbers: int) -> None:
        callers.extend(coalescer.ask(number, ("", ""), 30.0) for number in numbers)
        for _ in range(3):
            await asyncio.sleep(0)

    await ask(1)
    await ask(2)
    await ask(3, 4)
    await ask(5)
    assert sent == [[1], [2]], "two are under way, the others wait"
    held[0].set_result(None)
    await ask()
    assert sent == [[1], [2], [3, 4, 5]]
    await ask(*range(BATCH_NUMBERS_MAX + 1))
    for each in held:
        each.done() or each.set_result(None)
    await ask()
    assert [len(batch) for batch in sent[3:]] == [BATCH_NUMBERS_MAX, 1]
    held[3].set_result(None)
    held[4].set_result(None)
    await ask()
    assert all(isinstance(caller.exception(), IncompleteAnswer) for caller in callers)
    assert not coalescer._lanes
    assert np.concatenate(sent).size == len(callers)
