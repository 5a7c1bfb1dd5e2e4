"""The door of a service that knows its clients: who it is, whether it may, and how much.

In this order, and nothing by default: a caller who is no client is NotIdentified, a client that
calls what it may not, or for a purpose that it may not, is NotAllowed, and its quota has the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ndoo.nhs_number import Keys
from ndoo.register.view import Counted
from ndoo.server.caller import Caller
from ndoo.server.identity import identify
from ndoo.server.policy import ClientPolicy
from ndoo.server.rules import RulesFiles
from ndoo.server.status import NotAllowed, NotIdentified


class Spending(Protocol):
    """What one call takes off the quota of its client. See `access.Access`."""

    @property
    def marks(self) -> tuple[str, ...]: ...

    def take_place(self) -> None: ...

    async def spend(self, numbers: int) -> None: ...

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None: ...

    def release(self) -> None: ...


class Quota(Protocol):
    """What one client may ask, in all its calls together."""

    def begin(self, rpc: str) -> Spending:
        """Begin a call."""


class Quotas(Protocol):
    """The quotas of all clients."""

    def for_client(self, client: ClientPolicy) -> Quota:
        """The quota of *client*, with the limits that it has now. The same one for its name."""


class Gate:
    """Lets clients in by the rules in *files*. For one event loop; *clock* gives Unix seconds."""

    def __init__(
        self, files: RulesFiles, quotas: Quotas, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._quotas = quotas
        self._clock = clock

    def admit(self, rpc: str, caller: Caller) -> Visit:
        return Visit(self._files, self._quotas, rpc, caller, self._clock())


class Visit:
    """The access of one call, which began at *now*. When the rules change, it is held to the new
    ones from its next message on; a token counts to the end of its call, unless its key is gone.
    """

    def __init__(
        self, files: RulesFiles, quotas: Quotas, rpc: str, caller: Caller, now: float
    ) -> None:
        """Raises NotIdentified."""
        self._files = files
        self._quotas = quotas
        self._rpc = rpc
        self._caller = caller
        self._began_at = now
        self._spending: Spending | None = None
        self._client = self._identified()

    @property
    def client(self) -> str:
        return self._client.name

    @property
    def marks(self) -> tuple[str, ...]:
        return () if self._spending is None else self._spending.marks

    def enter(self) -> None:
        _refuse_not_allowed(self._client, self._rpc, self._caller)
        self._spending = self._quotas.for_client(self._client).begin(self._rpc)

    def take_place(self) -> None:
        self._entered.take_place()

    async def spend(self, numbers: int) -> None:
        if self._files.rules is not self._rules:
            self._renew()
        await self._entered.spend(numbers)

    def _renew(self) -> None:
        client = self._identified()
        if client.name != self._client.name:  # what is spent is another's
            raise NotIdentified("The caller is another client by now; call again.")
        self._client = client
        _refuse_not_allowed(client, self._rpc, self._caller)
        self._quotas.for_client(client)

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None:
        self._entered.observe(answers, sample)

    def release(self) -> None:
        if self._spending is not None:
            self._spending.release()

    @property
    def _entered(self) -> Spending:
        if self._spending is None:
            raise RuntimeError("a call is let in before it asks")
        return self._spending

    def _identified(self) -> ClientPolicy:
        self._rules = self._files.rules
        return identify(self._caller, self._rules.policy, self._rules.tokens, self._began_at)


def _refuse_not_allowed(client: ClientPolicy, rpc: str, caller: Caller) -> None:
    if rpc not in client.rpcs:
        raise NotAllowed(f"This client may not call {rpc}.")
    if not caller.purpose and client.purpose_required:
        raise _purpose_not_allowed("This client must declare a purpose, as 'ndoo-purpose'.")
    if caller.purpose and caller.purpose not in client.purposes:
        raise _purpose_not_allowed("This client may not ask for the purpose that it declares.")
    if not caller.reference and client.reference_required:
        raise _purpose_not_allowed("This client must give a reference, as 'ndoo-reference'.")


def _purpose_not_allowed(sentence: str) -> NotAllowed:
    return NotAllowed(sentence, reason="PURPOSE_NOT_ALLOWED")
