"""Plots of the results, as SVG that is the same for the same results."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.goals import Results
from benchmarks.latency import IDLE, LOADED

COLOURS = ("#005eb8", "#768692", "#78be20", "#ed8b00")
_SIZE = (7.0, 3.4)


def draw_all(results: Results) -> dict[str, str]:
    """Each plot whose results are there, by name."""
    import matplotlib as mpl  # noqa: PLC0415  (of the benchmarks' own dependencies)

    mpl.use("svg")
    with mpl.rc_context({"svg.hashsalt": "ndoo", "svg.fonttype": "none", "font.size": 9}):
        return {name: _svg(plot, results[name]) for name, plot in PLOTS.items() if name in results}


def _svg(plot: Callable[[Any, Any], None], facts: Any) -> str:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    plot(axes, facts)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], label: str) -> None:
    places = range(len(names))
    axes.barh(places, values, color=COLOURS[0])
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(label)


def _speeds(axes: Any, facts: Any) -> None:
    rows = sorted(facts["rows"], key=lambda row: -row["per_s"]["median"])
    values = [row["per_s"]["median"] / 1e6 for row in rows]
    _bars(axes, [row["name"] for row in rows], values, "million numbers a second")


def _bulk(axes: Any, facts: Any) -> None:
    _speeds(axes, facts)
    axes.set_xscale("log")


def _rungs(axes: Any, facts: Any) -> None:
    rows, column = facts["rows"], "server_cpu_s_ns_a_number"
    costs = [rows[0][column]]
    costs += [row[column] - before[column] for before, row in pairwise(rows)]
    _bars(axes, [row["name"] for row in rows], costs, "nanoseconds of server time a number")


def _lines(facts: Any, x: str, axes: Any, *columns: tuple[str, str]) -> None:
    rows = facts["rows"]
    for colour, (column, label) in zip(COLOURS, columns):
        spreads = [row[column] for row in rows]
        places = [row[x] for row in rows]
        axes.plot(
            places, [each["median"] / 1e6 for each in spreads], "o-", color=colour, label=label
        )
        axes.fill_between(
            places,
            [each["min"] / 1e6 for each in spreads],
            [each["max"] / 1e6 for each in spreads],
            color=colour,
            alpha=0.2,
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("million numbers a second")
    axes.legend(frameon=False)


def _messages(axes: Any, facts: Any) -> None:
    columns = ("stream_check_per_s", "StreamCheck"), ("echo_per_s", "echo")
    _lines(facts, "size", axes, *columns, ("batch_check_per_s", "BatchCheck"))
    axes.set_xlabel("numbers in a message")


def _streams(axes: Any, facts: Any) -> None:
    columns = ("stream_check_per_s", "StreamCheck"), ("echo_per_s", "echo")
    _lines(facts, "streams", axes, *columns)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("streams at once")


def _register(axes: Any, facts: Any) -> None:
    columns = ("stream_check_per_s", "StreamCheck"), ("kernel_per_s", "kernel, one thread")
    _lines(facts, "opt_outs", axes, *columns)
    axes.set_xlabel("opt-outs")
    memory = axes.twinx()
    rows = facts["rows"]
    memory.plot(
        [row["opt_outs"] for row in rows], [row["rss_mb"] for row in rows], "s--",
        color=COLOURS[3],
    )  # fmt: skip
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident megabytes (dashed)")


def _latency(axes: Any, facts: Any) -> None:
    marks = ("p50", "p99", "p99.9", "max")
    for colour, name in zip(COLOURS, ("Check", "empty handler")):
        for style, condition in (("o-", IDLE), ("s--", LOADED)):
            rows = [r for r in facts["rows"] if (r["name"], r["condition"]) == (name, condition)]
            row = rows[len(rows) // 2]
            axes.plot(
                marks, [row[mark] for mark in marks], style, color=colour,
                label=f"{name}, {condition}, {row['rate']}/s",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds")
    axes.legend(frameon=False)


def _propagation(axes: Any, facts: Any) -> None:
    for colour, condition in zip(COLOURS, (IDLE, LOADED)):
        rows = [row for row in facts["rows"] if row["condition"] == condition]
        rates = [row["intended_per_s"] for row in rows]
        for style, mark in (("o-", "p50"), ("s--", "p99")):
            axes.plot(
                rates, [row[mark] for row in rows], style, color=colour,
                label=f"{mark}, {condition}",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("changes a second")
    axes.set_ylabel("milliseconds until visible")
    axes.legend(frameon=False)


PLOTS = {
    "bulk": _bulk,
    "kernels": _speeds,
    "rungs": _rungs,
    "latency": _latency,
    "propagation": _propagation,
    "growth_messages": _messages,
    "growth_streams": _streams,
    "growth_register": _register,
}
