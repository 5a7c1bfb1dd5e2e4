"""How many replicas a load needs, from what was measured for one number, call, change and opt-out.

The model is plain: a replica has so many cores, so much memory and network; each resource is filled
to a share that leaves room; replicas share checks, but each of them takes in every change and holds
every opt-out. Two resources are one thread each, however many cores there are: the event loop,
which moves every message, and the follower, which takes in the changes. Whatever asks for the most
replicas, or for what no replica has, is the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.goals import Results
from benchmarks.harness import Facts
from benchmarks.text import table

NEEDS = {"bulk", "rungs", "latency", "catch_up", "growth_register"}

CORES = 4
MEMORY_GB = 16
NETWORK_GBIT = 10
FILLED = 0.6
REPLICAS_MIN = 2
EVENT_LOOP, FOLLOWER = "the event loop", "the follower"
_CHECK_BYTES = 400  # a call and its answer with their headers, on an open connection
_CHANGE_BYTES = 150  # a stream entry with its fields


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one replica, measured. Seconds are of one processor."""

    number_s: float
    number_loop_s: float  # of it, on the event loop
    number_bytes: float
    check_s: float
    change_s: float
    base_mb: float
    opt_out_bytes: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of all replicas together, at the same time. *within_s* is for bulk jobs."""

    name: str
    story: str
    numbers_per_s: float
    checks_per_s: float
    changes_per_s: float
    opt_outs: int


LOADS = (
    Load(
        "one hospital",
        "50 single checks a second, and a cohort of 2 million numbers to be done in 10 s",
        2e5, 50, 1, 3_619_104,
    ),
    Load(
        "England, weekly",
        "260 million numbers within ten minutes, 1,000 single checks a second beside it",
        260e6 / 600, 1000, 10, 10_000_000,
    ),
    Load(
        "a million calls",
        "1,000,000 single checks a second, every one a call of its own",
        0, 1e6, 100, 10_000_000,
    ),
    Load(
        "internet scale, streamed",
        "1,000,000,000 checks a second in streams, 100 million opt-outs, 100,000 changes a second",
        1e9, 0, 1e5, 100_000_000,
    ),
    Load(
        "internet scale, single calls",
        "the same, but every check is a call of its own",
        0, 1e9, 1e5, 100_000_000,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Need:
    """*replicas* is None where no number of them is enough."""

    replicas: int | None
    by_resource: dict[str, float]
    memory_mb: float
    network_gbit: float
    bottleneck: str


def costs_of(results: Results) -> Costs:
    rungs = results["rungs"]["rows"]
    service, kernel, reading = (rungs[at]["server_cpu_s_ns_a_number"] / 1e9 for at in (-1, 2, 1))
    together = [row for row in results["latency"]["together"] if row["name"] == "Check"]
    catch_up = [row for row in results["catch_up"]["rows"] if row["feed"] == "redis"]
    base_mb, opt_out_bytes = _memory_line(results["growth_register"]["rows"])
    return Costs(
        number_s=service,
        number_loop_s=max(reading, service - max(0.0, kernel - reading)),
        number_bytes=8 + 2 / 8,
        check_s=min(row["server_cpu_us"]["median"] for row in together) / 1e6,
        change_s=1 / max(row["changes_per_s"]["median"] for row in catch_up),
        base_mb=base_mb,
        opt_out_bytes=opt_out_bytes,
    )


def need(load: Load, costs: Costs) -> Need:
    """What *load* takes, and which resource asks for the most."""
    follower = load.changes_per_s * costs.change_s  # of one core, in every replica
    cores_left = max(0.0, CORES * FILLED - follower)
    checks = load.checks_per_s * costs.check_s
    work = load.numbers_per_s * costs.number_s + checks
    traffic = load.numbers_per_s * costs.number_bytes + load.checks_per_s * _CHECK_BYTES
    changes = load.changes_per_s * _CHANGE_BYTES
    memory_mb = costs.base_mb + load.opt_outs * costs.opt_out_bytes / 1e6
    by_resource = {
        "processor": work / cores_left if cores_left else math.inf,
        EVENT_LOOP: (load.numbers_per_s * costs.number_loop_s + checks) / FILLED,
        "network": traffic / (NETWORK_GBIT * 1e9 / 8 * FILLED - changes),
        # Past what one thread takes in, more replicas do not help.
        FOLLOWER: math.inf if follower > FILLED else follower / FILLED,
        "memory": math.inf if memory_mb > MEMORY_GB * 1000 * FILLED else 0.0,
    }
    bottleneck = max(by_resource, key=lambda name: by_resource[name])
    most = by_resource[bottleneck]
    replicas = None if math.isinf(most) else max(REPLICAS_MIN, math.ceil(most))
    network_gbit = (traffic + changes * (replicas or 1)) * 8 / 1e9
    return Need(replicas, by_resource, memory_mb, network_gbit, bottleneck)


def page(results: Results) -> str:
    costs = costs_of(results)
    commits = ", ".join(sorted({results[name]["commit"] for name in NEEDS}))
    needs = [(load, need(load, costs)) for load in LOADS]
    return "\n".join(
        [
            _INTRODUCTION.format(
                cores=CORES, memory=MEMORY_GB, network=NETWORK_GBIT, filled=FILLED, commits=commits
            ),
            _costs(costs, results),
            "## What four loads need\n",
            table(
                ("load", "replicas", "cores", "memory a replica", "network, all", "bottleneck"),
                [_row(load, wanted) for load, wanted in needs],
            ),
            *(_told(load, wanted, costs) for load, wanted in needs),
        ]
    )


_INTRODUCTION = """# Capacity

