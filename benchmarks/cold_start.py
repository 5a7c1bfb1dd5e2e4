"""What a start from nothing is made of: from the start of the process to its first answer.

The service tells when it has the snapshot (CATCHING_UP) and when it answers (LIVE). What comes
before is told apart by two smaller programs run right before it: one that does nothing, and one
that only imports what the service imports.
"""

from __future__ import annotations

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

PHASES = ("interpreter", "imports", "port and snapshot", "look-up tables", "first answer")
_NUMBER = "9990000000"
_TELL = "import time; print(time.perf_counter())"  # one clock for all processes of the machine
_IMPORTS = """
import uvloop, ndoo.cli.main, ndoo.feed.follower, ndoo.feed.{feed}
import ndoo.ops.http, ndoo.ops.metrics, ndoo.server.server
"""


def measure(shop: Workshop) -> Facts:
    with redis_server(shop.folder) as (_, port):
        urls = {"directory": shop.feed, "redis": f"redis://127.0.0.1:{port}/0"}
        shop.load(urls["redis"], shop.register)
        rows = [_row(shop, name, url) for name, url in urls.items()]
    return {
        "parameters": {"opt_outs": len(shop.register), "starts": shop.scale.starts},
        "rows": rows,
    }


def _row(shop: Workshop, name: str, url: str) -> Facts:
    starts = [_start(shop, name, url) for _ in range(shop.scale.starts + 1)][1:]  # warms the disk
    return {
        "name": name,
        "live_s": spread([sum(list(start.values())[:-1]) for start in starts]),
        "phases_s": {
            phase: round(statistics.median(start[phase] for start in starts), 4) for phase in PHASES
        },
    }


def _start(shop: Workshop, feed: str, url: str) -> dict[str, float]:
    interpreter = _reached_s("")
    imports = _reached_s(_IMPORTS.format(feed=feed)) - interpreter
    with shop.service(url) as served:
        first_answer = shop.run(_first_answer_s(served.target))
        has_snapshot, live = served.phase("CATCHING_UP"), served.phase("LIVE")
    port_and_snapshot = has_snapshot - served.started - interpreter - imports
    return dict(
        zip(
            PHASES,
            (interpreter, imports, port_and_snapshot, live - has_snapshot, first_answer),
        )
    )


def _reached_s(program: str) -> float:
    """How long a Python takes to get to the end of *program*, and not to clean up after it."""
    started = time.perf_counter()
    command = [sys.executable, "-c", program + _TELL]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(ran.stdout) - started


async def _first_answer_s(target: str) -> float:
    """Connecting included."""
    started = time.perf_counter()
    request = check_pb2.CheckRequest(nhs_number=_NUMBER).SerializeToString()
    async with channel(target) as connection:
        await connection.unary_unary(CHECK)(request, wait_for_ready=True)
    return time.perf_counter() - started
