"""`ndoo status`: what replicas say of themselves, and an exit code that scripts can use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import signal
from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf import timestamp_pb2

from client.fake_service import serving_raw
from ndoo.cli import status as command
from ndoo.revision import Revision
from ndoo.v1 import check_pb2

TOKEN = Revision("g", 7).token
AS_OF_S = 1_770_000_000
Say = Callable[..., str]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PAUSE_S", 0.01)


def register(
    seq: int = 7, generation: str = "g", numbers: int = 0, started_s: int = 1, **fields: object
) -> check_pb2.GetRegisterResponse:
    answer = check_pb2.GetRegisterResponse(
        **({"phase": check_pb2.PHASE_LIVE, "opt_outs": 3, "version": "1.2.3"} | fields)
    )
    answer.revision.token = Revision(generation, seq).token
    answer.revision.as_of.FromSeconds(AS_OF_S)
    answer.activity.numbers = numbers
    answer.activity.started_at.FromSeconds(started_s)
    return answer


@pytest.fixture
def say() -> Iterator[Say]:
    """Serve these answers to GetRegister, the last of them for ever; gives the address."""
    with contextlib.ExitStack() as stack:

        def serve(*answers: check_pb2.GetRegisterResponse) -> str:
            rest = itertools.chain(answers, itertools.repeat(answers[-1]))
            handler = grpc.unary_unary_rpc_method_handler(
                lambda _request, _context: next(rest).SerializeToString()
            )
            return stack.enter_context(serving_raw({"GetRegister": handler}))

        yield serve


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody answers."""
    with serving_raw({}) as address:
        pass
    return address


def test_live_is_success(run, say):
    result = run("status", say(register()))
    assert result.exit_code == 0
    for word in ("LIVE", TOKEN, "1.2.3", "2026-02-02T02:40:00.000Z"):
        assert word in result.stdout


@pytest.mark.parametrize("phase", [*check_pb2.Phase.values(), 17])
def test_every_other_phase_is_not(run, say, phase):
    result = run("status", say(register(phase=phase)), "--json")
    is_live = phase == check_pb2.PHASE_LIVE
    assert result.exit_code == (0 if is_live else 1)
    facts = json.loads(result.stdout)
    known = phase in check_pb2.Phase.values()
    name = check_pb2.Phase.Name(phase).removeprefix("PHASE_") if known else "UNKNOWN"
    assert facts["phase"] == name
    assert facts["trouble"] == ([] if is_live else [f"It is not LIVE but {name}."])
    assert (facts["revision"], facts["seq"]) == (TOKEN, 7)
    assert facts["as_of"] == "2026-02-02T02:40:00.000Z"


def test_nothing_loaded_is_told(run, say):
    result = run("status", say(check_pb2.GetRegisterResponse(phase=check_pb2.PHASE_LOADING)))
    assert result.exit_code == 1
    told = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if " " in line)
    assert told["revision"] == "-"


