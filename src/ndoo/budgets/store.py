"""How replicas share the numbers that a client may ask about in a day.

Each holder (one replica, for one client, on one day) claims blocks and hands out from them. It
tells the whole of what it holds each time, not the difference, and the store keeps that of each
holder and their sum. So whatever a lost answer, a crash or a store that lost its last writes leaves
in doubt is put right by the next claim, giving back is a claim of nothing, and what is in doubt
meanwhile counts as spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ndoo.errors import NdooError

DAYS_KEPT = 8
"""For how many days what was spent is remembered: a clock may be set back so far."""


class StoreFailed(NdooError):
    """What is spent cannot be read or written now."""

    reason = "BUDGET_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Claim:
    """*holder* has used, or holds unused, *held* numbers of *client* on *day* (YYYY-MM-DD, UTC),
    and wants so many more; all holders together get no more than *ceiling*.

    *turn* rises with each claim of a holder: one that was overtaken on its way changes nothing.
    """

    client: str
    day: str
    holder: str
    turn: int
    held: int
    wanted: int
    ceiling: int


class Granted(NamedTuple):
    """*numbers* more for the holder; *total* is what all holders of the day have, with these."""

    numbers: int
    total: int


class Store(Protocol):
    """Keeps what is claimed. Used by one thread, and may block for seconds."""

    @property
    def name(self) -> str:
        """Where it is, in words that may be printed."""

    def claim(self, claim: Claim) -> Granted:
        """Keep what *claim* says, durably, and grant as much of it as there is.

        Raises StoreFailed; then it is unknown whether it was kept, and nothing is granted.
        """

    def close(self) -> None: ...


def share(claim: Claim, others: int) -> Granted:
    """What *claim* gets where *others* hold so many."""
    before = others + claim.held
    numbers = max(0, min(claim.wanted, claim.ceiling - before))
    return Granted(numbers, before + numbers)
