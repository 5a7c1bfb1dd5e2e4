"""A stream gives the right answers, whole, or none."""

from __future__ import annotations

import contextlib

import grpc
import numpy as np
import pytest

from client.fake_service import AS_OF_S, TOKEN, serving_raw
from client.flaws import FLAWS
from client.people import mixed_numbers, valid_numbers
from ndoo import nhs_number
from ndoo.client import (
    NUMBERS_PER_CHUNK_MAX,
    CallFailed,
    CheckStream,
    IncompleteAnswer,
    Summary,
    check_stream,
    open_channel,
)

SEED = 20_260_301


def chunks_of(numbers, size):
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def exhaust(stream: CheckStream) -> Summary:
    with stream:
        for _ in stream:
            pass
    return stream.summary


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1000, 3000])
def test_every_answer_is_right_and_in_order(channel, service, size):
    numbers, service.opted_out = mixed_numbers(3000 if size > 1 else 200, SEED)
    cleared, invalid = [], []
    with check_stream(channel, chunks_of(numbers, size)) as stream:
        for answer in stream:
            assert answer.offset == sum(map(len, cleared))
            cleared.append(answer.cleared_mask())
            invalid.append(answer.invalid_mask())
    is_valid = nhs_number.valid(numbers)
    opted_out = np.isin(numbers, list(service.opted_out))
    np.testing.assert_array_equal(np.concatenate(invalid), ~is_valid)
    np.testing.assert_array_equal(np.concatenate(cleared), is_valid & ~opted_out)
    summary = stream.summary
    assert summary.received == len(numbers)
    assert summary.cleared == int((is_valid & ~opted_out).sum())
    assert summary.invalid == int((~is_valid).sum())
    assert summary.opted_out == int((is_valid & opted_out).sum())
    assert summary.revision.token == TOKEN
    assert summary.revision.as_of.timestamp() == AS_OF_S


def test_requests_are_what_the_generated_class_reads(channel, service):
    numbers = valid_numbers(300)
    exhaust(check_stream(channel, chunks_of(numbers, 100), exactly_at=TOKEN))
    assert [list(request.nhs_numbers) for request in service.requests] == [
        part.tolist() for part in chunks_of(numbers, 100)
    ]
    assert [request.exactly_at for request in service.requests] == [TOKEN, "", ""]


def test_tokens_stand_in_the_first_message_only(channel, service):
    stream = check_stream(channel, chunks_of(valid_numbers(2), 1), at_least_as_fresh="earlier")
    exhaust(stream)
    assert [request.at_least_as_fresh for request in service.requests] == ["earlier", ""]


def test_tokens_count_even_when_nothing_is_asked(channel, service):
    summary = exhaust(check_stream(channel, [], at_least_as_fresh="earlier"))
    assert summary.received == 0
    assert [request.at_least_as_fresh for request in service.requests] == ["earlier"]


def test_nothing_asked_is_answered_with_a_revision(channel):
    summary = exhaust(check_stream(channel, []))
    assert (summary.received, summary.cleared, summary.revision.token) == (0, 0, TOKEN)


def test_a_full_chunk_goes_through(channel):
    numbers = valid_numbers(1000)
    chunk = np.resize(numbers, NUMBERS_PER_CHUNK_MAX)
    assert exhaust(check_stream(channel, [chunk])).cleared == NUMBERS_PER_CHUNK_MAX


@pytest.mark.parametrize("count", [0, NUMBERS_PER_CHUNK_MAX + 1])
def test_a_chunk_of_the_wrong_size_is_refused_and_the_call_cancelled(channel, service, count):
    chunks = [valid_numbers(5), np.zeros(count, np.uint64)]
    stream = check_stream(channel, chunks, in_flight_max=1)
    with pytest.raises(ValueError, match="a chunk holds"):
        exhaust(stream)
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary
    assert service.ended.wait(30)


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_a_broken_stream_has_no_result(channel, service, flaw):
    numbers, service.opted_out = mixed_numbers(250, SEED)
    service.flaw = flaw
    stream = check_stream(channel, chunks_of(numbers, 99))
    with pytest.raises(IncompleteAnswer) as caught:
        exhaust(stream)
    assert not any(character.isdigit() for character in str(caught.value))
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary


