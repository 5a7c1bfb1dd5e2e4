"""Rows that hold no valid number: counted, and told by line and reason, never by content."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ndoo.cli.block import Block
from ndoo.cli.console import tell

KEPT_MAX = 1000
TOLD_MAX = 20


@dataclass(slots=True)
class BadRows:
    """How many there are, and the first KEPT_MAX of them as (line, reason)."""

    total: int = 0
    kept: list[tuple[int, str]] = field(default_factory=list)

    def note(self, block: Block, bad: npt.NDArray[np.bool_]) -> None:
        """Take note of those rows of *block* that are *bad*."""
        rows = np.flatnonzero(bad)
        self.total += len(rows)
        for row in rows[: KEPT_MAX - len(self.kept)].tolist():
            self.kept.append((int(block.lines[row]), block.fault(row)))

    def tell(self) -> None:
        """The first few on stderr, and how many more there are."""
        for line, reason in self.kept[:TOLD_MAX]:
            tell(f"line {line:,}: {reason}")
        if self.total > TOLD_MAX:
            tell(f"... and {self.total - TOLD_MAX:,} more bad rows")
