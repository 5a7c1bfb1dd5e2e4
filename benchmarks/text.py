"""Words and tables for the pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.harness import Facts


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def millions(per_s: float) -> str:
    """Numbers a second, as far as they mean something."""
    if per_s >= 1e6:
        return f"{per_s / 1e6:,.3g} M/s" if per_s < 1e9 else f"{per_s / 1e6:,.0f} M/s"
    return f"{per_s:,.0f}/s"


def rates(spread: Facts) -> str:
    """The median, and from where to where the rounds went."""
    return f"{millions(spread['median'])} ({_short(spread['min'])} - {_short(spread['max'])})"


def times(spread: Facts) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} - {spread['max']:.2f})"


def _short(per_s: float) -> str:
    return (
        millions(per_s).removesuffix("/s").removesuffix(" M") if per_s >= 1e6 else f"{per_s:,.0f}"
    )
