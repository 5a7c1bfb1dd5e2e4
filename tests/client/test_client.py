"""A client gives right and whole answers of one revision, or an error; whatever breaks."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest

from client.fake_service import AS_OF_S, TOKEN, FakeService, Response, refuse, serving, serving_raw
from client.flaws import FLAWS
from client.people import mixed_numbers
from client.test_sets import SetService
from client.threads import at_work
from ndoo import nhs_number
from ndoo.client import (
    CallFailed,
    Client,
    ClientClosed,
    ClientError,
    IncompleteAnswer,
    Verdict,
    Verdicts,
    bulk,
    job,
)
from ndoo.client import (
    client as client_module,
)
from ndoo.client.answers import Summary
from ndoo.client.columns import Column
from ndoo.v1 import check_pb2

SEED = 20_261_122
CHUNK = 100
SEGMENT = 300
NUMBERS, OPTED_OUT = mixed_numbers(1000, SEED)
IS_VALID = nhs_number.valid(NUMBERS)
MAY_BE_DISCLOSED = IS_VALID & ~np.isin(NUMBERS, list(OPTED_OUT))
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand numbers make four segments of up to three chunks."""
    monkeypatch.setattr(bulk, "SEGMENT_NUMBERS", SEGMENT)


@pytest.fixture
def service() -> FakeService:
    return FakeService(opted_out=OPTED_OUT, numbers_per_message=CHUNK)


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with serving(service) as address, Client(address, timeout_s=30.0) as client:
        yield client


def is_right(verdicts: Verdicts, numbers: slice = slice(None)) -> bool:
    """Whether every verdict is, about the part *numbers* of NUMBERS; and all that goes with it."""
    np.testing.assert_array_equal(verdicts.cleared, MAY_BE_DISCLOSED[numbers])
    np.testing.assert_array_equal(verdicts.invalid, ~IS_VALID[numbers])
    np.testing.assert_array_equal(verdicts.opted_out, (IS_VALID & ~MAY_BE_DISCLOSED)[numbers])
    summary = verdicts.summary
    assert summary.received == len(verdicts) == len(NUMBERS[numbers])
    assert summary.cleared == verdicts.cleared.sum()
    assert summary.opted_out == verdicts.opted_out.sum()
    assert summary.invalid == verdicts.invalid.sum()
    return True


def test_one_number(client: Client) -> None:
    opted_out = next(iter(OPTED_OUT))
    assert client.check(opted_out) is Verdict.OPTED_OUT
    assert client.check(f"{opted_out}") is Verdict.OPTED_OUT
    cleared = int(NUMBERS[MAY_BE_DISCLOSED][0])
    assert client.check(cleared) is Verdict.CLEARED
    answer = client.answer(cleared)
    assert (answer.verdict, answer.revision.token) == (Verdict.CLEARED, TOKEN)
    assert answer.revision.as_of.timestamp() == AS_OF_S


@pytest.mark.parametrize("value", ["", "x", None, -1, 1.5, 2**80, float("nan"), 9990000019])
def test_what_is_no_number_is_invalid(client: Client, value: object) -> None:
    assert client.check(value) is Verdict.INVALID


@pytest.mark.parametrize("value", [True, [9990000018], np.array([9990000018])])
def test_what_cannot_be_one_number_is_refused(client: Client, value: object) -> None:
    with pytest.raises(TypeError):
        client.check(value)


def test_only_cleared_is_true() -> None:
    assert [bool(verdict) for verdict in Verdict] == [
        verdict is Verdict.CLEARED for verdict in Verdict
    ]


def test_many_verdicts_are_neither_true_nor_writable(client: Client) -> None:
    verdicts = client.check_many(NUMBERS)
    with pytest.raises(TypeError):
        bool(verdicts)
    with pytest.raises(ValueError, match="read-only"):
        verdicts.cleared[0] = True
    assert "99" not in repr(verdicts).replace(str(verdicts.summary), "")
    assert [verdicts[place] is Verdict.CLEARED for place in range(50)] == list(
        MAY_BE_DISCLOSED[:50]
    )


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 299, 300, 301, 599, 600, 999, 1000])
def test_a_column_of_any_length(client: Client, count: int) -> None:
    assert is_right(client.check_many(NUMBERS[:count]), slice(0, count))


