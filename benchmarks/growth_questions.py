"""How speed depends on what is asked: the share of opted out and invalid, and the order."""

from __future__ import annotations

from benchmarks.bulk import STREAMS, kernel
from benchmarks.data import Asked
from benchmarks.harness import Contender, Facts, interleave, row_of
from benchmarks.streams import stream_check
from benchmarks.workshop import Workshop

QUESTION = "How does speed depend on what is asked, and in which order?"

SHARES = (
    ("nobody opted out", 0.0, 0.0),
    ("half opted out", 0.5, 0.0),
    ("all opted out", 1.0, 0.0),
    ("half invalid", 0.054, 0.5),
    ("all invalid", 0.0, 1.0),
)


def measure(shop: Workshop) -> Facts:
    half = shop.asked.first(len(shop.asked) // 2)
    rng = shop.rng("mixed")
    kinds = {"as usual": half, "as usual, ascending": half.ascending()}
    for name, opted_out, invalid in SHARES:
        kinds[name] = half.mixed(rng, shop.register, opted_out, invalid)
    with shop.service() as served:
        contenders = []
        for name, asked in kinds.items():
            contenders += [
                stream_check(shop, served, served.target, asked, name=f"StreamCheck {name}"),
                _kernel(shop, name, asked),
            ]
        rows = interleave(contenders, max(1, shop.scale.rounds // 2), shop.progress)
    return {
        "parameters": {
            "opt_outs": len(shop.register), "questions": len(half), "streams": STREAMS,
        },
        "rows": [
            {
                "name": name,
                "stream_check_per_s": row_of(rows, f"StreamCheck {name}")["per_s"],
                "kernel_per_s": row_of(rows, f"kernel {name}")["per_s"],
                "proof": row_of(rows, f"StreamCheck {name}")["proof"],
            }
            for name in kinds
        ],
    }  # fmt: skip


def _kernel(shop: Workshop, name: str, asked: Asked) -> Contender:
    alone = kernel(shop, asked)
    return Contender(f"kernel {name}", alone.numbers, alone.run, alone.prove)
