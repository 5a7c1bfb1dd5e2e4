"""How speed and memory depend on the number of streams that run at once."""

from __future__ import annotations

from benchmarks.harness import Facts, interleave, ratio, row_of
from benchmarks.scale import CHUNK
from benchmarks.streams import echo, stream_check
from benchmarks.workshop import Workshop

QUESTION = "How many streams should run at once?"


def measure(shop: Workshop) -> Facts:
    asked = shop.asked
    with shop.service() as served, shop.echo() as (process, target):
        contenders = []
        for count in shop.scale.streams:
            contenders += [
                echo(shop, process, target, asked, name=f"echo {count}", streams=count),
                stream_check(
                    shop, served, served.target, asked, name=f"StreamCheck {count}", streams=count
                ),
            ]
        rows = interleave(contenders, max(1, shop.scale.rounds // 2), shop.progress)
        memory = served.memory_mb()
    return {
        "parameters": {"opt_outs": len(shop.register), "numbers_per_message": CHUNK},
        "rows": [_row(rows, count) for count in shop.scale.streams],
        "memory_after_all": memory,
    }


def _row(rows: list[Facts], count: int) -> Facts:
    stream = row_of(rows, f"StreamCheck {count}")
    return {
        "name": str(count), "streams": count, "stream_check_per_s": stream["per_s"],
        "echo_per_s": row_of(rows, f"echo {count}")["per_s"],
        "over_echo": ratio(rows, f"StreamCheck {count}", f"echo {count}"),
        "proof": stream["proof"],
    }  # fmt: skip