Written by `make bench-report` from `benchmarks/results/*.json`; do not edit. The model and the
loads are in `benchmarks/capacity.py`.

A replica here is one process with {cores} cores, {memory} GB and {network} Gbit/s, each filled to
at most {filled:.0%}. Replicas share the checks; each of them takes in every change and holds every
opt-out. There are never fewer than two. The event loop and the follower are one thread each. The
costs were measured over loopback without TLS, client and server on one machine, at commit
{commits}.
"""


def _costs(costs: Costs, results: Results) -> str:
    rows = [
        ("a number in a stream", f"{costs.number_s * 1e9:.1f} ns of a core",
         f"{1e-6 / costs.number_s:,.0f} M/s a core"),
        ("- of it on the event loop", f"{costs.number_loop_s * 1e9:.1f} ns",
         f"{1e-6 / costs.number_loop_s:,.0f} M/s a replica"),
        ("a number on the wire", f"{costs.number_bytes:.2f} bytes", "64 bits there, 2 bits back"),
        ("a single check", f"{costs.check_s * 1e6:.0f} µs of the event loop",
         f"{1 / costs.check_s:,.0f}/s a replica"),
        ("a change, in every replica", f"{costs.change_s * 1e6:.1f} µs of the follower",
         f"{1 / costs.change_s:,.0f}/s"),
        ("an opt-out", f"{costs.opt_out_bytes:.1f} bytes", f"on top of {costs.base_mb:,.0f} MB"),
    ]  # fmt: skip
    text = "## What one thing costs\n\n" + table(("what", "costs", "or"), rows)
    set_call = results.get("sets")
    if set_call:
        row = set_call["rows"][0]
        text += (
            f"\nAs sets numbers cost less still: {row['numbers']:,} keys take "
            f"{row['numbers'] / row['per_s']['median']:.2f} s in one call of `CheckSet`.\n"
        )
    return text


def _row(load: Load, wanted: Need) -> tuple[str, ...]:
    replicas = wanted.replicas
    return (
        load.name,
        "not without splitting" if replicas is None else f"{replicas:,}",
        "-" if replicas is None else f"{replicas * CORES:,}",
        f"{wanted.memory_mb / 1000:.1f} GB",
        f"{wanted.network_gbit:,.2f} Gbit/s",
        wanted.bottleneck,
    )


def _told(load: Load, wanted: Need, costs: Costs) -> str:
    asks = ", ".join(
        f"{name} {_replicas(share)}" for name, share in wanted.by_resource.items() if share
    )
    text = f"### {load.name[0].upper()}{load.name[1:]}\n\n{load.story}.\n\n"
    text += f"Replicas that each resource asks for: {asks}. First bottleneck: {wanted.bottleneck}."
    if math.isinf(wanted.by_resource[FOLLOWER]):
        text += _told_of_changes(load, costs)
    return text + "\n"


def _told_of_changes(load: Load, costs: Costs) -> str:
    """What it would take where one follower cannot take in all changes."""
    most = FILLED / costs.change_s
    parts = math.ceil(load.changes_per_s / most)
    beyond = need(replace(load, changes_per_s=load.changes_per_s / parts), costs)
    return (
        f" It takes in {1 / costs.change_s:,.0f} changes a second, and is to be asked for no more "
        f"than {most:,.0f}: the register has to be split by key range into {parts} parts, each "
        f"with a feed of its own. What comes next is {beyond.bottleneck}: the checks need "
        f"{beyond.replicas or 0:,} replicas, shared out among the parts."
    )


def _replicas(share: float) -> str:
    return "without end" if math.isinf(share) else f"{share:,.2f}"


def _memory_line(rows: Sequence[Facts]) -> tuple[float, float]:
    """Megabytes without opt-outs, and bytes for each, along the line through the two largest.

    At the highest, which is while the register is being loaded.
    """
    low, high = sorted(rows, key=lambda row: row["opt_outs"])[-2:]
    grown = high["peak_mb"] - low["peak_mb"]
    each_mb = max(0.0, grown / (high["opt_outs"] - low["opt_outs"]))
    return max(0.0, low["peak_mb"] - low["opt_outs"] * each_mb), each_mb * 1e6
