"""Whoever presses Ctrl-C is let go at once, and may ask on of the same client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.fake_service import FakeService, serving
from client.people import mixed_numbers
from client.test_sets import SetService
from support.interrupted import HANGING_S, OPERATIONS

SEED = 20_261_122
TESTS = Path(__file__).parent.parent
CHUNK = 60


class Service(FakeService):
    """With sets beside the rest."""

    def CheckSet(self, request_iterator, context):  # noqa: N802
        return SetService.answers(request_iterator)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    opted_out = mixed_numbers(600, seed=7)[1]
    with serving(Service(opted_out=opted_out, numbers_per_message=CHUNK)) as address:
        yield address


def interrupted(*arguments: object) -> int:
    """How often the caller was interrupted, who has to answer rightly after each, and to end."""
    command = [sys.executable, "-m", "support.interrupted", *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=2 * HANGING_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_step_leaves_anything_locked(address: str, operation: str) -> None:
    assert interrupted(address, operation, "steps") > 20


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_moment_leaves_anything_locked(address: str, operation: str) -> None:
    assert interrupted(address, operation, 20, SEED) == 20
