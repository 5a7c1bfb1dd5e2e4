"""What the service set out to reach, and what the results say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.harness import Facts, row_of
from benchmarks.latency import IDLE, LOADED
from benchmarks.set_from_array import CALLING
from benchmarks.text import millions

Results = dict[str, Facts]
REGISTER = 3_619_104


@dataclass(frozen=True, slots=True)
class Judged:
    """*measured* in words; *reached* for each part of the goal; *why*, from the same results."""

    measured: str
    reached: bool
    why: str


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    reach: str
    dream: str
    needs: tuple[str, ...]
    judge: Callable[[Results], Judged | None]


def judged(results: Results) -> list[tuple[Goal, Judged | None]]:
    """Each goal with its judgement; None where it was not measured, or not at its full size."""
    return [
        (goal, goal.judge(results) if set(goal.needs) <= set(results) else None) for goal in GOALS
    ]


def _stream(results: Results) -> Judged:
    bulk = results["bulk"]
    per_s = row_of(bulk["rows"], "StreamCheck")["per_s"]["median"]
    share = bulk["stream_check_over"]["echo"]["median"]
    return Judged(
        f"{millions(per_s)}, {share:.2f} of the echo",
        per_s >= 60e6 and share >= 0.45,
        _largest_step(results),
    )


def _largest_step(results: Results) -> str:
    """The rung of the ladder that costs most beyond the transport."""
    if "rungs" not in results:
        return ""
    rows = results["rungs"]["rows"]
    column = "server_cpu_s_ns_a_number"
    steps = {row["name"]: row[column] - before[column] for before, row in pairwise(rows)}
    name = max(steps, key=lambda step: steps[step])
    return (
        f"of {rows[-1][column]:.1f} ns of server time a number the transport takes "
        f"{rows[0][column]:.1f}, and the largest step, '{name.removeprefix('+ ')}', "
        f"{steps[name]:.1f}"
    )


def _set(results: Results) -> Judged | None:
    call = results["sets"]["rows"][0]
    whole = row_of(results["set_from_array"]["rows"], CALLING)
    if call["numbers"] != 57_000_000:
        return None
    call_s, whole_s = (row["numbers"] / row["per_s"]["median"] for row in (call, whole))
    return Judged(
        f"{call_s:.3f} s; {whole_s:.2f} s",
        call_s <= 0.15 and whole_s <= 1.5,
        f"{(whole_s - call_s) / whole_s:.0%} of the time from an array is spent in the client, "
        "putting numbers in order",
    )


def _files(results: Results) -> Judged | None:
    facts = results["files"]
    if facts["parameters"]["rows"] != 20_000_000:
        return None
    shares = {name: share["median"] for name, share in facts["check_over_polars"].items()}
    checks = [row for row in facts["rows"] if row["name"].startswith("ndoo")]
    peak_mb = max(row["proof"]["peak_mb"] for row in checks)
    return Judged(
        "; ".join(f"{name}: {share:.2f}" for name, share in shares.items()) + f"; {peak_mb:.0f} MB",
        min(shares.values()) >= 0.5 and peak_mb < 1000,
        "both spend most of their time on reading and writing the file",
    )


def _check(results: Results) -> Judged:
    rows = results["latency"]["rows"]
    checks = [row for row in rows if row["name"] == "Check"]
    idle = [row for row in checks if row["condition"] == IDLE]
    loaded = max(row["p99"] for row in checks if row["condition"] == LOADED)
    p50, p99 = (max(row[mark] for row in idle) for mark in ("p50", "p99"))
    empty, alone = (row["median_us"] for row in results["latency"]["in_a_row"])
    late = max(row["sent_late"]["p50"] for row in idle)
    return Judged(
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms idle; p99 {loaded:.1f} ms loaded (worst rate); "
        f"{alone / empty:.2f} times an empty handler in a row",
        p50 < 0.5 and p99 < 2 and loaded < 10,
        f"an empty handler takes {empty / 1000:.2f} ms of the {alone / 1000:.2f} ms, one call "
        f"after the other; at fixed rates the client itself sends {late:.2f} ms late (p50)",
    )


def _together(results: Results) -> Judged:
    rows = [row for row in results["latency"]["together"] if row["name"] == "Check"]
    best = max(rows, key=lambda row: row["calls_per_s"]["median"])
    per_s, cpu_us = best["calls_per_s"]["median"], best["server_cpu_us"]["median"]
    return Judged(
        f"{per_s:,.0f} calls/s, {best['in_flight']} at once, each a call of its own",
        per_s >= 100_000,
        f"a call costs {cpu_us:,.0f} µs of server time whatever it asks; only calls that are "
        "coalesced into batches can be more",
    )


def _visible(results: Results) -> Judged:
    rows = results["propagation"]["rows"]
    worst = max(rows, key=lambda row: row["p99"])
    idle = max(row["p99"] for row in rows if row["condition"] == IDLE)
    return Judged(
        f"p99 {worst['p99']:.1f} ms at worst ({worst['name']}, {worst['condition']})",
        worst["p99"] < 50,
        f"p99 is {idle:.1f} ms at worst without other load",
    )


def _catch_up(results: Results) -> Judged:
    rows = results["catch_up"]["rows"]
    slowest = min(rows, key=lambda row: row["changes_per_s"]["median"])
    return Judged(
        "; ".join(f"{row['name']}: {row['changes_per_s']['median']:,.0f}/s" for row in rows),
        slowest["changes_per_s"]["median"] >= 100_000,
        f"a change costs {slowest['cpu_us_a_change']['median']:.1f} µs of one processor at worst",
    )


def _cold(results: Results) -> Judged | None:
    facts = results["cold_start"]
    if facts["parameters"]["opt_outs"] != REGISTER:
        return None
    slowest = max(facts["rows"], key=lambda row: row["live_s"]["median"])
    phase, seconds = max(slowest["phases_s"].items(), key=lambda item: item[1])
    return Judged(
        f"{slowest['live_s']['median']:.2f} s ({slowest['name']})",
        slowest["live_s"]["median"] < 2,
        f"the longest phase is '{phase}', {seconds:.2f} s",
    )


def _memory(results: Results) -> Judged | None:
    rows = results["growth_register"]["rows"]
    found = [row for row in rows if row["opt_outs"] == REGISTER]
    if not found:
        return None
    row = found[0]
    return Judged(
        f"{row['rss_mb']:.0f} MB",
        row["rss_mb"] < 350,
        f"{row['rss_idle_mb']:.0f} MB before the streams; "
        f"{rows[0]['rss_idle_mb']:.0f} MB with {rows[0]['opt_outs']:,} opt-outs",
    )


def _peers(results: Results) -> Judged | None:
    over = results["bulk"]["stream_check_over"]
    if "polars anti-join" not in over:
        return None
    member, join = (over[name]["median"] for name in ("Redis SMISMEMBER", "polars anti-join"))
    return Judged(
        f"{member:.0f} times; {join:.1f} times",
        member >= 30 and join >= 4,
        "neither peer checks a check digit, and the join pays for no network",
    )


GOALS = (
    Goal(
        "`StreamCheck`, validated, random order",
        "60 M numbers/s and 0.45 of the echo",
        "150 M/s, 0.8",
        ("bulk",),
        _stream,
    ),
    Goal(
        "`CheckSet`, 57 M keys",
        "0.15 s for the call; 1.5 s from an unsorted array",
        "0.06 s; 0.5 s",
        ("sets", "set_from_array"),
        _set,
    ),
    Goal(
        "`ndoo check`, 20 M rows, beside a polars anti-join of the same file",
        "0.5 times as fast, < 1 GB",
        "as fast, < 400 MB",
        ("files",),
        _files,
    ),
    Goal(
        "`Check`, one at a time",
        "p50 < 0.5 ms, p99 < 2 ms idle; p99 < 10 ms beside two bulk streams",
        "within 1.2 times an empty handler",
        ("latency",),
        _check,
    ),
    Goal("concurrent `Check`", "100 k checks/s, coalesced", "500 k/s", ("latency",), _together),
    Goal(
        "a change visible after `XADD` returns",
        "p99 < 50 ms, also at 1,000 changes/s beside two bulk streams",
        "5 ms",
        ("propagation",),
        _visible,
    ),
    Goal("catch-up", "100,000 changes/s", "500,000/s", ("catch_up",), _catch_up),
    Goal("ready from a cold start, 3.6 M opt-outs", "< 2 s", "< 0.7 s", ("cold_start",), _cold),
    Goal(
        "resident memory, 3.6 M opt-outs, 8 bulk streams",
        "< 350 MB",
        "< 200 MB",
        ("growth_register",),
        _memory,
    ),
    Goal(
        "against Redis `SMISMEMBER` and a local polars anti-join",
        "30 times; 4 times",
        "100 times; 10 times",
        ("bulk",),
        _peers,
    ),
)