def test_messages_are_no_larger_than_the_service_takes(
    client: Client, service: FakeService
) -> None:
    client.check_many(NUMBERS)
    assert max(len(request.nhs_numbers) for request in service.requests) == CHUNK


def test_all_streams_of_a_job_demand_one_revision(client: Client, service: FakeService) -> None:
    client.check_many(NUMBERS)
    firsts = [request.exactly_at for request in service.requests if request.exactly_at]
    assert firsts == [TOKEN] * 4
    assert len(service.batches) == 1


def test_tokens_are_passed_on(client: Client, service: FakeService) -> None:
    client.check_many(NUMBERS, at_least_as_fresh="earlier")
    assert service.batches[0].at_least_as_fresh == "earlier"
    service.requests.clear()
    client.check_many(NUMBERS[:5], at_least_as_fresh="earlier")
    assert service.requests[0].at_least_as_fresh == "earlier"
    for ask in (client.check_many, client.filter, client.check_set):
        with pytest.raises(IncompleteAnswer):
            ask(NUMBERS, exactly_at="another")
    with pytest.raises(IncompleteAnswer):
        client.check(5, exactly_at="another")


def test_a_revision_can_be_handed_around(client: Client) -> None:
    token = client.revision().token
    assert client.check_many(NUMBERS, exactly_at=token).revision.token == token


def test_filter_keeps_the_cleared(client: Client) -> None:
    kept = client.filter(NUMBERS.tolist())
    assert kept == NUMBERS[MAY_BE_DISCLOSED].tolist()


@pytest.mark.parametrize("widths", [[1000], [0, 1, 299, 0, 300, 1, 399, 0], [50] * 20, []])
def test_columns_are_answered_in_order(client: Client, widths: list[int]) -> None:
    ends = list(itertools.accumulate(widths))
    parts = [slice(end - width, end) for end, width in zip(ends, widths)]
    answers = list(client.check_each(NUMBERS[part] for part in parts))
    assert len(answers) == len(parts)
    assert all(is_right(answer, part) for answer, part in zip(answers, parts))


def test_columns_are_read_a_few_segments_ahead(client: Client) -> None:
    taken = 0

    def columns() -> Iterator[np.ndarray]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield NUMBERS[:SEGMENT]

    for answered, _ in enumerate(client.check_each(columns())):
        assert taken - answered < 10
    assert taken == 100


def test_each_of_many_short_columns_is_measured_once_or_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = 0
    length_of = Column.__len__

    def counted(column: Column) -> int:
        nonlocal measured
        measured += 1
        return length_of(column)

    monkeypatch.setattr(Column, "__len__", counted)
    parts = [slice(start, start + 2) for start in range(0, len(NUMBERS), 2)]
    answers = list(client.check_each(NUMBERS[part] for part in parts))
    assert measured < 5 * len(parts)
    assert all(is_right(answer, part) for answer, part in zip(answers, parts))


def test_an_error_while_columns_are_read_reaches_the_caller(client: Client) -> None:
    def columns() -> Iterator[np.ndarray]:
        yield NUMBERS
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        list(client.check_each(columns()))


def test_an_abandoned_job_leaves_nothing_running(client: Client) -> None:
    job = client.check_each(NUMBERS[:SEGMENT] for _ in range(100))
    next(job)
    job.close()
    assert not at_work()
    assert is_right(client.check_many(NUMBERS))


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
@pytest.mark.parametrize("count", [250, 1000])
def test_a_broken_answer_is_none(client, service, flaw, count) -> None:
    service.flaw = flaw
    with pytest.raises(IncompleteAnswer) as caught:
        client.check_many(NUMBERS[:count])
    assert not any(character.isdigit() for character in str(caught.value))