@pytest.mark.parametrize("as_of", [{"seconds": 2**60}, {"nanos": -1}])
def test_a_time_that_is_none_is_no_answer(run, say, as_of):
    answer = register()
    answer.revision.as_of.CopyFrom(timestamp_pb2.Timestamp(**as_of))
    target = say(answer)
    result = run("status", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no readable time" in result.stderr
    facts = json.loads(run("status", target, "--json").stdout)
    assert facts["phase"] == "NO_ANSWER"
    assert "no readable time" in facts["trouble"][0]


def test_a_token_of_another_kind_is_shown_as_it_is(run, say):
    answer = register()
    answer.revision.token = "of-a-later-version"
    facts = json.loads(run("status", say(answer), "--json").stdout)
    assert (facts["revision"], facts["seq"]) == ("of-a-later-version", None)


def test_rates_are_differences_of_two_readings(run, say):
    facts = json.loads(
        run("status", say(register(numbers=10), register(numbers=1010)), "--json").stdout
    )
    assert facts["numbers_per_s"] > 0
    assert facts["calls_per_s"] == facts["changes_per_s"] == 0


def test_over_a_restart_there_is_no_rate(run, say):
    answers = register(numbers=10, started_s=1), register(numbers=1010, started_s=2)
    assert json.loads(run("status", say(*answers), "--json").stdout)["numbers_per_s"] is None


def wrong(run, *targets: str) -> list[list[str]]:
    """What is wrong with each."""
    result = run("status", *targets, "--json")
    found = [each["trouble"] for each in json.loads(result.stdout)]
    assert result.exit_code == (1 if any(found) else 0)
    return found


def test_replicas_that_agree(run, say):
    assert wrong(run, say(register()), say(register())) == [[], []]


def test_the_same_revision_and_another_count(run, say):
    one, other = say(register(opt_outs=3)), say(register(opt_outs=4))
    assert wrong(run, one, other) == [
        [], [f"It holds other opt-outs than {one} at the same revision."]
    ]  # fmt: skip


def test_another_generation(run, say):
    one, other = say(register(seq=8)), say(register(generation="h"))
    assert wrong(run, one, other) == [[], [f"It is of another generation than {one}."]]


def test_one_that_lags_and_one_that_is_on_its_way(run, say):
    """Behind what another had a reading ago, or merely asked a moment earlier."""
    ahead = say(register(seq=9), register(seq=12))
    on_its_way, lagging = say(register(seq=7), register(seq=9)), say(register(seq=7))
    assert wrong(run, ahead, on_its_way, lagging) == [
        [], [], [f"It is 2 changes behind {ahead}."]
    ]  # fmt: skip


def test_one_that_does_not_answer_beside_one_that_does(run, say, nowhere):
    here = say(register())
    fine, (sentence,) = wrong(run, here, nowhere)
    assert fine == []
    assert nowhere in sentence
    table = run("status", here, nowhere).stdout
    assert "LIVE" in table
    assert "NO_ANSWER" in table
    assert f"{nowhere}: No service answers" in table


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("phase", [check_pb2.PHASE_LIVE, check_pb2.PHASE_STALE])
def test_watched_through_a_pipe_it_is_a_line_a_reading(start, say, flags, phase):
    target = say(register(phase=phase))
    process = start("status", target, "--watch", "--every", "0.1", *flags)
    lines = [process.stdout.readline().decode() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0 if phase == check_pb2.PHASE_LIVE else 1, b"")
    for line in lines:
        facts = json.loads(line) if flags else {}
        assert facts.get("target", target) == target
        assert check_pb2.Phase.Name(phase).removeprefix("PHASE_") in line
        assert "\x1b" not in line


def test_watched_on_a_terminal_it_is_drawn_anew(start, say):
    ours, theirs = pty.openpty()
    try:
        process = start("status", say(register()), "--watch", "--every", "0.1", stdout=theirs)
        shown = b""
        while shown.count(b"\x1b[2J") < 3:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.startswith(b"\x1b[H\x1b[2J")


def test_without_the_flag_ctrl_c_is_an_interruption(start, say, monkeypatch):
    """Between its two readings."""
    asked = []

    def answer(_request, _context):
        asked.append(True)
        process.send_signal(signal.SIGINT)
        return register().SerializeToString()

    with serving_raw({"GetRegister": grpc.unary_unary_rpc_method_handler(answer)}) as target:
        process = start("status", target)
        process.communicate(timeout=60)
    assert (process.returncode, asked) == (130, [True])


@pytest.mark.parametrize("target", ["nowhere", "127.0.0.1:0", "127.0.0.1:70000", ":1", "a b:1", ""])
def test_a_target_that_is_none_is_wrong_usage(run, target):
    assert run("status", target).exit_code == 2
    assert run("status", "127.0.0.1:1", target).exit_code == 2
