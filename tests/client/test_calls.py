"""The two short calls, and what a caller learns of a call that failed."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from client.fake_service import AS_OF_S, RETRY_NS, TOKEN, revision, serving_raw, status
from client.people import valid_numbers
from ndoo.client import CallFailed, IncompleteAnswer, Verdict, check, get_register, open_channel
from ndoo.v1 import check_pb2

NUMBER = "9990000026"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("999 000 0018", Verdict.OPTED_OUT),
        (NUMBER, Verdict.CLEARED),
        ("999-000-0026", Verdict.CLEARED),
        ("9990000027", Verdict.INVALID),
        ("", Verdict.INVALID),
    ],
)
def test_check_gives_verdict_and_revision(channel, service, text, verdict):
    service.opted_out = {int(valid_numbers(1)[0])}
    answer = check(channel, text)
    assert answer.verdict is verdict
    assert answer.revision.token == TOKEN
    assert answer.revision.as_of.timestamp() == AS_OF_S


def test_get_register_tells_phase_and_limits(channel, service):
    service.phase = check_pb2.PHASE_STALE
    register = get_register(channel)
    assert register.phase == check_pb2.PHASE_STALE
    assert register.limits.numbers_per_message == service.numbers_per_message


@pytest.mark.parametrize(
    "response",
    [
        check_pb2.CheckResponse(),
        check_pb2.CheckResponse(revision=revision()),
        check_pb2.CheckResponse(verdict=4, revision=revision()),
        check_pb2.CheckResponse(verdict=-1, revision=revision()),
        check_pb2.CheckResponse(verdict=check_pb2.VERDICT_CLEARED),
        check_pb2.CheckResponse(
            verdict=check_pb2.VERDICT_CLEARED, revision=check_pb2.Revision(token=TOKEN)
        ),
    ],
    ids=lambda response: repr(str(response)),
)
def test_half_an_answer_is_none(channel, service, response):
    service.check_response = response
    with pytest.raises(IncompleteAnswer):
        check(channel, NUMBER)


@pytest.mark.parametrize("message", [b"", b"\xff", b"\x08", b"\x08\x01", b"\x0a\x01\x01"])
def test_bytes_that_are_no_answer_are_none(message):
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(lambda _request, _context: message)}
    with (
        serving_raw(handlers) as address,
        open_channel(address) as channel,
        pytest.raises(IncompleteAnswer),
    ):
        check(channel, NUMBER)


def test_a_refusal_carries_code_reason_and_delay(channel, service):
    service.refusal = (grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", "The register is not loaded.")
    with pytest.raises(CallFailed) as caught:
        check(channel, NUMBER)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == "NOT_LOADED"
    assert caught.value.retry_delay_s == RETRY_NS / 1e9
    assert str(caught.value) == "The register is not loaded."


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0] != 0])
def test_what_others_say_is_not_passed_on(channel, service, code):
    service.refusal = (code, "", f"proxy: cannot forward {NUMBER}")
    with pytest.raises(CallFailed) as caught:
        check(channel, NUMBER)
    assert caught.value.code is code
    assert (caught.value.reason, caught.value.retry_delay_s) == ("", None)
    assert NUMBER not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_control_characters_in_a_refusal_do_not_reach_a_terminal(channel, service):
    service.refusal = (grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", "not\x1b[2J\nloaded" + "x" * 999)
    with pytest.raises(CallFailed) as caught:
        check(channel, NUMBER)
    assert str(caught.value).startswith("not[2Jloaded")
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("details", [b"\xff", b"", b"\x1a\x02\x0a\x00"])
def test_unreadable_details_are_passed_over(details):
    def refuse(_request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "")

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(refuse)}
    with (
        serving_raw(handlers) as address,
        open_channel(address) as channel,
        pytest.raises(CallFailed) as caught,
    ):
        check(channel, NUMBER)
    assert caught.value.reason == ""


def test_an_unreadable_detail_is_passed_over():
    broken = status(grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", "")
    broken.details[0].value = b"\xff"

    def refuse(_request, context):
        metadata = ("grpc-status-details-bin", broken.SerializeToString())
        context.set_trailing_metadata((metadata,))
        context.abort(grpc.StatusCode.UNAVAILABLE, "")

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(refuse)}
    with (
        serving_raw(handlers) as address,
        open_channel(address) as channel,
        pytest.raises(CallFailed) as caught,
    ):
        check(channel, NUMBER)
    assert (caught.value.reason, caught.value.retry_delay_s) == ("", RETRY_NS / 1e9)


def test_an_absurd_delay_is_still_a_failure_of_the_call():
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2**60))
    absurd = status(grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", "")
    absurd.details[1].Pack(retry)

    def refuse(_request, context):
        metadata = ("grpc-status-details-bin", absurd.SerializeToString())
        context.set_trailing_metadata((metadata,))
        context.abort(grpc.StatusCode.UNAVAILABLE, "")

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(refuse)}
    with (
        serving_raw(handlers) as address,
        open_channel(address) as channel,
        pytest.raises(CallFailed) as caught,
    ):
        check(channel, NUMBER)
    assert caught.value.retry_delay_s == 2**60


def test_nobody_there_is_unavailable_without_a_reason():
    with serving_raw({}) as address:
        pass
    with open_channel(address) as channel, pytest.raises(CallFailed) as caught:
        get_register(channel)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == ""
