"""The stored inputs: seeds, made from the targets, and what was found and is kept.

    corpus/TARGET.txt    where mutation begins; `python -m fuzz --corpus` writes it anew
    found/TARGET.txt     inputs that broke something once, each under a line that says what

Both are lines of Python's notation for bytes, so that whoever reviews them, and the search for
numbers of people, sees what is in them.
"""

from __future__ import annotations

import ast
from pathlib import Path

from fuzz.target import Target

HERE = Path(__file__).resolve().parent


def stored(target: Target) -> list[bytes]:
    return _read(HERE / "corpus" / f"{target.name}.txt")


def found(target: Target) -> list[bytes]:
    path = HERE / "found" / f"{target.name}.txt"
    return _read(path) if path.exists() else []


def text_of(target: Target) -> str:
    """What is to be stored of *target*'s seeds."""
    return "".join(f"{seed!r}\n" for seed in target.seeds())


def write(target: Target) -> None:
    (HERE / "corpus" / f"{target.name}.txt").write_text(text_of(target), "ascii")


def _read(path: Path) -> list[bytes]:
    lines = path.read_text("ascii").splitlines()
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]