@pytest.mark.parametrize("chunks_before", range(4))
def test_a_stream_that_fails_anywhere_has_no_result(channel, service, chunks_before):
    def flaw(responses):
        for place, response in enumerate(responses):
            if place == chunks_before:
                raise RuntimeError
            yield response

    service.flaw = flaw
    stream = check_stream(channel, chunks_of(valid_numbers(300), 100))
    with pytest.raises(CallFailed):
        exhaust(stream)
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary


def test_a_status_after_the_summary_is_no_success(channel, service):
    def flaw(responses):
        yield from responses
        raise RuntimeError

    service.flaw = flaw
    stream = check_stream(channel, [valid_numbers(3)])
    with pytest.raises(CallFailed):
        exhaust(stream)
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary


def test_another_revision_than_demanded_is_no_answer(channel):
    with pytest.raises(IncompleteAnswer):
        exhaust(check_stream(channel, [valid_numbers(3)], exactly_at="another"))


def test_the_summary_is_not_there_before_the_last_answer_is_taken(channel):
    stream = check_stream(channel, chunks_of(valid_numbers(3), 1))
    with stream:
        for _ in stream:
            with pytest.raises(IncompleteAnswer):
                _ = stream.summary
    assert stream.summary.received == 3


def test_an_abandoned_stream_is_cancelled_and_has_no_result(channel, service):
    with check_stream(channel, chunks_of(valid_numbers(50), 1), in_flight_max=2) as stream:
        next(iter(stream))
    assert service.ended.wait(30)
    assert len(service.requests) < 50
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary


def test_an_error_while_chunks_are_read_reaches_the_caller_and_never_ends_the_stream_as_whole(
    channel, service
):
    def chunks():
        yield valid_numbers(3)
        raise OSError("the disk is gone")

    stream = check_stream(channel, chunks(), in_flight_max=1)
    with pytest.raises(OSError, match="disk"):
        exhaust(stream)
    assert service.ended.wait(30)
    with pytest.raises(IncompleteAnswer):
        _ = stream.summary


def test_chunks_are_taken_only_as_answers_come(channel):
    taken = answered = 0

    def chunks():
        nonlocal taken
        for number in valid_numbers(40):
            taken += 1
            assert taken - answered <= 3
            yield np.array([number])

    with check_stream(channel, chunks(), in_flight_max=3) as stream:
        for _ in stream:
            answered += 1
    assert (taken, answered) == (40, 40)


def test_a_deadline_ends_a_stream_that_is_not_answered(channel, service):
    def flaw(responses):
        yield next(responses)
        service.ended.wait(30)

    service.flaw = flaw
    with pytest.raises(CallFailed) as caught:
        exhaust(check_stream(channel, chunks_of(valid_numbers(3), 1), timeout_s=0.2))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_closing_the_channel_ends_a_running_stream(channel, service):
    def flaw(responses):
        yield next(responses)
        service.ended.wait(30)

    service.flaw = flaw
    with check_stream(channel, chunks_of(valid_numbers(3), 1), in_flight_max=1) as stream:
        answers = iter(stream)
        next(answers)
        channel.close()
        with pytest.raises(CallFailed):
            next(answers)


@contextlib.contextmanager
def raw_stream(behaviour):
    """A channel to a service whose StreamCheck sends whatever bytes *behaviour* yields."""
    handlers = {"StreamCheck": grpc.stream_stream_rpc_method_handler(behaviour)}
    with serving_raw(handlers) as address, open_channel(address) as channel:
        yield channel


def test_messages_that_are_not_protobuf_are_no_answer():
    def garbage(requests, context):
        yield b"\xff\xff\xff"

    with raw_stream(garbage) as channel, pytest.raises(IncompleteAnswer):
        exhaust(check_stream(channel, [valid_numbers(3)]))


def test_unknown_fields_of_a_newer_service_do_not_hide_a_missing_summary():
    def future(requests, context):
        yield b"\xfa\x3e\x03new"  # field 1007, length-delimited

    with raw_stream(future) as channel, pytest.raises(IncompleteAnswer):
        exhaust(check_stream(channel, [valid_numbers(3)]))
