"""Who may ask what, and how much: what the calls ask of whoever decides that.

A `Door` lets a caller in or does not; the `Access` it gives accompanies the call to its end. Where
no identities are set up, `OpenDoor` lets everybody ask everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ndoo.nhs_number import Keys
from ndoo.register.view import Counted
from ndoo.server.caller import Caller


class Access(Protocol):
    """What one call may do. For one event loop; `release` is called once, at the end, even of a
    call that `enter` refused.
    """

    @property
    def client(self) -> str:
        """The name of the client, or "" where nobody is told apart."""

    @property
    def marks(self) -> tuple[str, ...]:
        """What the call was noticed for, for its audit record."""

    def enter(self) -> None:
        """Begin. Raises NotAllowed or OverQuota, so that a record can name the client."""

    def take_place(self) -> None:
        """Take one of the places that the client's streams have. Raises Busy."""

    async def spend(self, numbers: int) -> None:
        """Take so many numbers off what the client may ask, waiting a little for its rate.

        Raises NotAllowed or OverQuota, before anything is answered; NotIdentified if the caller is
        no client any more.
        """

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None:
        """Learn from what was answered; *sample* gives some of the keys asked, in their order.

        Raises OverQuota if the client is to be stopped: then the answers are not given.
        """

    def release(self) -> None:
        """The call is over."""


class Door(Protocol):
    """Knows who may call."""

    def admit(self, rpc: str, caller: Caller) -> Access:
        """Find out which client *caller*, who calls *rpc*, is. Raises NotIdentified."""


class OpenDoor:
    """Everybody may ask everything: no identities are set up."""

    def admit(self, rpc: str, caller: Caller) -> Access:  # noqa: ARG002  (all are alike here)
        return _UNLIMITED


class _Unlimited:
    client = ""
    marks: tuple[str, ...] = ()

    def enter(self) -> None:
        pass

    def take_place(self) -> None:
        pass

    async def spend(self, numbers: int) -> None:
        pass

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None:
        pass

    def release(self) -> None:
        pass


_UNLIMITED = _Unlimited()
