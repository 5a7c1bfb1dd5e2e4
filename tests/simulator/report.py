"""Many runs at once, and what they came to, as a table."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from simulator.faults import KINDS, faults_of
from simulator.replicas import Outcome
from simulator.world import REPLICAS, simulate

SEEDS_AT_ONCE = 5
FAILURES_SHOWN_MAX = 5
WRONG_SHOWN_MAX = 5
BAR_WIDTH = 40


@dataclass
class Total:
    """The sum of all runs."""

    runs: int = 0
    simulated_s: float = 0.0
    fired: Counter[str] = field(default_factory=Counter)
    resyncs: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.simulated_s += outcome.simulated_s
        self.fired += outcome.fired
        self.resyncs += outcome.resyncs
        self.counts += outcome.counts
        if outcome.wrong:
            self.failed.append(outcome)

    @property
    def never_fired(self) -> list[str]:
        return sorted(KINDS - set(self.fired))

    def lines(self) -> Iterator[str]:
        """The table."""
        counts = self.counts
        asked = counts["answered"] + counts["refused"]
        yield from _table("faults that struck", self.fired)
        yield from _table("resynchronisations and refusals, by reason", self.resyncs)
        yield ""
        yield f"{self.runs:,} runs, {self.simulated_s / 3600:,.1f} hours of {REPLICAS} replicas"
        yield f"{counts['changes acknowledged']:>12,}  changes acknowledged"
        yield f"{counts['answered']:>12,}  times answered about everybody"
        yield f"{counts['answered of the past']:>12,}  times answered at an earlier revision"
        yield f"{counts['refused']:>12,}  times not answered"
        yield f"{counts['refused'] / max(1, asked):>12.1%}  of the time not answering"
        yield f"{counts['states restored']:>12,}  starts from a state directory"
        yield f"{counts['mended by a load']:>12,}  runs mended by a load from the source"
        yield f"{counts['beyond proof']:>12,}  replicas that could not tell a lost history"
        yield f"{len(self.failed):>12,}  runs with a wrong answer or none in the end"
        yield from self._failures()
        if self.never_fired:
            yield f"Faults that never struck: {', '.join(self.never_fired)}."

    def _failures(self) -> Iterator[str]:
        for outcome in self.failed[:FAILURES_SHOWN_MAX]:
            yield ""
            yield f"Seed {outcome.seed}; see it again with: make simulate SEED={outcome.seed}"
            yield from (f"  {line}" for line in outcome.wrong[:WRONG_SHOWN_MAX])


def _table(title: str, counts: Counter[str]) -> Iterator[str]:
    yield ""
    yield title
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield f"{count:>12,}  {name}"


def run_all(seeds: Iterable[int], processes: int) -> Total:
    """Simulate *seeds*; how far it is, is shown on a terminal."""
    seeds, total = list(seeds), Total()
    # Never forked: a copy of the tests' process would hold locks of threads that it does not have.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn) as pool:
        for outcome in pool.map(run_one, seeds, chunksize=SEEDS_AT_ONCE):
            total.add(outcome)
            _show_progress(total.runs, len(seeds))
    return total


def run_one(seed: int) -> Outcome:
    return simulate(seed, faults_of)


def _show_progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        bar = "#" * (BAR_WIDTH * done // of)
        end = "\n" if done == of else ""
        sys.stderr.write(f"\r[{bar:<{BAR_WIDTH}}] {done:,} of {of:,}{end}")
        sys.stderr.flush()
