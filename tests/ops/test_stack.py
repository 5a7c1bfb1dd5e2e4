"""`make stack`: everything answers where it says, and ends whole."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndoo.client import Client
from ndoo.config import Settings
from support.prometheus import api, asked_until
from support.redis_server import executable

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = 4
ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


class Stack:
    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "stack.py"],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "REDIS_SERVER": executable(), "TMPDIR": str(path)},
        )  # fmt: skip
        self.told = ""
        for line in self.process.stdout:
            self.told += line
            if "Ctrl-C" in line:
                return
        raise AssertionError("the stack ended before it had started")

    def address(self, name: str) -> str:
        (line,) = [line for line in self.told.splitlines() if line.startswith(name)]
        return ADDRESS.search(line)[0]

    @property
    def children(self) -> list[int]:
        """Their process ids."""
        pid = self.process.pid
        threads = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for each in threads for child in (each / "children").read_text().split()]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    try:
        yield stack
    finally:
        with stack.process:
            stack.process.send_signal(signal.SIGTERM)


def test_the_stack_answers_and_ends_whole(stack: Stack, tmp_path: Path) -> None:
    with Client(stack.address("The service")) as client:
        assert client.revision().token
    with urllib.request.urlopen(
        f"http://{stack.address('Its metrics')}/metrics", timeout=30
    ) as got:
        assert b"ndoo_as_of_age_seconds" in got.read()
    prometheus = stack.address("Prometheus")
    asked_until(
        lambda: api(prometheus, "query", query="sum(ndoo_numbers_total) > 0")["result"], "traffic"
    )
    rules = [rule for group in api(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert "NdooStale" in {rule["name"] for rule in rules}
    children = stack.children
    assert len(children) == PROGRAMS
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []
    for name in ("The service", "Its feed", "Its metrics", "Prometheus"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(stack.address(name).split(":"))


def test_containers_are_given_what_there_is() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    mounted = re.findall(r"(\./[\w./-]+):/", text)
    assert len(mounted) == 3
    assert all((ROOT / path).exists() for path in mounted)
    settings = {field.metadata["env"] for field in dataclasses.fields(Settings)}
    given = set(re.findall(r"^ +(NDOO_[A-Z_]+): ", text, re.MULTILINE))
    assert {"NDOO_FEED"} < given <= settings


def test_a_part_that_ends_ends_the_stack(stack: Stack, tmp_path: Path) -> None:
    children = stack.children
    os.kill(children[0], signal.SIGKILL)
    assert stack.process.wait(60) == 1
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []
