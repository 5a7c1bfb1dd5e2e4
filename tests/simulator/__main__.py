"""`python -m simulator`: simulate many seeds, or one of them in detail."""

from __future__ import annotations

import argparse
import os
import sys

from simulator.report import Total, run_all, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="simulate so many, from 1 on")
    parser.add_argument("--seed", type=int, help="simulate this one alone, and show its course")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed)
    total = run_all(range(1, arguments.seeds + 1), os.cpu_count() or 1)
    _say(total)
    return 1 if total.failed or total.never_fired else 0


def _one(seed: int) -> int:
    outcome = run_one(seed)
    sys.stdout.write("\n".join([*outcome.trace, *outcome.wrong, ""]))
    total = Total()
    total.add(outcome)
    return 1 if total.failed else 0


def _say(total: Total) -> None:
    sys.stdout.write("\n".join([*total.lines(), ""]))


if __name__ == "__main__":
    sys.exit(main())
