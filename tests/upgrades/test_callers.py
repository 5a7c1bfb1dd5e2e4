"""Callers of other versions: code of released contracts, and requests that say more than now."""

from __future__ import annotations

import contextlib
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from pyroaring import BitMap

from ndoo.revision import Revision
from ndoo.v1 import check_pb2
from support.people import KEYS, number, opt_out
from support.places import DirectoryHarm, Place
from support.service import Service

ROOT = Path(__file__).resolve().parent.parent.parent
CALLER = Path(__file__).with_name("old_caller.py")
GENERATE = runpy.run_path(str(ROOT / "scripts" / "generate_proto.py"))["generate"]

ASKED = [int(number(0)), int(number(1)), int(number(2)), 9_990_000_019]
CLEARED, INVALID = "04", "08"  # number 2; the last, with its wrong check digit
LATER = bytes([0xFA, 0x07, 0x03]) + b"new"  # field 127, of bytes
SET = BitMap([KEYS[0], KEYS[2]]).serialize()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Revision]]:
    """The present service, with people 0 and 1 opted out: its address and revision."""
    path = tmp_path_factory.mktemp("served")
    with contextlib.ExitStack() as stack:
        place = Place(f"dir:{path}/feed", DirectoryHarm(path / "feed"), stack)
        revision = place.loaded(0).append([opt_out(1)])
        service = Service(place.url)
        stack.callback(service.kill)
        yield service.address, revision


def test_callers_of_released_contracts_get_today_what_they_always_got(
    folder: Path, tmp_path: Path, serving: tuple[str, Revision]
) -> None:
    address, revision = serving
    GENERATE(tmp_path, folder / "proto")
    for package in ("ndoo", "ndoo/v1"):  # or the installed package would be found in its place
        (tmp_path / package / "__init__.py").touch()
    asked = {"numbers": ASKED, "keys": SET.hex()}
    ran = subprocess.run(
        [sys.executable, CALLER, tmp_path, address],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not ran.returncode, ran.stderr
    told = json.loads(ran.stdout)
    assert len(bytes.fromhex(told.pop("digest"))) == 32
    token = revision.token
    assert told == {
        "phase": "PHASE_LIVE",
        "opt_outs": 2,
        "token": token,
        "single": [f"VERDICT_{each}" for each in ("OPTED_OUT", "OPTED_OUT", "CLEARED", "INVALID")],
        "batch": [CLEARED, INVALID, token],
        "stream": [
            *[["chunk", CLEARED, INVALID]] * 2,
            ["summary", "8", "2", "4", "2", token],
        ],
        "set": [
            ["chunk", BitMap([KEYS[2]]).serialize().hex()],
            ["summary", "2", "1", "1", "0", token],
        ],
    }


REQUESTS = {
    "Check": check_pb2.CheckRequest(nhs_number=str(ASKED[0])),
    "BatchCheck": check_pb2.BatchCheckRequest(nhs_numbers=ASKED),
    "StreamCheck": check_pb2.StreamCheckRequest(nhs_numbers=ASKED),
    "CheckSet": check_pb2.CheckSetRequest(keys=SET),
    "GetRegister": check_pb2.GetRegisterRequest(with_digest=True),
}


@pytest.mark.parametrize("method", REQUESTS)
def test_what_a_later_caller_says_beside_the_known_changes_no_answer(
    method: str, serving: tuple[str, Revision]
) -> None:
    raw = REQUESTS[method].SerializeToString()
    with grpc.insecure_channel(serving[0]) as channel:
        ask = _asking(channel, method)
        plain = ask(raw)
        assert ask(raw + LATER) == ask(LATER + raw) == plain
    assert plain


def _asking(channel: grpc.Channel, method: str) -> Callable[[bytes], list[object]]:
    """Asks with raw messages."""
    path = f"/ndoo.v1.OptOutCheck/{method}"
    response = getattr(check_pb2, f"{method}Response")
    if method in {"StreamCheck", "CheckSet"}:
        stream = channel.stream_stream(path, response_deserializer=response.FromString)
        return lambda raw: [_still(MessageToDict(each)) for each in stream(iter([raw]))]
    unary = channel.unary_unary(path, response_deserializer=response.FromString)
    return lambda raw: [_still(MessageToDict(unary(raw)))]


def _still(told: object) -> object:
    """What was *told*, without what moves on by itself."""
    if not isinstance(told, dict):
        return told
    return {name: _still(value) for name, value in told.items() if name not in {"asOf", "activity"}}