@pytest.mark.parametrize("broken", [0, 1, 2, 3])
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_one_broken_stream_of_many_leaves_no_result(client, service, flaw, broken) -> None:
    streams = itertools.count()
    service.flaw = lambda responses: flaw(responses) if next(streams) == broken else responses
    with pytest.raises(IncompleteAnswer):
        # The last segment is one chunk long, and some flaws need two.
        client.check_many(NUMBERS[np.r_[0:900, 0:300]])


class Cut:
    """Breaks the connection of some streams after so many messages, and lets the others be."""

    def __init__(self, after: int, times: int) -> None:
        self.after, self.left = after, times

    def __call__(self, responses: Iterator[Response]) -> Iterator[Response]:
        self.left -= 1
        if self.left < 0:
            yield from responses
            return
        yield from itertools.islice(responses, self.after)
        raise ConnectionResetError


@contextlib.contextmanager
def cutting(service: FakeService, cut: Cut) -> Iterator[str]:
    """*service*, whose streams end with UNAVAILABLE, as broken connections do, where *cut* says."""

    class Cutting(FakeService):
        def StreamCheck(self, request_iterator, context):  # noqa: N802
            try:
                yield from cut(super().StreamCheck(request_iterator, context))
            except ConnectionResetError:
                refuse(context, UNAVAILABLE, "", "Socket closed")

    with serving(Cutting(**vars(service))) as address:
        yield address


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("times", [1, 3])
def test_a_stream_that_is_cut_anywhere_is_asked_again_whole(service, after, times) -> None:
    cut = Cut(after, times)
    with cutting(service, cut) as address, Client(address) as client:
        assert is_right(client.check_many(NUMBERS))
    assert cut.left == -4, "all four segments were answered, and as many streams more were cut"
    assert {request.exactly_at for request in service.requests} <= {TOKEN, ""}


def test_a_stream_that_is_always_cut_is_an_error(service) -> None:
    cut = Cut(2, times=10**9)
    with cutting(service, cut) as address, Client(address, timeout_s=0.3) as client:
        with pytest.raises(CallFailed) as caught:
            client.check_many(NUMBERS)
        assert caught.value.code in {UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_what_clears_nonsense_is_not_trusted(client: Client, service: FakeService) -> None:
    service.verdict = lambda _number: check_pb2.VERDICT_CLEARED
    with pytest.raises(IncompleteAnswer, match="no valid number"):
        client.check_many(NUMBERS)
    with pytest.raises(IncompleteAnswer, match="no valid number"):
        client.check(9990000019)


def test_what_the_service_calls_worth_another_try_is_tried_again(client, service) -> None:
    service.refusal = (UNAVAILABLE, "NOT_LOADED", "The register is not loaded.")
    for ask in (lambda: client.check(5), lambda: client.check_many(NUMBERS), client.revision):
        service.refusals_left = 2
        ask()
        assert service.refusals_left == 0


def test_it_is_not_tried_for_ever(service: FakeService) -> None:
    service.refusal = (UNAVAILABLE, "SUSPENDED", "All answers are suspended.")
    with serving(service) as address, Client(address, timeout_s=0.2) as client:
        for ask in (lambda: client.check(5), lambda: client.check_many(NUMBERS), client.revision):
            with pytest.raises(CallFailed) as caught:
                ask()
            assert caught.value.reason == "SUSPENDED"


def test_an_answer_that_no_try_can_change_stands(client, service) -> None:
    service.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "SOME_REASON", "No.")
    service.refusals_left = 1
    with pytest.raises(CallFailed) as caught:
        client.check(5)
    assert caught.value.reason == "SOME_REASON"


class Moving(FakeService):
    """Is at another revision as soon as it has told one."""

    def BatchCheck(self, request, context):  # noqa: N802
        response = super().BatchCheck(request, context)
        self.token = "new"
        return response


