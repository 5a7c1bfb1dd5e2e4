"""What a target is, and what each of them must hold to.

A target takes any bytes. Either what reads them returns a value, which is then held against another
way to work it out, or it refuses with an error of the house whose sentence repeats nothing of them.
Everything else is a finding: another exception, a crash, a hang, memory without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ndoo import nhs_number
from ndoo.errors import NdooError

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are written for those who read them from a path."""

Made = TypeVar("Made")

_GROUPING = re.compile(r"(?<=\d)[ ,_-](?=\d)")
_BOUNDS = {"999999999"}
"""Long numbers that sentences tell as limits."""


@dataclass(frozen=True)
class Target:
    """*seeds* are where mutation begins; *compiled* code cannot be instrumented, so its inputs are
    bent by our own mutator, which knows their form.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    bytes_max: int = 4096
    compiled: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__


def refused(call: Callable[..., Made], *arguments: object) -> Made | None:
    """What *call* returns, or None if it refused as it may. All else is raised."""
    try:
        return call(*arguments)
    except NdooError as error:
        tells_nobody(str(error))
        return None


def tells_nobody(sentence: str) -> None:
    """Fail if *sentence* could tell a number or a key."""
    tells_no_number(sentence)
    runs = re.findall(r"\d{9,}", _GROUPING.sub("", sentence))
    assert set(runs) <= _BOUNDS, "an error that tells a key"
    assert "\n" not in sentence, "an error of several lines"


def tells_no_number(sentence: str) -> None:
    assert not nhs_number.may_be_in(sentence), "an error that tells a number"
