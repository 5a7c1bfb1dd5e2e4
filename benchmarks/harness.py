"""Rounds, spread, results.

Contenders take turns, A B C A B C, each round in one go: what disturbs the machine disturbs all of
them, so ratios within a run hold where times do not. Every round's answer is proven right, after
the clock was stopped; a wrong one ends the run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """*run* is timed and answers *numbers* numbers; *prove* looks at what it returned.

    *cpu_s* tells the processor time of whoever does the work, if that is another process.
    """

    name: str
    numbers: int
    run: Callable[[], Any]
    prove: Callable[[Any], Facts]
    cpu_s: Callable[[], float] | None = None


class Progress:
    """One line on stderr for whoever watches; nothing otherwise."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._title = ""

    def title(self, text: str) -> None:
        self._title = text
        self.say("")

    def say(self, text: str) -> None:
        if self._watched:
            line = f"{self._title}: {text}" if text else self._title
            sys.stderr.write(f"\r\x1b[K{line[:100]}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._watched:
            sys.stderr.write("\r\x1b[K")


def interleave(contenders: Sequence[Contender], rounds: int, progress: Progress) -> list[Facts]:
    """One row a contender: what each round took, and the proof, the same in every round."""
    rows = [_empty_row(contender) for contender in contenders]
    for turn in range(rounds + 1):  # the first is for warming up
        for contender, row in zip(contenders, rows):
            progress.say(f"round {turn} of {rounds}, {contender.name}")
            _take_turn(contender, row, timed=turn > 0)
    for row in rows:
        row["per_s"] = spread([row["numbers"] / seconds for seconds in row["seconds"]])
    return rows


def ratio(rows: Sequence[Facts], one: str, other: str) -> Facts:
    """How many times as fast *one* is as *other*, round by round."""
    speeds = [
        [row["numbers"] / seconds for seconds in row["seconds"]]
        for row in (row_of(rows, one), row_of(rows, other))
    ]
    return spread([mine / theirs for mine, theirs in zip(*speeds)])


def row_of(rows: Sequence[Facts], name: str) -> Facts:
    return next(row for row in rows if row["name"] == name)


def spread(values: Sequence[float]) -> Facts:
    return {
        "min": _short(min(values)),
        "median": _short(statistics.median(values)),
        "max": _short(max(values)),
    }


def write_result(folder: Path, name: str, facts: Facts) -> None:
    """Put the result in place whole: whoever is interrupted leaves the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = {
        "benchmark": name,
        "taken_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "load_average": machine.load_average(),
    }
    write_text(folder / f"{name}.json", json.dumps(surroundings | facts, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _empty_row(contender: Contender) -> Facts:
    row: Facts = {"name": contender.name, "numbers": contender.numbers, "seconds": []}
    row["client_cpu_s"] = []
    if contender.cpu_s:
        row["server_cpu_s"] = []
    return row


def _take_turn(contender: Contender, row: Facts, *, timed: bool) -> None:
    cpu_s = contender.cpu_s or (lambda: 0.0)
    server, client, started = cpu_s(), time.process_time(), time.perf_counter()
    answer = contender.run()
    seconds = time.perf_counter() - started
    client, server = time.process_time() - client, cpu_s() - server
    row["proof"] = contender.prove(answer)
    if timed:
        row["seconds"].append(_short(seconds))
        row["client_cpu_s"].append(_short(client))
        if contender.cpu_s:
            row["server_cpu_s"].append(_short(server))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
