"""When the service must not answer, it says so with a proper status, and says nothing else."""

from __future__ import annotations

import asyncio
import time

import grpc
import numpy as np
import pytest

from ndoo.register.replica import Phase, State
from ndoo.register.view import Answers, View
from ndoo.revision import Revision
from ndoo.v1 import check_pb2
from server.conftest import GENERATION, NUMBERS, House, MakeHouse, view_of
from support.answers import Refused, refused

CANARY = int(NUMBERS[1234])
METHODS = ["Check", "BatchCheck", "StreamCheck"]


async def ask(house: House, method: str, **tokens: str) -> object:
    """Ask *method* about the canary, and return its first response."""
    if method == "Check":
        request = check_pb2.CheckRequest(nhs_number=f"{CANARY:010d}", **tokens)
        return await house.stub.Check(request)
    if method == "BatchCheck":
        return await house.stub.BatchCheck(
            check_pb2.BatchCheckRequest(nhs_numbers=[CANARY], **tokens)
        )
    request = check_pb2.StreamCheckRequest(nhs_numbers=[CANARY], **tokens)
    responses = [response async for response in house.stub.StreamCheck(iter([request]))]
    return responses[0].chunk


async def refusal_of(house: House, method: str, **tokens: str) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(house, method, **tokens)
    got = refused(caught.value)
    assert got.domain == "ndoo"
    assert str(CANARY) not in got.everything
    assert str(CANARY // 10) not in got.everything
    return got


@pytest.mark.parametrize("method", METHODS)
async def test_before_the_first_register(make_house: MakeHouse, method: str) -> None:
    house = await make_house()
    got = await refusal_of(house, method)
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LOADED")
    assert got.retry_s > 0


@pytest.mark.parametrize("method", METHODS)
async def test_a_register_too_old(house: House, method: str) -> None:
    house.publish({CANARY}, as_of=time.time() - 90_000)
    got = await refusal_of(house, method)
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STALE")
    register = await house.stub.GetRegister(check_pb2.GetRegisterRequest())
    assert register.phase == check_pb2.PHASE_STALE


@pytest.mark.parametrize("method", METHODS)
async def test_suspended(house: House, method: str) -> None:
    house.publish({CANARY}, suspended=True)
    got = await refusal_of(house, method)
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SUSPENDED")
    register = await house.stub.GetRegister(check_pb2.GetRegisterRequest())
    assert register.phase == check_pb2.PHASE_SUSPENDED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.CATCHING_UP])
async def test_reloading_answers_from_the_last_verified_register(
    house: House, method: str, phase: Phase
) -> None:
    house.publish({CANARY}, phase=phase, trouble="The feed was rewritten.")
    answer = await ask(house, method)
    assert answer.revision.token == Revision(GENERATION, 0).token


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", ["at_least_as_fresh", "exactly_at"])
async def test_tokens(house: House, method: str, field: str) -> None:
    house.publish({CANARY}, seq=7)
    here, other = Revision(GENERATION, 7), Revision("other", 7)
    assert (await ask(house, method, **{field: here.token})).revision.token == here.token
    got = await refusal_of(house, method, **{field: other.token})
    assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_GENERATION")
    assert got.retry_s is None
    got = await refusal_of(house, method, **{field: "nonsense"})
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_TOKEN")


@pytest.mark.parametrize("method", METHODS)
async def test_exactly_at_a_revision_that_is_gone(house: House, method: str) -> None:
    house.publish({CANARY}, seq=7)
    got = await refusal_of(house, method, exactly_at=Revision(GENERATION, 6).token)
    assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_GONE")


@pytest.mark.parametrize("method", METHODS)
async def test_at_least_as_fresh_waits_for_the_follower(house: House, method: str) -> None:
    asked = asyncio.create_task(ask(house, method, at_least_as_fresh=Revision(GENERATION, 1).token))
    await until_waiting(house, asked)
    house.opt_out(CANARY)
    answer = await asked
    assert answer.revision.token == Revision(GENERATION, 1).token
    if method == "Check":
        assert answer.verdict == check_pb2.VERDICT_OPTED_OUT


