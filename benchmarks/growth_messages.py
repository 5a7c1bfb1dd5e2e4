"""How speed depends on the numbers in a message, for streams and for batches."""

from __future__ import annotations

from benchmarks.bulk import STREAMS, batch_check
from benchmarks.harness import Contender, Facts, interleave, ratio, row_of
from benchmarks.streams import echo, stream_check
from benchmarks.workshop import Workshop

QUESTION = "How many numbers should a message hold?"


def measure(shop: Workshop) -> Facts:
    with shop.service() as served, shop.echo() as (process, target):
        contenders = []
        for size in shop.scale.message_sizes:
            asked = shop.asked.first(size * shop.scale.messages_max)
            contenders += [
                echo(shop, process, target, asked, name=f"echo {size}", size=size),
                stream_check(
                    shop, served, served.target, asked, name=f"StreamCheck {size}", size=size
                ),
                _named(f"BatchCheck {size}", batch_check(shop, served, asked, size)),
            ]
        rows = interleave(contenders, max(1, shop.scale.rounds // 2), shop.progress)
    return {
        "parameters": {"opt_outs": len(shop.register), "streams": STREAMS},
        "rows": [_row(rows, size) for size in shop.scale.message_sizes],
    }


def _row(rows: list[Facts], size: int) -> Facts:
    stream = row_of(rows, f"StreamCheck {size}")
    return {
        "name": f"{size:,}", "size": size, "numbers": stream["numbers"],
        "stream_check_per_s": stream["per_s"],
        "batch_check_per_s": row_of(rows, f"BatchCheck {size}")["per_s"],
        "echo_per_s": row_of(rows, f"echo {size}")["per_s"],
        "over_echo": ratio(rows, f"StreamCheck {size}", f"echo {size}"),
        "proof": stream["proof"],
    }  # fmt: skip


def _named(name: str, contender: Contender) -> Contender:
    return Contender(name, contender.numbers, contender.run, contender.prove, contender.cpu_s)