def test_a_job_starts_over_at_the_new_revision_when_its_own_is_gone(service) -> None:
    service.held = {"new"}
    moving = Moving(**vars(service))
    with serving(moving) as address, Client(address) as client:
        verdicts = client.check_many(NUMBERS)
    assert is_right(verdicts)
    assert verdicts.revision.token == "new"
    assert len(moving.batches) == 2


def test_a_revision_that_was_demanded_and_is_gone_is_an_error(client, service) -> None:
    service.held = {"new"}
    for ask in (client.check_many, client.filter, lambda *a, **k: list(client.check_each(*a, **k))):
        with pytest.raises(CallFailed) as caught:
            ask([NUMBERS] if "lambda" in ask.__qualname__ else NUMBERS, exactly_at=TOKEN)
        assert caught.value.reason == "REVISION_GONE"


def test_a_job_does_not_start_over_for_ever(client, service) -> None:
    service.held = set()
    with pytest.raises(CallFailed) as caught:
        client.check_many(NUMBERS)
    assert caught.value.reason == "REVISION_GONE"
    assert len(service.batches) == client_module.RESTARTS_MAX + 1


def test_of_two_replicas_one_may_be_gone(service: FakeService) -> None:
    with serving(FakeService()) as dead:
        pass
    with serving(service) as address, Client([dead, address]) as client:
        assert is_right(client.check_many(NUMBERS))
        assert [client.check(int(number)) for number in NUMBERS[:10]] == [
            client.check_many(NUMBERS)[place] for place in range(10)
        ]


def test_a_replica_at_another_revision_is_passed_over(service: FakeService) -> None:
    other = FakeService(token="other", held={"other"}, numbers_per_message=CHUNK)
    service.held = {TOKEN}
    with serving(service) as one, serving(other) as behind:
        for targets in ([behind, one], f"ipv4:{behind},{one}"):
            with Client(targets) as client:
                verdicts = client.check_many(NUMBERS, exactly_at=TOKEN)
            assert is_right(verdicts)
            assert verdicts.revision.token == TOKEN
        with Client(f"ipv4:{behind}") as client, pytest.raises(CallFailed) as caught:
            client.check_many(NUMBERS, exactly_at=TOKEN)
        assert caught.value.reason == "REVISION_GONE"


