"""`python -m fuzz`: fuzz each target for a while, by coverage, and print a table of it.

Each runs in a process of its own, because a finding may be a crash. What was learnt on the way lies
in .venv/fuzz, so that the next run goes on from there; an input that breaks something lies there,
too, and belongs into tests/fuzz/found once its cause is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / ".venv" / "fuzz"
MEMORY_MB = 4096
HANG_S = 20
_ROW = "{:18} {:>10} {:>9} {:>9} {:>10}  {}"


@dataclass(frozen=True)
class Outcome:
    """What became of one target. *finding* is "" or what to look at."""

    name: str
    runs: int
    covered: int
    inputs: int
    memory_mb: int
    finding: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="these alone (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--corpus", action="store_true", help="write the stored seeds anew")
    arguments = parser.parse_args()
    from fuzz.targets import TARGETS  # noqa: PLC0415  (uninstrumented, for their names alone)

    names = arguments.targets or list(TARGETS)
    if arguments.corpus:
        from fuzz import corpus  # noqa: PLC0415

        for name in names:
            corpus.write(TARGETS[name])
        return 0
    _say(_ROW.format("target", "runs", "covered", "inputs", "memory MB", "finding"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(lambda name: _fuzz(name, arguments.seconds), names)
        return 1 if sum(map(_tell, outcomes)) else 0


def _fuzz(name: str, seconds: int) -> Outcome:
    """Run *name* in a process of its own, which leaves inputs of interest in its directory."""
    learnt, crashes = WORK / name / "learnt", WORK / name / "found"
    for directory in (learnt, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "fuzz.by_coverage", name, str(learnt), f"-max_total_time={seconds}",
        f"-artifact_prefix={crashes}/", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={HANG_S}",
        "-print_final_stats=1",
    ]  # fmt: skip
    # Not more than so long over its time, also if what was compiled hangs.
    try:
        ran = subprocess.run(
            command, capture_output=True, check=False, timeout=seconds + 300, cwd=ROOT
        )
        output, code = ran.stderr.decode(errors="replace"), ran.returncode
    except subprocess.TimeoutExpired as expired:
        output, code = (expired.stderr or b"").decode(errors="replace"), -1
    (WORK / name / "log").write_text(output)
    return Outcome(
        name,
        _figure(r"stat::number_of_executed_units: (\d+)", output),
        _figure(r"\bcov: (\d+)", output),
        len(list(learnt.iterdir())),
        _figure(r"stat::peak_rss_mb: +(\d+)", output),
        "" if code == 0 else f"exit {code}, see {(WORK / name).relative_to(ROOT)}/log",
    )


def _figure(pattern: str, output: str) -> int:
    found = re.findall(pattern, output)
    return int(found[-1]) if found else 0


def _tell(outcome: Outcome) -> bool:
    """Print *outcome*, and return whether it is a finding."""
    figures = (outcome.runs, outcome.covered, outcome.inputs, outcome.memory_mb)
    _say(_ROW.format(outcome.name, *(f"{each:,}" for each in figures), outcome.finding or "none"))
    return bool(outcome.finding)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
