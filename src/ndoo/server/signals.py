"""What in the way a client asks looks unlike work on patients, and like listing who opted out.

    INVALID_NUMBERS   many numbers that are none: of ten digits made up, ten in eleven are not valid
    NEAR_NUMBERS      numbers one after the other: somebody counts through the number space
    FEW_OPTED_OUT     few opted out: most numbers that are made up well belong to nobody
    MANY_OPTED_OUT    many opted out: somebody looks again at whom the list is known to hold
    ASKED_AGAIN       the same numbers over and over: somebody watches for a change of choice

They come from counts and from a small sample of each message; nothing of a sample is kept but what
`asked` tells. A signal speaks when enough was asked, of the last hours, to tell. It is raised
past a fixed level, early; refusing begins past a limit of the client's own, later, and lasts for a
while. The levels and what they were found by are in docs/enumeration.md.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ndoo.nhs_number import Keys
from ndoo.ops.logs import log_event
from ndoo.register.view import Counted
from ndoo.server.asked import Asked
from ndoo.server.status import OverQuota

COOLING_S = 900.0
"""For how long a client is refused whose signal passed its limit. Then it is watched anew."""

_ENDS_AT = 0.9  # of the level at which a signal is raised, so that it does not flicker


class Signal(enum.Enum):
    """The names of signals, as metrics, records and events have them."""

    INVALID_NUMBERS = "INVALID_NUMBERS"
    NEAR_NUMBERS = "NEAR_NUMBERS"
    FEW_OPTED_OUT = "FEW_OPTED_OUT"
    MANY_OPTED_OUT = "MANY_OPTED_OUT"
    ASKED_AGAIN = "ASKED_AGAIN"


def _limit(default: float, low: float, high: float) -> float:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class SignalLimits:
    """Past which a client is refused for a while. Shares are of 1; each has a value that nothing
    can pass: 1 for the largest, 0 for the smallest.
    """

    invalid_share_max: float = _limit(0.5, 0.0, 1.0)
    near_share_max: float = _limit(0.85, 0.0, 1.0)
    opted_out_share_min: float = _limit(0.018, 0.0, 1.0)
    opted_out_share_max: float = _limit(0.5, 0.0, 1.0)
    askings_max: float = _limit(50.0, 1.0, 1e12)


class SignalObserver(Protocol):
    """Who is told of signals."""

    def on_signal(self, client: str, signal: str, raised: bool, /) -> None:
        """*signal* of *client* is raised, or no longer."""


@dataclass(frozen=True, slots=True)
class _Level:
    """When a signal is raised, and after how much that was looked at it may speak."""

    raised: float
    enough: float


NUMBERS_MIN = 10_000
STEPS_MIN = 5_000
ASKINGS_MIN = 5_000

_INVALID = _Level(raised=0.2, enough=NUMBERS_MIN)
_NEAR = _Level(raised=0.6, enough=STEPS_MIN)
_FEW = _Level(raised=0.025, enough=2 * NUMBERS_MIN)
_MANY = _Level(raised=0.25, enough=NUMBERS_MIN)
_AGAIN = _Level(raised=10.0, enough=ASKINGS_MIN)


class Signals:
    """Those of one *client*. For one event loop; *clock* gives seconds that only go forward."""

    def __init__(
        self,
        client: str,
        limits: SignalLimits,
        observer: SignalObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.raised: frozenset[Signal] = frozenset()
        self._client = client
        self._observer = observer
        self._clock = clock
        self._refused_until = 0.0
        self._asked = Asked()
        for signal in Signal:
            observer.on_signal(client, signal.value, False)

    def refuse_while_cooling(self) -> None:
        """Raise OverQuota if a signal passed its limit lately."""
        if self._refused_until and self._clock() < self._refused_until:
            raise self._refusal()

    def observe(self, answers: Counted, sample: Callable[[], Keys]) -> None:
        """Look at what was asked. Raises OverQuota if it passes a limit, or another call's did."""
        self.refuse_while_cooling()
        if self._asked.add(answers, sample):
            now = self._clock()
            self._asked.look(now)
            self._judge(now)

    def _judge(self, now: float) -> None:
        limits = self.limits
        asked = self._asked
        invalid = asked.invalid.of(_INVALID.enough, 0.0)
        near = asked.near.of(_NEAR.enough, 0.0)
        few = asked.opted_out.of(_FEW.enough, 1.0)
        many = asked.opted_out.of(_MANY.enough, 0.0)
        again = asked.askings.median if asked.askings.asked >= _AGAIN.enough else 0
        self._tell({
            Signal.INVALID_NUMBERS: invalid / _INVALID.raised,
            Signal.NEAR_NUMBERS: near / _NEAR.raised,
            Signal.FEW_OPTED_OUT: _FEW.raised / max(few, 1e-9),
            Signal.MANY_OPTED_OUT: many / _MANY.raised,
            Signal.ASKED_AGAIN: again / _AGAIN.raised,
        })  # fmt: skip
        if (
            invalid > limits.invalid_share_max
            or near > limits.near_share_max
            or few < limits.opted_out_share_min
            or many > limits.opted_out_share_max
            or again > limits.askings_max
        ):
            self._refused_until = now + COOLING_S
            self._asked = Asked()
            log_event("warning", "client_refused", client=self._client, seconds=COOLING_S)
            raise self._refusal()

    def _tell(self, strengths: dict[Signal, float]) -> None:
        """Tell of each signal that begins, at strength 1, or ends."""
        for signal, strength in strengths.items():
            was_raised = signal in self.raised
            is_raised = strength > (_ENDS_AT if was_raised else 1.0)
            if is_raised == was_raised:
                continue
            self.raised ^= {signal}
            self._observer.on_signal(self._client, signal.value, is_raised)
            log_event(
                "warning" if is_raised else "info",
                "client_signal_began" if is_raised else "client_signal_ended",
                client=self._client,
                signal=signal.value,
            )

    def _refusal(self) -> OverQuota:
        return OverQuota(
            "What this client asks looks like a search for who opted out, so it is refused for a "
            "while; ask those who run the service.",
            reason="ENUMERATION",
            retry_s=max(0.0, self._refused_until - self._clock()),
        )