def test_who_has_no_time_for_another_turn_is_told_what_the_last_one_said(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TURN_PAUSE_S", 3.0)
    service.held = {"new"}
    with (
        serving(service) as address,
        Client(f"ipv4:{address}") as client,
        pytest.raises(CallFailed) as caught,
    ):
        client.check_many(NUMBERS, exactly_at=TOKEN, timeout_s=2.0)
    assert caught.value.reason == "REVISION_GONE"


def test_a_replica_that_lies_about_its_revision_spoils_the_job(service: FakeService) -> None:
    liar = FakeService(token="other", numbers_per_message=CHUNK)
    with (
        serving(service) as address,
        serving(liar) as lying,
        Client([address, lying]) as client,
        pytest.raises(IncompleteAnswer),
    ):
        client.check_many(NUMBERS, exactly_at=TOKEN)


def test_a_total_deadline(service: FakeService) -> None:
    release = threading.Event()

    def stuck(responses: Iterator[Response]) -> Iterator[Response]:
        yield next(responses)
        release.wait(30)

    service.flaw = stuck
    with serving(service) as address, Client(address) as client:
        with pytest.raises(CallFailed) as caught:
            client.check_many(NUMBERS, timeout_s=0.2)
        release.set()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("count", [SEGMENT, 1000])
def test_closing_from_another_thread_ends_a_running_job(service: FakeService, count: int) -> None:
    begun, release = threading.Event(), threading.Event()

    def stuck(responses: Iterator[Response]) -> Iterator[Response]:
        yield next(responses)
        begun.set()
        release.wait(30)

    service.flaw = stuck
    with serving(service) as address, Client(address) as client:
        closing = threading.Thread(target=lambda: (begun.wait(30), client.close()))
        closing.start()
        with pytest.raises(ClientClosed):
            client.check_many(NUMBERS[:count])
        closing.join()
        release.set()


def test_ctrl_c_ends_a_job_and_its_threads(service: FakeService) -> None:
    begun, release = threading.Event(), threading.Event()

    def stuck(responses: Iterator[Response]) -> Iterator[Response]:
        yield next(responses)
        begun.set()
        release.wait(30)

    def interrupt() -> None:
        begun.wait(30)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    service.flaw = stuck
    with serving(service) as address, Client(address) as client:
        for count in (SEGMENT, 1000):
            begun.clear()
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                client.check_many(NUMBERS[:count])
            assert not at_work()
        release.set()
        service.flaw = None
        assert is_right(client.check_many(NUMBERS))


def test_a_question_may_be_given_more_time_than_usual(service: FakeService) -> None:
    service.refusal = (UNAVAILABLE, "NOT_LOADED", "The register is not loaded.")
    with serving(service) as address, Client(address, timeout_s=0.0) as client:
        service.refusals_left = 1
        assert client.check(5, timeout_s=30.0) is Verdict.INVALID
        service.refusals_left = 1
        assert is_right(client.check_many(NUMBERS, timeout_s=30.0))


def test_closing_ends_a_pause(service: FakeService) -> None:
    service.refusal = (UNAVAILABLE, "", "nobody there")
    with serving(service) as address, Client(address, timeout_s=3600.0) as client:
        threading.Timer(0.2, client.close).start()
        with pytest.raises(ClientClosed):
            client.check_many(NUMBERS)


def test_a_closed_client_answers_nothing(client: Client) -> None:
    client.close()
    client.close()
    for ask in (lambda: client.check(5), lambda: client.check_many(NUMBERS), client.revision):
        with pytest.raises(ClientClosed):
            ask()


def test_a_large_cohort_goes_as_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SET_NUMBERS_MIN", 10)
    handler = grpc.stream_stream_rpc_method_handler(
        lambda requests, _context: SetService.answers(requests),
        check_pb2.CheckSetRequest.FromString,
        check_pb2.CheckSetResponse.SerializeToString,
    )
    with serving_raw({"CheckSet": handler}) as address, Client(address) as client:
        verdicts = client.check_set(NUMBERS)
    np.testing.assert_array_equal(verdicts.invalid, ~IS_VALID)
    np.testing.assert_array_equal(verdicts.cleared, IS_VALID & (NUMBERS // 10 % 2 == 0))
    assert verdicts.summary.received == len(NUMBERS)


def test_verdicts_that_do_not_add_up_do_not_exist(client: Client) -> None:
    whole = client.check_many(NUMBERS)
    everybody = np.ones(len(whole), dtype=bool)
    for cleared, invalid in [
        (everybody, whole.invalid), (whole.cleared, everybody), (whole.cleared[1:], whole.invalid),
        (whole.cleared[1:], whole.invalid[1:]), (whole.cleared, whole.cleared),
    ]:  # fmt: skip
        with pytest.raises(IncompleteAnswer):
            Verdicts(cleared.copy(), invalid.copy(), whole.summary)


def test_answers_of_two_revisions_are_never_one_result(client: Client) -> None:
    one = client.check_many(NUMBERS).summary
    other = replace(one, revision=replace(one.revision, token="another"))
    assert Summary.of([one, one]).received == 2 * one.received
    with pytest.raises(IncompleteAnswer):
        Summary.of([one, other])


@pytest.mark.parametrize(
    "error",
    [CallFailed("No.", UNAVAILABLE, "GONE", 1.5), ClientClosed(), IncompleteAnswer("Half.")],
)
def test_errors_travel_between_processes(error: ClientError) -> None:
    travelled = pickle.loads(pickle.dumps(error))
    assert type(travelled) is type(error)
    assert (str(travelled), vars(travelled)) == (str(error), vars(error))


@pytest.mark.parametrize("targets", ["", [], ["one:1", ""]])
def test_an_address_must_be_named(targets: object) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(targets)
