"""How much each client may ask, counted in NHS numbers over all its calls at this replica.

In this order, and each before anything is answered: how large a message may be, whether the client
was stopped, its rate, its budget of the day. A stream that is ahead of its rate waits, and reads no
more meanwhile, so that flow control holds its caller back; a single call is told when to come back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from ndoo.nhs_number import Keys
from ndoo.register.view import Counted
from ndoo.server.budgets import LAST_CLAIM_S_MAX, Budget, BudgetObserver, Day, Ledger
from ndoo.server.policy import ClientPolicy
from ndoo.server.signals import SignalObserver, Signals
from ndoo.server.status import Busy, NotAllowed, OverQuota

STREAM_WAIT_S_MAX = 60.0
"""How long a message of a stream waits for its client's rate. Were it longer, it is refused."""

_STREAMS = frozenset({"StreamCheck", "CheckSet"})
_ROUNDING_S = 0.001  # a retry is told in whole milliseconds


class QuotaObserver(BudgetObserver, SignalObserver, Protocol):
    """Who is told of what clients ask."""

    def on_spent(self, client: str, numbers: int, /) -> None:
        """*client* asked about so many *numbers*, and they are to be answered."""


class Rate:
    """A bucket of *burst* numbers that fills at *per_second*.

    What is taken counts at once, though it may have to be waited for: so whoever comes first goes
    first. A message larger than the bucket goes when the bucket is full, and leaves it in debt; so
    in any *t* seconds no more than per_second * t + burst go, or one message where that is larger.
    """

    def __init__(self, per_second: int, burst: int, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._level = float(burst)
        self._at = now

    def change(self, per_second: int, burst: int, now: float) -> None:
        """What is in the bucket stays, as far as there is room."""
        self._fill(now)
        self._per_second = per_second
        self._burst = burst
        self._level = min(self._level, burst)

    def wait_s(self, numbers: int, now: float) -> float:
        """How long so many *numbers* would have to wait."""
        self._fill(now)
        lacking = min(numbers, max(1, self._burst)) - self._level
        if lacking <= 0:
            return 0.0
        return lacking / self._per_second if self._per_second else math.inf

    def take(self, numbers: int) -> None:
        self._level -= numbers

    def give_back(self, numbers: int) -> None:
        self._level += numbers

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._at)
        self._level = min(self._burst, self._level + passed_s * self._per_second)
        self._at = now


