"""The examples of a page of the documentation, as they stand in it, and what they print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE = "127.0.0.1:50551"
SOME_INVALID = 3
SECONDS_MAX = 60

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """All fenced blocks of *page*, a path from the root, with their languages."""
    return _FENCE.findall((ROOT / page).read_text("utf-8"))


def examples(page: str, language: str) -> list[str]:
    """Those of one *language*; there must be one."""
    found = [code for of, code in blocks(page) if of == language]
    assert found, f"{page} has no example in {language}"
    return found


@dataclass(frozen=True)
class Step:
    """Something to run (sh or python), and what it prints, if the page tells; "…" is anything."""

    language: str
    code: str
    printed: str | None


def steps(page: str) -> Iterator[Step]:
    """What is to be run in *page*, from top to bottom."""
    found = blocks(page)
    for (language, code), (after, text) in zip(found, [*found[1:], ("", "")]):
        if language in {"sh", "python"}:
            yield Step(language, code, text if after == "text" else None)


@dataclass
class Reader:
    """Somebody who types what a page says, in *folder*, where the service is at *address*."""

    folder: Path
    address: str
    names: dict[str, object] = field(default_factory=dict)

    def follow(self, step: Step) -> None:
        """Run *step*. What it prints must be what the page says."""
        printed = self.type(step.code) if step.language == "sh" else self.run(step.code)
        if step.printed is not None:
            expected = re.escape(step.printed.strip()).replace("…", ".*")
            assert re.fullmatch(expected, printed.strip()), f"{step.code}\nprints\n{printed}"

    def run(self, code: str) -> str:
        """Python, in one session."""
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            exec(code.replace(SERVICE, self.address), self.names)
        return out.getvalue()

    def type(self, commands: str, codes: tuple[int, ...] = (0, SOME_INVALID)) -> str:
        """Commands, in a shell of their own that ends with one of *codes*."""
        for command in ("ndoo check", "ndoo status"):
            option = "--target " if command == "ndoo check" else ""
            commands = commands.replace(command, f"{command} {option}{self.address}")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, timeout=SECONDS_MAX,
            env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode in codes, f"{commands}\n{ran.stdout}{ran.stderr}"
        return ran.stdout
