"""The pages: docs/performance.md with its plots, and docs/capacity.md, from the results alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import capacity
from benchmarks.goals import Judged, Results, judged
from benchmarks.harness import Facts, spread, write_text
from benchmarks.plots import draw_all
from benchmarks.scale import FULL
from benchmarks.text import millions, rates, table, times

PLOTS = "performance"  # the folder beside the page

_INTRODUCTION = """# Performance

Written by `make bench-report` from `benchmarks/results/*.json`; do not edit. `make bench` measures
again. `benchmarks/README.md` says what each benchmark asks and how to read it.

Figures are medians over rounds, with the lowest and the highest in brackets. All that is compared
was measured in the same run, in turns: ratios hold on another machine, and on a busy one, better
than times. Every answer counted here was compared with the truth.
"""


def write_pages(results_folder: Path, docs: Path) -> None:
    results = read_results(results_folder)
    plots = draw_all(results)
    (docs / PLOTS).mkdir(parents=True, exist_ok=True)
    for name, svg in plots.items():
        write_text(docs / PLOTS / f"{name}.svg", svg)
    write_text(docs / "performance.md", page(results, set(plots)))
    if results.keys() >= capacity.NEEDS:
        write_text(docs / "capacity.md", capacity.page(results))


def read_results(folder: Path) -> Results:
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return {facts["benchmark"]: facts for facts in found}


def page(results: Results, plots: set[str]) -> str:
    parts = [_INTRODUCTION, _where(results), _goals(results)]
    for name, (title, body) in SECTIONS.items():
        if name in results:
            facts = results[name]
            parts.append(f"## {title}\n\n{facts['question']}\n")
            parts.append(body(facts))
            if name in plots:
                parts.append(f"![{title}]({PLOTS}/{name}.svg)\n")
            parts.append(_parameters(facts))
    return "\n".join(parts)


def _where(results: Results) -> str:
    """The machine and versions of the newest result, and every commit that was measured."""
    newest = max(results.values(), key=lambda facts: facts["taken_at"])
    machine = newest["machine"]
    commits = ", ".join(sorted({facts["commit"] for facts in results.values()}))
    loads = [facts["load_average"][0] for facts in results.values()]
    scales = {facts["scale"] for facts in results.values()}
    lines = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"),
        ("system", machine["kernel"]),
        ("load at the end of each benchmark", f"{min(loads)} - {max(loads)}"),
        ("taken at", newest["taken_at"]),
        ("commit", commits),
        ("versions", ", ".join(f"{name} {it}" for name, it in newest["versions"].items())),
    ]
    text = table(("what", ""), lines)
    if any(scale != FULL.name for scale in scales):
        text += "\n**Not a full run: some parameters are smaller than those the goals speak of.**\n"
    return text


def _goals(results: Results) -> str:
    rows = [
        (goal.name, goal.reach, goal.dream, *_verdict(judgement))
        for goal, judgement in judged(results)
    ]
    head = ("what", "to reach", "dream", "measured", "reached", "why")
    return "## Goals\n\n" + table(head, rows)


def _verdict(judgement: Judged | None) -> tuple[str, str, str]:
    if judgement is None:
        return "not measured", "-", "not part of this run, or not at its full size"
    return judgement.measured, "yes" if judgement.reached else "**no**", judgement.why


def _bulk(facts: Facts) -> str:
    over = facts["stream_check_over"]
    rows = [
        (row["name"], rates(row["per_s"]), times(over[row["name"]]) if row["name"] in over else "")
        for row in facts["rows"]
    ]
    text = table(("who", "numbers", "StreamCheck is so many times as fast"), rows)
    held_mb = facts["redis_memory_mb"]
    text += f"\nRedis holds the people twice, as a set and as bits, in {held_mb:,.0f} MB.\n"
    if facts["missing"]:
        text += f"\nNot installed, so not measured: {', '.join(facts['missing'])}.\n"
    return text


def _kernels(facts: Facts) -> str:
    over = facts["in_use_over"]
    rows = [
        (row["name"], rates(row["per_s"]), times(over[row["name"]]) if row["name"] in over else "")
        for row in facts["rows"]
    ]
    return table(("kernel", "numbers", "the one in use is so many times as fast"), rows)


def _rungs(facts: Facts) -> str:
    columns = ("seconds_ns_a_number", "server_cpu_s_ns_a_number", "client_cpu_s_ns_a_number")
    rows, before = [], None
    for row in facts["rows"]:
        step = row[columns[1]] - (before[columns[1]] if before else 0)
        rows.append((row["name"], *(f"{row[column]:.2f}" for column in columns), f"{step:+.2f}"))
        before = row
    head = ("up to here", "wall ns", "server ns", "client ns", "this step, server ns")
    return table(head, rows) + "\nNanoseconds a number, the median of the rounds.\n"


def _sets(facts: Facts) -> str:
    rows = [
        (row["name"], f"{row['numbers']:,}", f"{row['numbers'] / row['per_s']['median']:.3f} s",
         rates(row["per_s"]))
        for row in facts["rows"]
    ]  # fmt: skip
    return table(("what", "keys", "time", "keys a second"), rows)


def _files(facts: Facts) -> str:
    over = facts["check_over_polars"]
    rows = [
        (row["name"], times(spread(row["seconds"])), rates(row["per_s"]),
         f"{row['proof']['peak_mb']:.0f}")
        for row in facts["rows"]
    ]  # fmt: skip
    text = table(("what", "seconds", "rows", "MB at most"), rows)
    told = "; ".join(f"{name}: {times(share)}" for name, share in over.items())
    return text + f"\n`ndoo check` is so many times as fast as polars: {told}.\n"


def _latency(facts: Facts) -> str:
    marks = ("p50", "p99", "p99.9", "max")
    rows = [
        (row["name"], row["condition"], f"{row['rate']:,}/s",
         *(f"{row[mark]:.2f}" for mark in marks), f"{row['sent_late']['p99']:.2f}",
         millions(row["bulk_numbers_per_s"]) if "bulk_numbers_per_s" in row else "")
        for row in facts["rows"]
    ]  # fmt: skip
    text = table(
        ("call", "condition", "rate", *(f"{mark} ms" for mark in marks), "sent late, p99 ms",
         "bulk meanwhile"), rows,
    )  # fmt: skip
    text += "\nOne call after the other, in turns:\n\n" + table(
        ("call", *(f"{mark} ms" for mark in marks)),
        [(row["name"], *(f"{row[mark]:.2f}" for mark in marks)) for row in facts["in_a_row"]],
    )
    return text + "\nMany at once, over one connection:\n\n" + table(
        ("call", "at once", "calls a second", "server µs a call"),
        [
            (row["name"], f"{row['in_flight']}", rates(row["calls_per_s"]),
             f"{row['server_cpu_us']['median']:.0f}")
            for row in facts["together"]
        ],
    )  # fmt: skip


def _coalescing(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["per_s"]),
         *(f"{statistics.median(row[side]) / row['numbers'] * 1e6:.1f}"
           for side in ("client_cpu_s", "server_cpu_s")))
        for row in facts["rows"]
    ]  # fmt: skip
    return table(("how", "checks a second", "client µs a check", "server µs a check"), rows)


def _propagation(facts: Facts) -> str:
    marks = ("p50", "p99", "p99.9", "max")
    rows = [
        (row["name"], row["condition"], f"{row['changes_per_s']:,.0f}/s", f"{row['count']:,}",
         *(f"{row[mark]:.2f}" for mark in marks))
        for row in facts["rows"]
    ]  # fmt: skip
    head = ("changes", "condition", "came to", "probes", *(f"{mark} ms" for mark in marks))
    return table(head, rows)


def _catch_up(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["changes_per_s"]), f"{row['cpu_us_a_change']['median']:.1f}")
        for row in facts["rows"]
    ]
    return table(("feed", "changes", "µs of processor a change"), rows)


def _publishing(facts: Facts) -> str:
    rows = [(row["name"], times(row["us"])) for row in facts["rows"]]
    whole = f"Building a whole view takes {facts['whole_view_ms']:.0f} ms.\n"
    return table(("batch", "new view after, µs"), rows) + "\n" + whole


def _snapshots(facts: Facts) -> str:
    rows = [
        (row["name"], f"{row['fold_s']:.2f}", f"{row['trim_s']:.2f}", f"{row['peak_mb']:.0f}",
         f"{row['server_peak_mb']:.0f}" if "server_peak_mb" in row else "")
        for row in facts["rows"]
    ]  # fmt: skip
    head = (
        "feed",
        "all folded after, s",
        "all trimmed after, s",
        "MB at most",
        "Redis, MB at most",
    )
    return table(head, rows) + (
        "\nAn append that looks for the id of its request among all these changes of a directory "
        f"takes {times(facts['request_id_ms'])} ms.\n"
    )


def _cold_start(facts: Facts) -> str:
    phases = list(facts["rows"][0]["phases_s"])
    rows = [
        (row["name"], *(f"{row['phases_s'][phase]:.3f}" for phase in phases),
         times(row["live_s"]))
        for row in facts["rows"]
    ]  # fmt: skip
    return table(("feed", *(f"{phase}, s" for phase in phases), "LIVE after, s"), rows)


def _messages(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["stream_check_per_s"]), rates(row["echo_per_s"]),
         times(row["over_echo"]), rates(row["batch_check_per_s"]))
        for row in facts["rows"]
    ]  # fmt: skip
    head = ("numbers a message", "StreamCheck", "echo", "StreamCheck/echo", "BatchCheck")
    return table(head, rows)


def _streams(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["stream_check_per_s"]), rates(row["echo_per_s"]),
         times(row["over_echo"]))
        for row in facts["rows"]
    ]  # fmt: skip
    memory = facts["memory_after_all"]
    return table(("streams", "StreamCheck", "echo", "StreamCheck/echo"), rows) + (
        f"\nAfter all of them the service holds {memory['rss_mb']:.0f} MB, at its highest "
        f"{memory['peak_mb']:.0f} MB.\n"
    )


def _questions(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["stream_check_per_s"]), rates(row["kernel_per_s"]))
        for row in facts["rows"]
    ]
    return table(("questions", "StreamCheck", "kernel, one thread"), rows)


def _register(facts: Facts) -> str:
    rows = [
        (row["name"], rates(row["stream_check_per_s"]), times(row["over_echo"]),
         rates(row["kernel_per_s"]), f"{row['rss_idle_mb']:.0f}", f"{row['rss_mb']:.0f}",
         f"{row['peak_mb']:.0f}", f"{row['ready_s']:.2f}")
        for row in facts["rows"]
    ]  # fmt: skip
    return table(
        ("opt-outs", "StreamCheck", "StreamCheck/echo", "kernel, one thread", "MB idle",
         "MB after 8 streams", "MB at most", "LIVE after, s"), rows,
    )  # fmt: skip


def _parameters(facts: Facts) -> str:
    told = [
        f"{name.replace('_', ' ')} {_told(value)}" for name, value in facts["parameters"].items()
    ]
    return f"<sub>{'; '.join(told)}; commit {facts['commit']}</sub>\n"


def _told(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(map(_told, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


SECTIONS: dict[str, tuple[str, Callable[[Facts], str]]] = {
    "bulk": ("Bulk checks, their transport and their peers", _bulk),
    "rungs": ("Where the time goes", _rungs),
    "kernels": ("Kernels", _kernels),
    "sets": ("Sets", _sets),
    "set_from_array": ("Sets from an array", _sets),
    "files": ("Files", _files),
    "latency": ("Single checks", _latency),
    "coalescing": ("Single checks that share messages", _coalescing),
    "propagation": ("Changes until they show", _propagation),
    "catch_up": ("Catching up", _catch_up),
    "publishing": ("Publishing a batch", _publishing),
    "snapshots": ("Snapshots", _snapshots),
    "cold_start": ("Cold start", _cold_start),
    "growth_messages": ("Numbers a message", _messages),
    "growth_streams": ("Streams at once", _streams),
    "growth_questions": ("What is asked", _questions),
    "growth_register": ("Opt-outs and memory", _register),
}