class Quota:
    """What is left to one client. For one event loop; *clock* gives seconds that only go forward,
    *sleep* waits by it.
    """

    def __init__(
        self,
        client: ClientPolicy,
        observer: QuotaObserver,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.client = client
        self.observer = observer
        self.signals = Signals(client.name, client.signals, observer, clock)
        self.budget: Budget | None = None
        self._clock = clock
        self._sleep = sleep
        self._rate: Rate | None = None
        self._streams = 0
        self.change(client)

    def change(self, client: ClientPolicy) -> None:
        """The limits are new, what was asked is not."""
        self.client = client
        self.signals.limits = client.signals
        per_second, burst = client.numbers_per_second, client.burst
        if per_second is None or burst is None:
            self._rate = None
        elif self._rate is None:
            self._rate = Rate(per_second, burst, self._clock())
        else:
            self._rate.change(per_second, burst, self._clock())

    def begin(self, rpc: str) -> Spending:
        """Begin a call."""
        return Spending(self, rpc in _STREAMS)

    def take_place(self) -> None:
        """Raises Busy."""
        streams_max = self.client.streams
        if streams_max is not None and self._streams >= streams_max:
            raise Busy(f"All {streams_max} streams of this client are in use; try again soon.")
        self._streams += 1

    def give_place_back(self) -> None:
        self._streams -= 1

    def refuse_too_large(self, numbers: int) -> None:
        """Raise NotAllowed if a message may not hold so many *numbers*."""
        numbers_max = self.client.numbers_per_message
        if numbers_max is not None and numbers > numbers_max:
            raise NotAllowed(
                f"The message holds {numbers:,} numbers; this client may send at most "
                f"{numbers_max:,} in one.",
                reason="TOO_LARGE_FOR_CLIENT",
            )

    async def wait(self, numbers: int, wait_s_max: float) -> None:
        """Wait until the rate has room for so many *numbers*. Raises OverQuota, at once."""
        rate = self._rate
        if rate is None:
            return
        wait_s = rate.wait_s(numbers, self._clock())
        if wait_s > wait_s_max:
            raise _too_fast(self.client, wait_s)
        rate.take(numbers)
        if wait_s:
            try:
                await self._sleep(wait_s)
            except asyncio.CancelledError:
                rate.give_back(numbers)
                raise


class Spending:
    """One call of the client of *quota*. See `access.Access`."""

    def __init__(self, quota: Quota, is_stream: bool) -> None:
        self._quota = quota
        self._is_stream = is_stream
        self._has_place = False
        self._marks: frozenset[str] = frozenset()
        self._unanswered = 0
        self._day: Day | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The signals that were raised while the call was answered."""
        return tuple(sorted(self._marks))

    def take_place(self) -> None:
        """Once. Raises Busy."""
        self._quota.take_place()
        self._has_place = True

    async def spend(self, numbers: int) -> None:
        """Raises NotAllowed or OverQuota."""
        quota = self._quota
        quota.refuse_too_large(numbers)
        quota.signals.refuse_while_cooling()
        await quota.wait(numbers, STREAM_WAIT_S_MAX if self._is_stream else 0.0)
        if quota.budget is not None:
            self._day = await quota.budget.spend(numbers)
            self._unanswered = numbers
        quota.observer.on_spent(quota.client.name, numbers)

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None:
        """Raises OverQuota."""
        self._unanswered = 0
        signals = self._quota.signals
        try:
            signals.observe(answers, sample)
        finally:
            if signals.raised:
                self._marks |= {signal.value for signal in signals.raised}

    def release(self) -> None:
        """Give back what was spent of the budget and not answered, and the place of a stream."""
        if self._unanswered and self._day is not None and self._quota.budget is not None:
            self._quota.budget.give_back(self._day, self._unanswered)
            self._unanswered = 0
        if self._has_place:
            self._quota.give_place_back()


class Quotas:
    """The quotas of all clients, by name: however often the policy changes, what was asked counts.

    *wall_clock* gives Unix seconds, for days; *ledger* keeps budgets.
    """

    def __init__(
        self,
        observer: QuotaObserver,
        ledger: Ledger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._observer = observer
        self._ledger = ledger
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._quotas: dict[str, Quota] = {}

    def for_client(self, client: ClientPolicy) -> Quota:
        """The quota of *client*, with the limits that it has now. The same one for its name."""
        quota = self._quotas.get(client.name)
        if quota is None:
            quota = Quota(client, self._observer, self._clock, self._sleep)
            quota.budget = self._budget(None, client)
            self._quotas[client.name] = quota
        elif quota.client is not client:
            quota.change(client)
            quota.budget = self._budget(quota.budget, client)
        return quota

    async def close(self) -> None:
        """Give back what is unused of budgets, and close their store. No call runs any more."""
        if self._ledger is None:
            return
        budgets = [each.budget for each in self._quotas.values() if each.budget is not None]
        closing = [asyncio.create_task(budget.close()) for budget in budgets]
        if closing:
            await asyncio.wait(closing, timeout=LAST_CLAIM_S_MAX)
        await self._ledger.close()

    def _budget(self, budget: Budget | None, client: ClientPolicy) -> Budget | None:
        ceiling = client.numbers_per_day
        if not ceiling:
            return None
        if self._ledger is None:
            raise RuntimeError("a daily budget is nowhere kept")  # which the policy is refused for
        if budget is None:
            return Budget(client.name, ceiling, self._ledger, self._wall_clock)
        budget.ceiling = ceiling
        return budget


def _too_fast(client: ClientPolicy, wait_s: float) -> OverQuota:
    return OverQuota(
        f"This client may ask about {client.numbers_per_second:,} numbers a second; wait, or send "
        "smaller messages.",
        reason="RATE_EXCEEDED",
        retry_s=wait_s + _ROUNDING_S if math.isfinite(wait_s) else None,
    )
