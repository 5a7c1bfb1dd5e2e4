"""What a start from nothing is made of: from the start of the process to its first answer."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time

from benchmarks.harness import Facts, spread
from benchmarks.machine import ROOT
from benchmarks.processes import redis_server
from benchmarks.streams import CHECK, channel
from benchmarks.workshop import Workshop
from ndoo.v1 import check_pb2

QUESTION = "How long does a cold start take, and what is it made of?"

PHASES = ("interpreter", "imports and port", "snapshot", "look-up tables", "first answer")
_NUMBER = "9990000000"


def measure(shop: Workshop) -> Facts:
    with redis_server(shop.folder) as (_, port):
        urls = {"directory": shop.feed, "redis": f"redis://127.0.0.1:{port}/0"}
        shop.load(urls["redis"], shop.register)
        rows = [_row(shop, name, url) for name, url in urls.items()]
    return {
        "parameters": {"opt_outs": len(shop.register), "starts": shop.scale.cold_starts},
        "rows": rows,
    }


def _row(shop: Workshop, name: str, url: str) -> Facts:
    starts = [_start(shop, url) for _ in range(shop.scale.cold_starts + 1)][1:]  # warms the disk
    return {
        "name": name,
        "live_s": spread([sum(list(start.values())[:-1]) for start in starts]),
        "phases_s": {
            phase: round(statistics.median(start[phase] for start in starts), 4)
            for phase in PHASES
        },
    }


def _start(shop: Workshop, url: str) -> dict[str, float]:
    interpreter = _interpreter_s()
    with shop.service(url) as served:
        first_answer = shop.run(_first_answer_s(served.target))
        marks = [
            served.started, served.phase("LOADING"), served.phase("CATCHING_UP"),
            served.phase("LIVE"),
        ]  # fmt: skip
    to_loading, to_catching_up, to_live = (
        end - begin for begin, end in zip(marks, marks[1:])
    )
    return dict(
        zip(
            PHASES,
            (interpreter, to_loading - interpreter, to_catching_up, to_live, first_answer),
        )
    )


def _interpreter_s() -> float:
    """A Python that does nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], cwd=ROOT, check=True)
    return time.perf_counter() - started


async def _first_answer_s(target: str) -> float:
    """Connecting included."""
    started = time.perf_counter()
    request = check_pb2.CheckRequest(nhs_number=_NUMBER).SerializeToString()
    async with channel(target) as connection:
        with contextlib.suppress(TimeoutError):
            await connection.unary_unary(CHECK)(request, wait_for_ready=True)
    return time.perf_counter() - started
