"""`python -m benchmarks`: run the benchmarks, write the pages, hold the gate."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from pathlib import Path

import click

from benchmarks import gate as gates
from benchmarks.harness import write_result
from benchmarks.machine import ROOT
from benchmarks.report import write_pages
from benchmarks.scale import SCALES
from benchmarks.workshop import Workshop

NAMES = (
    "bulk", "kernels", "rungs", "sets", "set_from_array", "files", "latency", "coalescing",
    "propagation", "catch_up", "publishing", "snapshots", "cold_start",
    "growth_messages", "growth_streams", "growth_questions", "growth_register",
)  # fmt: skip
RESULTS = Path(__file__).parent / "results"


@click.group()
def commands() -> None:
    """Benchmarks of the service. See benchmarks/README.md."""


@commands.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--scale", type=click.Choice(sorted(SCALES)), default="full", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def run(names: tuple[str, ...], scale: str, results: Path) -> None:
    """Run the benchmarks called NAMES, or all, and write one JSON file each."""
    chosen = names or NAMES
    with Workshop(SCALES[scale]) as shop:
        for place, name in enumerate(chosen, 1):
            benchmark = importlib.import_module(f"benchmarks.{name}")
            shop.progress.title(f"[{place}/{len(chosen)}] {name}")
            started = time.perf_counter()
            facts = benchmark.measure(shop)
            told = {"question": benchmark.QUESTION, "scale": scale} | facts
            write_result(results, name, told | {"took_s": round(time.perf_counter() - started)})


@commands.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
@click.option("--docs", type=click.Path(path_type=Path), default=ROOT / "docs")
def report(results: Path, docs: Path) -> None:
    """Write docs/performance.md, its plots and docs/capacity.md from the results."""
    write_pages(results, docs)


@commands.command()
def gate() -> None:
    """Compare ratios within one run with their lowest good values; exit 1 if one is under."""
    sys.exit(gates.hold())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends all children
    commands(prog_name="python -m benchmarks")
