"""What the README tells is so: its example runs, and its table of reasons is complete."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import grpc
import pytest

from ndoo.ops.reasons import REFUSALS
from server.conftest import House, MakeHouse

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")

OPTED_OUT = 9_990_000_026


def test_it_begins_with_two_commands() -> None:
    commands = re.findall(r"^    make \w+", README, re.MULTILINE)
    assert [command.split()[1] for command in commands[:2]] == ["demo", "test"]


def test_the_reasons_are_those_that_calls_end_with() -> None:
    told = set(
        re.findall(r"`([A-Z_]{3,})`", README.partition("| reason |")[2].partition("\n\n")[0])
    )
    codes = {code for code in told if hasattr(grpc.StatusCode, code)}
    assert told - codes == set(REFUSALS) - {"INTERNAL"}


async def test_the_example_runs(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house: House = await make_house()
    house.publish({OPTED_OUT}, as_of=time.time())
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert "127.0.0.1:50551" in example
    code = example.replace("127.0.0.1:50551", house.address)
    names: dict[str, object] = {}
    await asyncio.to_thread(exec, code, names)
    assert names["cleared"].tolist() == [True, False]
    assert names["may_disclose"]