async def test_at_least_as_fresh_ends_with_the_deadline(house: House) -> None:
    token = Revision(GENERATION, 99).token
    request = check_pb2.CheckRequest(nhs_number=f"{CANARY:010d}", at_least_as_fresh=token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.Check(request, timeout=0.05)
    assert caught.value.code() in {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
    }


async def test_a_suspension_ends_the_wait_for_a_revision(house: House) -> None:
    asked = asyncio.create_task(
        refusal_of(house, "Check", at_least_as_fresh=Revision(GENERATION, 1).token)
    )
    await until_waiting(house, asked)
    house.publish({CANARY}, seq=1, suspended=True)
    assert (await asked).reason == "SUSPENDED"


async def test_a_stream_keeps_its_revision_while_changes_arrive(house: House) -> None:
    """The canary opts out in the middle of a stream: that stream is of the revision before."""
    house.publish(set())
    call = house.stub.StreamCheck()
    request = check_pb2.StreamCheckRequest(nhs_numbers=[CANARY])
    revisions = set()
    for _ in range(5):
        await call.write(request)
        chunk = (await call.read()).chunk
        revisions.add(chunk.revision.token)
        assert chunk.cleared == b"\x01"
        house.opt_out(CANARY if not house.opted_out else int(NUMBERS[len(house.opted_out)]))
    await call.done_writing()
    summary = (await call.read()).summary
    assert revisions == {summary.revision.token} == {Revision(GENERATION, 0).token}
    fresh = await ask(house, "StreamCheck")
    assert fresh.cleared == b"\x00"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"suspended": True}, "SUSPENDED"), ({"view": None, "as_of": 0.0}, None)],
)
async def test_a_running_stream_stops_when_answers_are_suspended(
    house: House, change: dict, reason: str | None
) -> None:
    call = house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[CANARY]))
    assert (await call.read()).chunk.count == 1
    house.publish(set(), **change)
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[CANARY]))
    if reason is None:  # a reload takes no running stream down: its view was verified
        assert (await call.read()).chunk.count == 1
        call.cancel()
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert refused(caught.value).reason == reason


async def test_a_suspension_in_mid_stream_leaves_no_summary(house: House) -> None:
    """Suspended between the last chunk and the end: the caller must not get a result."""
    call = house.stub.StreamCheck()
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[CANARY]))
    await call.read()
    house.publish(set(), suspended=True)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert refused(caught.value).reason == "SUSPENDED"


@pytest.mark.parametrize("count", [1, 20_000])
async def test_a_batch_overtaken_by_a_suspension_is_not_answered(
    house: House, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """It may have waited its turn behind other bulk work when everything was stopped."""
    answer = View.check_many

    def overtaken(view: View, numbers: np.ndarray) -> Answers:
        house.publish(set(), suspended=True)
        return answer(view, numbers)

    monkeypatch.setattr(View, "check_many", overtaken)
    request = check_pb2.BatchCheckRequest(nhs_numbers=np.full(count, CANARY, dtype=np.uint64))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.BatchCheck(request)
    assert refused(caught.value).reason == "SUSPENDED"


@pytest.mark.parametrize("method", ["BatchCheck", "StreamCheck"])
async def test_too_many_numbers(make_house: MakeHouse, method: str) -> None:
    house = await make_house(numbers_per_message_max=100)
    house.publish(set())
    numbers = np.full(101, CANARY, dtype=np.uint64)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "BatchCheck":
            await house.stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers))
        else:
            await house.stub.StreamCheck(
                iter([check_pb2.StreamCheckRequest(nhs_numbers=numbers)])
            ).read()
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_NUMBERS")
    assert str(CANARY) not in got.everything


@pytest.mark.parametrize("method", METHODS)
async def test_bytes_that_are_no_message(house: House, method: str) -> None:
    path = f"/ndoo.v1.OptOutCheck/{method}"
    rubbish = b"\x0a\xff\xff" + str(CANARY).encode()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "StreamCheck":
            await house.channel.stream_stream(path)(iter([rubbish])).read()
        else:
            await house.channel.unary_unary(path)(rubbish)
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert str(CANARY) not in got.everything


@pytest.mark.parametrize("method", METHODS)
async def test_fields_of_the_future_change_nothing(house: House, method: str) -> None:
    """A newer client's unknown field is passed over; the numbers are answered all the same."""
    house.publish({CANARY})
    future = b"\xf2\x06\x03new"  # field 110, three bytes
    path = f"/ndoo.v1.OptOutCheck/{method}"
    if method == "Check":
        message = check_pb2.CheckRequest(nhs_number=f"{CANARY:010d}").SerializeToString() + future
        raw = await house.channel.unary_unary(path)(message)
        assert check_pb2.CheckResponse.FromString(raw).verdict == check_pb2.VERDICT_OPTED_OUT
        return
    message = check_pb2.BatchCheckRequest(nhs_numbers=[CANARY] * 3).SerializeToString() + future
    if method == "BatchCheck":
        answer = check_pb2.BatchCheckResponse.FromString(
            await house.channel.unary_unary(path)(message)
        )
    else:
        raw = await house.channel.stream_stream(path)(iter([message])).read()
        answer = check_pb2.StreamCheckResponse.FromString(raw).chunk
    assert (answer.cleared, answer.invalid) == (b"\x00", b"")


