"""Clients with limits, without the identities that a gate would ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

from ndoo.server.policy import RPCS, ClientPolicy
from ndoo.server.quotas import Quotas
from ndoo.server.signals import SignalLimits


def client_policy(name: str = "client", **limits: object) -> ClientPolicy:
    """A client that may call everything, without a limit but *limits*."""
    given = {
        "certificate_names": frozenset({f"DNS:{name}.example"}),
        "token_subjects": frozenset(),
        "rpcs": frozenset(RPCS),
        "purposes": frozenset(),
        "purpose_required": False,
        "reference_required": False,
        "numbers_per_second": None,
        "burst": limits.get("numbers_per_second"),
        "numbers_per_day": None,
        "numbers_per_message": None,
        "streams": None,
        "signals": SignalLimits(),
    }
    return ClientPolicy(name=name, **(given | limits))


@dataclass
class Told:
    """What observers of quotas are told."""

    spent: dict[str, int] = field(default_factory=dict)
    budgets: list[int] = field(default_factory=list)
    signals: dict[str, bool] = field(default_factory=dict)
    failing: list[bool] = field(default_factory=list)

    def on_spent(self, client: str, numbers: int) -> None:
        self.spent[client] = self.spent.get(client, 0) + numbers

    def on_budget(self, client: str, remaining: int) -> None:
        self.budgets.append(remaining)

    def on_signal(self, client: str, signal: str, raised: bool) -> None:
        self.signals[signal] = raised

    def on_budget_store_failing(self, failing: bool) -> None:
        self.failing.append(failing)

    @property
    def raised(self) -> set[str]:
        return {signal for signal, raised in self.signals.items() if raised}


@dataclass
class Time:
    """A clock that moves when it is told to, or when somebody sleeps by it."""

    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class FixedDoor:
    """Takes every caller for *client*."""

    def __init__(self, quotas: Quotas, client: ClientPolicy) -> None:
        self.quotas = quotas
        self.client = client

    def admit(self, rpc: str, caller: object) -> _FixedAccess:
        return _FixedAccess(self, rpc)


class _FixedAccess:
    def __init__(self, door: FixedDoor, rpc: str) -> None:
        self._door = door
        self._rpc = rpc
        self._spending = None
        self.client = door.client.name

    @property
    def marks(self) -> tuple[str, ...]:
        return self._spending.marks if self._spending else ()

    def enter(self) -> None:
        self._spending = self._door.quotas.for_client(self._door.client).begin(self._rpc)

    def take_place(self) -> None:
        self._spending.take_place()

    async def spend(self, numbers: int) -> None:
        await self._spending.spend(numbers)

    def observe(self, answers: object, sample: object) -> None:
        self._spending.observe(answers, sample)

    def release(self) -> None:
        if self._spending:
            self._spending.release()
