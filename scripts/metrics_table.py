"""Write the table of docs/metrics.md from the metrics as they are defined."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from prometheus_client import Metric

from ndoo.ops.metrics import Metrics
from ndoo.register.replica import Replica, State
from ndoo.register.view import View
from ndoo.revision import Revision

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
SERVICE = "ndoo.v1.OptOutCheck"
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)
_WORDS_SHOWN_MAX = 8


def main() -> None:
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


def page(text: str) -> str:
    """The page *text* with its table made anew."""
    rows = [f"| `{name}` | {kind} | {labels} | {told} |" for name, kind, labels, told in _rows()]
    head = ["| metric | type | labels | what it is |", "| --- | --- | --- | --- |"]
    table = "\n".join([*head, *rows]) + "\n"
    return _TABLE.sub(lambda _: table, text)


def families() -> Iterator[Metric]:
    """Every metric of the service, with at least one series of each."""
    replica = Replica(86_400.0)
    replica.publish(State(view=View.of(np.array([], np.uint32), Revision("GENERATION", 0))))
    metrics = Metrics(replica, "VERSION")
    metrics.call("unary", SERVICE, "Check")
    metrics.on_clients(["CLIENT"])
    metrics.on_budget("CLIENT", 0)
    metrics.on_signal("CLIENT", "SIGNAL", False)
    metrics.on_certificate("CERTIFICATE", 0.0)
    metrics.on_certificate_refused("CERTIFICATE", False)
    for family in metrics.registry.collect():
        if family.name.startswith(("ndoo_", "grpc_server_")):
            yield family


def _rows() -> Iterator[tuple[str, str, str, str]]:
    for family in sorted(families(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, _labels(family), family.documentation


def _labels(family: Metric) -> str:
    """Each label with its values, where these are few words of the service's own."""
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in values.setdefault(label, []):
                values[label].append(value)
    return "; ".join(
        f"`{label}`: {', '.join(words)}" if 1 < len(words) <= _WORDS_SHOWN_MAX else f"`{label}`"
        for label, words in values.items()
    )


if __name__ == "__main__":
    main()