async def test_an_empty_check_is_invalid(house: House) -> None:
    assert (await house.stub.Check(check_pb2.CheckRequest())).verdict == check_pb2.VERDICT_INVALID


async def test_a_message_over_the_byte_limit(make_house: MakeHouse) -> None:
    house = await make_house(numbers_per_message_max=100, message_bytes_max=4096)
    house.publish(set())
    numbers = np.full(1000, CANARY, dtype=np.uint64)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_compressed_messages_are_not_taken(house: House) -> None:
    numbers = np.full(1000, CANARY, dtype=np.uint64)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.BatchCheck(
            check_pb2.BatchCheckRequest(nhs_numbers=numbers), compression=grpc.Compression.Gzip
        )
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_streams_are_limited_and_a_cancelled_one_makes_room(make_house: MakeHouse) -> None:
    house = await make_house(streams_max=2)
    house.publish(set())
    calls = [house.stub.StreamCheck() for _ in range(2)]
    for call in calls:
        await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[CANARY]))
        assert (await call.read()).chunk.count == 1
    third = house.stub.StreamCheck()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await third.read()
    got = refused(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert got.retry_s > 0
    assert (await ask(house, "Check")).verdict == check_pb2.VERDICT_CLEARED
    calls[0].cancel()
    await until_sample(house, "ndoo_streams_in_flight", 1)
    assert (await ask(house, "StreamCheck")).count == 1
    calls[1].cancel()


async def test_large_batches_take_the_place_of_streams(make_house: MakeHouse) -> None:
    """Many at once would otherwise hold as much memory as their callers like."""
    house = await make_house(streams_max=1)
    house.publish(set())
    large = check_pb2.BatchCheckRequest(
        nhs_numbers=np.full(20_000, CANARY, dtype=np.uint64),
        at_least_as_fresh=Revision(GENERATION, 1).token,
    )
    waiting = asyncio.create_task(first_answer(house, large))
    await until_waiting(house, waiting)
    assert (await refusal_of(house, "StreamCheck")).reason == "TOO_MANY_STREAMS"
    assert (await ask(house, "Check")).verdict == check_pb2.VERDICT_CLEARED
    house.opt_out(CANARY)
    assert (await waiting).counts.opted_out == 20_000
    assert (await ask(house, "StreamCheck")).count == 1


async def first_answer(
    house: House, request: check_pb2.BatchCheckRequest
) -> check_pb2.BatchCheckResponse:
    return await house.stub.BatchCheck(request)


async def test_a_deadline_in_mid_stream_frees_its_place(house: House) -> None:
    call = house.stub.StreamCheck(timeout=0.1)
    await call.write(check_pb2.StreamCheckRequest(nhs_numbers=[CANARY]))
    assert (await call.read()).chunk.count == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until_sample(house, "ndoo_streams_in_flight", 0)
    labels = {
        "grpc_type": "bidi_stream",
        "grpc_service": "ndoo.v1.OptOutCheck",
        "grpc_method": "StreamCheck",
        "grpc_code": "DEADLINE_EXCEEDED",
    }
    assert house.metrics.registry.get_sample_value("grpc_server_handled_total", labels) == 1


async def test_a_fault_inside_tells_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object) -> None:
        raise ValueError(f"secret {CANARY}")

    monkeypatch.setattr("ndoo.register.view.View.check", fail)
    got = await refusal_of(house, "Check")
    assert (got.code, got.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    logged = " ".join(f"{record.getMessage()} {record.fields}" for record in caplog.records)
    assert "call_failed" in logged
    assert str(CANARY) not in logged + caplog.text


async def test_refusals_are_counted(make_house: MakeHouse) -> None:
    house = await make_house()
    await refusal_of(house, "Check")
    sample = house.metrics.registry.get_sample_value
    assert sample("ndoo_refused_total", {"reason": "NOT_LOADED"}) == 1
    labels = {"grpc_type": "unary", "grpc_service": "ndoo.v1.OptOutCheck", "grpc_method": "Check"}
    assert sample("grpc_server_handled_total", labels | {"grpc_code": "UNAVAILABLE"}) == 1
    assert sample("grpc_server_handled_total", labels | {"grpc_code": "OK"}) == 0


def test_a_view_belongs_to_one_revision() -> None:
    state = State(Phase.LIVE, view_of({CANARY}, seq=3), time.time())
    assert state.verified.token == Revision(GENERATION, 3).token


async def until_waiting(house: House, asked: asyncio.Task[object]) -> None:
    """Until the call *asked* waits inside the service for the next publication."""
    freshness = house.server._service._freshness
    while not freshness._waiting:
        assert not asked.done()
        await asyncio.sleep(0)


async def until_sample(house: House, name: str, value: float) -> None:
    while house.metrics.registry.get_sample_value(name) != value:
        await asyncio.sleep(0)
