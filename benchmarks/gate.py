"""The gate: ratios within one run, each against the lowest value that still is good.

A ratio survives a machine that is slow or busy, because both sides are; each side counts by its
best round, which noise can only worsen. The bounds lie far enough below what a quiet machine shows
that a busy one passes, and at about half of it, so that a service that became half as fast does
not. A ratio that fails is measured again, a few times: noise goes away, a fault does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from benchmarks import kernels, latency, peers
from benchmarks.bulk import SERVICE, batch_check, library
from benchmarks.harness import Contender, Facts, interleave, row_of
from benchmarks.processes import Served
from benchmarks.scale import CHUNK, QUICK
from benchmarks.streams import CHECK, ECHO, EMPTY, STREAM_CHECK, echo, stream_check
from benchmarks.workshop import Workshop

ATTEMPTS_MAX = 3
SCALE = replace(QUICK, questions=24 * CHUNK, calls_in_a_row=1000)
_ROUNDS = 5
_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Gate:
    """*measure* tells how many times as fast the service is as what it is compared with."""

    name: str
    least: float
    measure: Callable[[], float]


def hold() -> int:
    """Measure every gate. One line when all hold; 1 and a line for each that does not."""
    with Workshop(SCALE) as shop, ExitStack() as stack:
        results = [_hold(shop, gate) for gate in _gates(shop, stack)]
    told = ", ".join(f"{gate.name} {value:.2f} (>= {gate.least})" for gate, value in results)
    bad = [gate for gate, value in results if value < gate.least]
    print(f"bench-gate {'FAILED' if bad else 'ok'}: {told}", file=sys.stderr if bad else sys.stdout)
    return 1 if bad else 0


def _hold(shop: Workshop, gate: Gate) -> tuple[Gate, float]:
    """The best of a few attempts; no more than it needs."""
    best = 0.0
    for attempt in range(1, ATTEMPTS_MAX + 1):
        shop.progress.title(f"{gate.name}, attempt {attempt}")
        best = max(best, gate.measure())
        if best >= gate.least:
            break
    return gate, best


def _gates(shop: Workshop, stack: ExitStack) -> Iterator[Gate]:
    served = stack.enter_context(shop.service())
    process, target = stack.enter_context(shop.echo())
    asked = shop.asked
    service = stream_check(shop, served, served.target, asked, name=SERVICE, repeats=_REPEATS)
    transport = echo(shop, process, target, asked, repeats=_REPEATS)
    in_use = kernels.in_use(shop, asked)

    def beside(one: Contender, other: Contender) -> Callable[[], float]:
        return lambda: _best_ratio(shop, one, other)

    yield Gate("StreamCheck/echo", 0.25, beside(service, transport))
    yield Gate("BatchCheck/echo", 0.22, beside(batch_check(shop, served, asked), transport))
    yield Gate("client library/echo", 0.2, beside(library(stack, served, asked), transport))
    yield Gate("kernel/one level", 1.6, beside(in_use, kernels.one_level(shop.register, asked)))
    if "polars" not in peers.missing():
        polars = peers.polars_anti_join(shop.register, asked)
        yield Gate("StreamCheck/polars anti-join", 2.0, beside(service, polars))
    yield Gate("Check/empty handler", 0.5, lambda: _check_beside_empty(shop, served, target))


def _best_ratio(shop: Workshop, one: Contender, other: Contender) -> float:
    rows = interleave([one, other], _ROUNDS, shop.progress)
    return _best(rows, one.name) / _best(rows, other.name)


def _best(rows: list[Facts], name: str) -> float:
    return float(row_of(rows, name)["per_s"]["max"])


def _check_beside_empty(shop: Workshop, served: Served, target: str) -> float:
    sides = (
        latency.Side("empty", served, target, EMPTY, ECHO),
        latency.Side("Check", served, served.target, CHECK, STREAM_CHECK),
    )
    empty, check = latency.calls_in_a_row(shop, sides)
    return float(empty["median_us"] / check["median_us"])
