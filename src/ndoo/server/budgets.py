"""What a client may still ask about today, across restarts and replicas.

A `Budget` claims blocks from the store and hands out from them, so that an answer waits for the
store once in a block at most, and mostly never, because the next block is claimed while half of the
last is left. What is claimed counts as spent until it is given back: a crash loses what it held, a
block and a half at most, and nothing is ever granted twice.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from ndoo.budgets.store import Claim, Granted, Store, StoreFailed
from ndoo.ops.logs import log_event
from ndoo.server.status import OverQuota

BLOCKS_A_DAY = 100
"""So small a part of the day is what a crash loses, or a replica may hold while others ask."""

BLOCK_MAX = 2_000_000
"""Two messages as large as they are by default; a claim takes less time than these."""

REST_S = 1.0
"""For how long a store that failed is left alone, and one that had nothing left."""

LAST_CLAIM_S_MAX = 5.0
"""How long the end waits for the store. What is then not given back counts as spent."""

_DAY_S = 86_400


class BudgetObserver(Protocol):
    """Who is told of budgets."""

    def on_budget(self, client: str, remaining: int, /) -> None:
        """So many numbers *client* may still ask about today, as this replica knows."""

    def on_budget_store_failing(self, failing: bool, /) -> None:
        """The store is away, or back."""


class Ledger:
    """*store* for the use of an event loop, its work done in a thread of its own.

    With *fail_open* a client whose budget is unknown may go on. *clock* gives seconds that only go
    forward.
    """

    def __init__(
        self,
        store: Store,
        observer: BudgetObserver,
        *,
        fail_open: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fail_open = fail_open
        self.observer = observer
        self.clock = clock
        self._store = store
        self._failing = False
        self._rests_until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="budgets")

    @property
    def is_resting(self) -> bool:
        """Whether the store failed a moment ago."""
        return self.clock() < self._rests_until

    async def claim(self, claim: Claim) -> Granted:
        """See `Store.claim`. Raises StoreFailed, at once while the store rests."""
        loop = asyncio.get_running_loop()
        try:
            if self.is_resting:
                raise self._resting()
            granted = await loop.run_in_executor(self._thread, self._claim, claim)
        except StoreFailed as error:
            self._tell(error)
            raise
        self._tell(None)
        return granted

    async def close(self) -> None:
        """Returns when the store is closed. Nothing is to be claimed any more."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown(wait=False)

    def _claim(self, claim: Claim) -> Granted:
        """In the thread, where claims queue: those behind one that failed fail with it."""
        if self.is_resting:
            raise self._resting()
        try:
            return self._store.claim(claim)
        except StoreFailed:
            self._rests_until = self.clock() + REST_S
            raise

    def _resting(self) -> StoreFailed:
        return StoreFailed(f"Spent budgets could not be kept in {self._store.name} just now.")

    def _tell(self, error: StoreFailed | None) -> None:
        failing = error is not None
        if failing == self._failing:
            return
        self._failing = failing
        self.observer.on_budget_store_failing(failing)
        if failing:
            log_event("error", "budgets_unknown", reason=str(error), answering=self.fail_open)
        else:
            log_event("info", "budgets_known")


@dataclass(slots=True, eq=False)
class Day:
    """One day of one client at this replica: what was claimed of it, and used.

    More than was claimed is used only while the store is away and the house goes on regardless.
    *empty_until* is not 0 if the store had less than was wanted when it last answered: until then
    it is not asked again.
    """

    number: int
    holder: str = field(default_factory=lambda: secrets.token_hex(8))
    turn: int = 0
    claimed: int = 0
    used: int = 0
    empty_until: float = 0.0
    claiming: asyncio.Task[StoreFailed | None] | None = None

    @property
    def unused(self) -> int:
        return self.claimed - self.used

    @property
    def name(self) -> str:
        return datetime.fromtimestamp(self.number * _DAY_S, UTC).date().isoformat()


class Budget:
    """The *ceiling* of *client*: so many numbers a day, a day of UTC. For one event loop.

    *clock* gives Unix seconds. Were it set back, the day before goes on where it ended: the store
    remembers each day by itself.
    """

    def __init__(
        self, client: str, ceiling: int, ledger: Ledger, clock: Callable[[], float] = time.time
    ) -> None:
        self.ceiling = ceiling
        self._client = client
        self._ledger = ledger
        self._clock = clock
        self._day = Day(self._today())

    async def spend(self, numbers: int) -> Day:
        """Use so many *numbers*, and tell of which day. Raises OverQuota."""
        while True:
            day = self._current()
            if numbers <= day.unused:
                break
            if self._ledger.clock() < day.empty_until:
                raise self._spent(day)
            failed = await asyncio.shield(self._claiming(day, numbers))
            if failed is not None and numbers > day.unused:
                if day.empty_until:
                    raise self._spent(day)
                if not self._ledger.fail_open:
                    raise _unknown()
                break
        day.used += numbers
        self._claim_ahead(day)
        return day

    def give_back(self, day: Day, numbers: int) -> None:
        """So many *numbers*, spent of *day*, were not answered."""
        day.used -= numbers

    async def close(self) -> None:
        """Give back what is not used. Nothing is to be spent any more."""
        day = self._day
        if day.claiming is not None:
            await day.claiming
        if day.turn:
            await self._claim(day, 0)

    def _today(self) -> int:
        return int(self._clock() // _DAY_S)

    def _current(self) -> Day:
        today = self._today()
        if today != self._day.number:
            self._day = Day(today)
        return self._day

    @property
    def _block(self) -> int:
        return min(BLOCK_MAX, -(-self.ceiling // BLOCKS_A_DAY))

    def _claim_ahead(self, day: Day) -> None:
        ledger = self._ledger
        if (
            2 * day.unused < self._block
            and ledger.clock() >= day.empty_until
            and not ledger.is_resting
        ):
            self._claiming(day, 0)

    def _claiming(self, day: Day, numbers: int) -> asyncio.Task[StoreFailed | None]:
        """The claim that is under way, or a new one for what so many *numbers* lack, or a block.

        A task of its own: whoever waits may go away, and what is granted is held all the same.
        """
        if day.claiming is None or day.claiming.done():
            wanted = max(self._block, numbers - day.unused)
            day.claiming = asyncio.create_task(self._claim(day, wanted))
        return day.claiming

    async def _claim(self, day: Day, wanted: int) -> StoreFailed | None:
        day.turn += 1
        held = max(day.claimed, day.used) if wanted else day.used
        claim = Claim(self._client, day.name, day.holder, day.turn, held, wanted, self.ceiling)
        try:
            granted = await self._ledger.claim(claim)
        except StoreFailed as error:
            return error
        day.claimed = held + granted.numbers
        day.empty_until = self._ledger.clock() + REST_S if granted.numbers < wanted else 0.0
        remaining = max(0, self.ceiling - granted.total) + max(0, day.unused)
        self._ledger.observer.on_budget(self._client, remaining)
        return None

    def _spent(self, day: Day) -> OverQuota:
        return OverQuota(
            f"The {self.ceiling:,} numbers that this client may ask about in a day are spent; the "
            "next day begins at midnight UTC.",
            reason="BUDGET_SPENT",
            retry_s=max(1.0, (day.number + 1) * _DAY_S - self._clock()),
        )


def _unknown() -> OverQuota:
    return OverQuota(
        "It cannot be told how much of this client's daily budget is left; try again soon.",
        reason="BUDGET_UNKNOWN",
        retry_s=REST_S,
    )
