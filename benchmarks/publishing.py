"""What a new view costs: the pages a batch touches are copied, all others shared."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.data import WrongAnswer
from benchmarks.harness import Facts, spread
from benchmarks.workshop import Workshop
from ndoo.nhs_number import Keys
from ndoo.register.register import Flips
from ndoo.register.view import View
from ndoo.revision import Revision

QUESTION = "What does publishing a batch of changes cost?"

BATCHES = (1, 10, 100, 1000, 10_000)
_PUBLICATIONS = 40
_NOBODY = np.array([], dtype=np.uint32)


def measure(shop: Workshop) -> Facts:
    rng = shop.rng("publishing")
    rows = []
    for changes in BATCHES:
        shop.progress.say(f"{changes:,} changes a batch")
        chosen = rng.choice(shop.register, min(changes, len(shop.register)), replace=False)
        rows.append(_publish(shop.register, np.sort(chosen)))
    started = time.perf_counter()
    whole = View.of(shop.register, Revision("bench", 0))
    return {
        "parameters": {"opt_outs": whole.opt_outs, "publications": _PUBLICATIONS},
        "rows": rows,
        "whole_view_ms": round((time.perf_counter() - started) * 1e3, 1),
    }


def _publish(register: Keys, chosen: Keys) -> Facts:
    """Withdraw *chosen* and opt them out again, over and over, each time as a new view."""
    view = View.of(register, Revision("bench", 0))
    taken: list[float] = []
    for seq in range(1, _PUBLICATIONS + 1):
        flips = Flips(_NOBODY, chosen) if seq % 2 else Flips(chosen, _NOBODY)
        started = time.perf_counter()
        view = view.with_flips(flips, Revision("bench", seq))
        taken.append((time.perf_counter() - started) * 1e6)
    if view.opt_outs != len(register):
        raise WrongAnswer("after as many opt-ins as opt-outs the register is another one")
    return {
        "name": f"{len(chosen):,} changes",
        "changes": len(chosen),
        "us": spread(taken[2:]),
        "proof": {"opt_outs": view.opt_outs},
    }
