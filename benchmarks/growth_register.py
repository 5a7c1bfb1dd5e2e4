"""How time and memory grow with the number of opt-outs."""

from __future__ import annotations

from benchmarks import data
from benchmarks.harness import Contender, Facts, interleave, ratio, row_of
from benchmarks.streams import echo, stream_check
from benchmarks.workshop import Workshop
from ndoo.cli.demo_data import draw_register
from ndoo.nhs_number import Keys
from ndoo.register.view import View
from ndoo.revision import Revision

QUESTION = "How do time and memory grow with the number of opt-outs?"

MEMORY_STREAMS = 8


def measure(shop: Workshop) -> Facts:
    rows = [_row(shop, count) for count in shop.scale.opt_outs_grown]
    return {
        "parameters": {"questions": len(shop.asked) // 2, "memory_streams": MEMORY_STREAMS},
        "rows": rows,
    }


def _row(shop: Workshop, count: int) -> Facts:
    shop.progress.say(f"drawing {count:,} opt-outs")
    register = draw_register(shop.rng("grown"), count)
    asked = data.draw(shop.rng("grown questions"), register, len(shop.asked) // 2)
    feed = shop.feed_of(register, f"grown-{count}")
    with shop.service(feed) as served, shop.echo() as (process, target):
        idle = served.memory_mb()
        contenders = [
            echo(shop, process, target, asked),
            stream_check(shop, served, served.target, asked, name="StreamCheck"),
            _kernel(register, asked),
        ]
        rows = interleave(contenders, max(1, shop.scale.rounds // 2), shop.progress)
        eight = stream_check(shop, served, served.target, asked, name="", streams=MEMORY_STREAMS)
        for _ in range(2):
            eight.prove(eight.run())
        busy = served.memory_mb()
        ready_s = served.phase("LIVE") - served.started
    return {
        "name": f"{count:,}", "opt_outs": count,
        "stream_check_per_s": row_of(rows, "StreamCheck")["per_s"],
        "kernel_per_s": row_of(rows, "kernel")["per_s"],
        "over_echo": ratio(rows, "StreamCheck", "echo"),
        "rss_idle_mb": idle["rss_mb"], "rss_mb": busy["rss_mb"], "peak_mb": busy["peak_mb"],
        "ready_s": round(ready_s, 3), "proof": row_of(rows, "StreamCheck")["proof"],
    }  # fmt: skip


def _kernel(register: Keys, asked: data.Asked) -> Contender:
    view = View.of(register, Revision("benchmarks", 0))
    expected = int(asked.truth.cleared.sum())

    def proven(answers: object) -> Facts:
        if answers.cleared_count != expected:
            raise data.WrongAnswer("the kernel did not clear as many as it should")
        return {"cleared": expected}

    return Contender("kernel", len(asked), lambda: view.check_many(asked.numbers), proven)
