"""Where the time of a number goes: a ladder from the echo to the service, each rung one step more.

What a step costs is the difference between two rungs that ran in turns on the same messages;
nothing is instrumented, so nothing is disturbed. Wall time tells what a caller sees, the server's
processor time what has to be paid for.
"""

from __future__ import annotations

import statistics

from benchmarks.bulk import STREAMS
from benchmarks.harness import Facts, interleave
from benchmarks.scale import CHUNK
from benchmarks.streams import echo, stream_check
from benchmarks.workshop import Workshop

QUESTION = (
    "Where does the time of a number go, and what lies between the service and its transport?"
)

RUNGS = (
    ("transport: bytes in, bytes out", "/bench/Echo"),
    ("+ view of the message's bytes", "/bench/Read"),
    ("+ kernel, on the event loop", "/bench/Kernel"),
    ("+ handing it to a thread", "/bench/Thread"),
    ("+ building the chunk of answers", "/bench/Chunk"),
)
SERVICE = "+ the rest of the service"


def measure(shop: Workshop) -> Facts:
    asked = shop.asked
    with shop.service() as served, shop.echo(shop.feed) as (process, target):
        contenders = [
            echo(
                shop,
                process,
                target,
                asked,
                name=name,
                method=method,
                repeats=shop.scale.repeats,
            )
            for name, method in RUNGS
        ]
        contenders.append(
            stream_check(
                shop, served, served.target, asked, name=SERVICE, repeats=shop.scale.repeats
            )
        )
        rows = interleave(contenders, shop.scale.rounds, shop.progress)  # fmt: skip
    for row in rows:
        for kind in ("seconds", "server_cpu_s", "client_cpu_s"):
            row[f"{kind}_ns_a_number"] = _ns(statistics.median(row[kind]), row["numbers"])
    return {
        "parameters": {
            "opt_outs": len(shop.register), "questions": len(asked), "numbers_per_message": CHUNK,
            "streams": STREAMS,
        },
        "rows": rows,
    }  # fmt: skip


def _ns(seconds: float, numbers: int) -> float:
    return round(seconds / numbers * 1e9, 3)
