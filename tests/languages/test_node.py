"""The code of docs/languages/node.md, as it stands there, in a real Node."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from client.fake_service import FakeService, revision, serving
from client.flaws import FLAWS
from client.people import mixed_numbers, valid_numbers
from ndoo.nhs_number import Numbers
from ndoo.v1 import check_pb2
from server.conftest import House, MakeHouse
from support.pages import ROOT, examples

PAGE = "docs/languages/node.md"
PACKAGES = Path(sys.prefix) / "node" / "node_modules"
SECONDS_MAX = 60

DRIVER = """
import grpc from "@grpc/grpc-js";
import { readFileSync } from "node:fs";
import { check, checkMany, connect } from "./ndoo.mjs";

const results = [];
for (const { target, number, numbers, options } of JSON.parse(readFileSync(0))) {
  const client = connect(target, grpc.credentials.createInsecure());
  try {
    results.push(numbers ? await checkMany(client, numbers, options) : await check(client, number));
  } catch (error) {
    results.push({ error: error.message, code: error.code });
  }
  client.close();
}
console.log(JSON.stringify(results));
"""

TOLERATED = {"summary_without_as_of", "summary_with_impossible_time"}
"""The page hands the moment on and does not read it; the token says which state an answer is of."""

Ask = Callable[[list[dict[str, object]]], list[dict]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Laid out as the page tells."""
    if not PACKAGES.is_dir():
        pytest.skip("'make test' installs Node, and the packages that the page names")
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    shutil.copy(ROOT / "proto/ndoo/v1/check.proto", tmp_path)
    example, client = examples(PAGE, "js")
    (tmp_path / "example.mjs").write_text(example)
    (tmp_path / "ndoo.mjs").write_text(client)
    (tmp_path / "driver.mjs").write_text(DRIVER)
    return tmp_path


def node(script: Path, given: str = "") -> str:
    ran = subprocess.run(
        [Path(sys.prefix) / "bin" / "node", script],
        input=given, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def ask(folder: Path) -> Ask:
    def ask(questions: list[dict[str, object]]) -> list[dict]:
        return json.loads(node(folder / "driver.mjs", json.dumps(questions)))

    return ask


async def test_the_example_runs(make_house: MakeHouse, folder: Path) -> None:
    house: House = await make_house()
    house.publish({9_990_000_026}, as_of=time.time())
    example = folder / "example.mjs"
    assert "127.0.0.1:50551" in example.read_text()
    example.write_text(example.read_text().replace("127.0.0.1:50551", house.address))
    printed = await asyncio.to_thread(node, example)
    first, second = printed.split("\n", 1)
    assert first.startswith("true ")
    expected = "[ 9990000018 ] { received: 3, cleared: 1, optedOut: 1, invalid: 1 }"
    assert " ".join(second.split()) == expected


async def test_many_messages_are_answered_as_by_a_set(make_house: MakeHouse, ask: Ask) -> None:
    house: House = await make_house()
    mixed, opted_out = mixed_numbers(200_003, seed=5)
    house.publish(opted_out)
    given = _integers(mixed)
    question = {"target": house.address, "numbers": given}
    (answer,) = await asyncio.to_thread(ask, [question])
    known = set(valid_numbers(200_003).tolist())
    assert answer["cleared"] == [n in known and n not in opted_out for n in given]
    again = question | {"options": {"exactlyAt": answer["revision"]["token"]}}
    elsewhere = question | {"options": {"exactlyAt": answer["revision"]["token"] + "0"}}
    assert [each.get("cleared") for each in await asyncio.to_thread(ask, [again, elsewhere])] == [
        answer["cleared"],
        None,
    ]


def _integers(numbers: Numbers) -> list[int]:
    """As JSON and JavaScript can hold them."""
    return np.minimum(numbers, 2**53 - 1).tolist()


def test_what_is_no_integer_is_no_number(ask: Ask) -> None:
    number = int(valid_numbers(1)[0])
    odd = [str(number), f"{number} ", number + 0.5, -number, None, [], {}, True, 2**64, number]
    with serving(FakeService()) as target:
        (answer,) = ask([{"target": target, "numbers": odd}])
    assert answer["cleared"] == [False] * (len(odd) - 1) + [True]


def test_none_at_all_is_answered_at_a_revision(ask: Ask) -> None:
    with serving(FakeService()) as target:
        (answer,) = ask([{"target": target, "numbers": [], "options": {"exactlyAt": "revision-7"}}])
    assert answer["cleared"] == []
    assert answer["revision"]["token"] == "revision-7"


def test_no_flaw_of_a_stream_clears_anybody_wrongly_or_looks_whole(ask: Ask) -> None:
    mixed, opted_out = mixed_numbers(70_001, seed=6)
    numbers = _integers(mixed)
    services = [FakeService(opted_out, flaw=flaw) for flaw in FLAWS]
    with ExitStack() as stack:
        targets = [stack.enter_context(serving(service)) for service in services]
        answers = ask([{"target": each, "numbers": numbers} for each in targets])
    known = set(valid_numbers(len(numbers)).tolist())
    truth = [number in known and number not in opted_out for number in numbers]
    outcomes = {flaw.__name__: answer for flaw, answer in zip(FLAWS, answers, strict=True)}
    wrong = {name for name, each in outcomes.items() if each.get("cleared", truth) != truth}
    assert not wrong
    assert {name for name, each in outcomes.items() if "error" not in each} == TOLERATED


@pytest.mark.parametrize("verdict", [0, 2, 3, 99])
def test_only_one_verdict_is_a_permission(ask: Ask, verdict: int) -> None:
    reply = check_pb2.CheckResponse(verdict=verdict, revision=revision())
    with serving(FakeService(check_response=reply)) as target:
        (answer,) = ask([{"target": target, "number": str(valid_numbers(1)[0])}])
    assert answer["cleared"] is False


def test_what_is_unavailable_is_asked_again_and_what_is_wrong_is_not(ask: Ask) -> None:
    number = str(valid_numbers(1)[0])
    starting = FakeService(
        refusal=(grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", "It is loading."), refusals_left=2
    )
    wrong = FakeService(
        refusal=(grpc.StatusCode.INVALID_ARGUMENT, "BAD_TOKEN", "No token."), refusals_left=1
    )
    with serving(starting) as first, serving(wrong) as second:
        answers = ask([{"target": each, "number": number} for each in (first, second)])
    assert answers[0]["cleared"] is True
    assert answers[1]["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert number not in answers[1]["error"]
