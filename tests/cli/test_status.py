"""`ndoo status`: what a service says of itself, and an exit code that scripts can use."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf import timestamp_pb2

from client.fake_service import TOKEN, serving_raw
from ndoo.v1 import check_pb2


def test_live_is_success(run, target, service):
    service.opted_out = {1, 2, 3}
    result = run("status", target)
    assert result.exit_code == 0
    assert "LIVE" in result.stdout
    assert TOKEN in result.stdout


@pytest.mark.parametrize("phase", [*check_pb2.Phase.values(), 17])
def test_every_other_phase_is_not(run, target, service, phase):
    service.phase = phase
    result = run("status", target, "--json")
    assert result.exit_code == (0 if phase == check_pb2.PHASE_LIVE else 1)
    facts = json.loads(result.stdout)
    known = phase in check_pb2.Phase.values()
    name = check_pb2.Phase.Name(phase).removeprefix("PHASE_") if known else "UNKNOWN"
    assert facts["phase"] == name
    assert facts["revision"] == TOKEN
    assert facts["as_of"] == "2026-02-02T02:40:00.000Z"


def test_nothing_loaded_is_told(run):
    answer = check_pb2.GetRegisterResponse(phase=check_pb2.PHASE_LOADING).SerializeToString()
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)
    with serving_raw({"GetRegister": handler}) as target:
        result = run("status", target)
    assert result.exit_code == 1
    assert result.stdout.count("none yet") == 2


@pytest.mark.parametrize("as_of", [{"seconds": 2**60}, {"nanos": -1}])
def test_a_time_that_is_none_is_no_answer(run, as_of):
    answer = check_pb2.GetRegisterResponse(phase=check_pb2.PHASE_LIVE)
    answer.revision.token = TOKEN
    answer.revision.as_of.CopyFrom(timestamp_pb2.Timestamp(**as_of))
    raw = answer.SerializeToString()
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: raw)
    with serving_raw({"GetRegister": handler}) as target:
        result = run("status", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no readable time" in result.stderr


@pytest.mark.parametrize("target", ["nowhere", "127.0.0.1:0", "127.0.0.1:70000", ":1", "a b:1", ""])
def test_a_target_that_is_none_is_wrong_usage(run, target):
    assert run("status", target).exit_code == 2
