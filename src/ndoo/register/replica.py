"""What this process knows of the register, and whether it may answer from it.

One writer (the follower) replaces the immutable `State` by a single assignment; every call reads it
once. The clock is handed in: this module decides, it does not look at the time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from ndoo.errors import NotAnswering
from ndoo.register.history import History
from ndoo.register.view import View

CLOCK_BACK_S_MAX = 60.0
"""How far *as_of* may lie in the future. Beyond it the clock was set back: the age is unknown."""


class Phase(enum.Enum):
    """How far the replica is. Answers are given in LIVE, and from the last verified register while
    it is being reloaded. Values as in the proto."""

    LOADING = 1
    CATCHING_UP = 2
    LIVE = 3
    STALE = 4
    SUSPENDED = 5


@dataclass(frozen=True, slots=True)
class State:
    """One state of knowledge. *view* is the last verified register, None before the first;
    *history* leads back from it.

    *as_of* is the last moment (Unix seconds) at which every change was known to be applied, and
    *era* counts how often the clock had been set back before: moments of another era cannot be
    compared with it. *phase* is what the follower is doing: LOADING, CATCHING_UP or LIVE. *trouble*
    says in one sentence why it is not LIVE, or "".
    """

    phase: Phase = Phase.LOADING
    view: View | None = None
    as_of: float = 0.0
    suspended: bool = False
    trouble: str = "The register is being loaded."
    history: History | None = None
    era: int = 0

    @property
    def moment(self) -> tuple[int, float]:
        """When every change was known to be applied: later ones are greater."""
        return self.era, self.as_of

    @property
    def verified(self) -> View:
        """The view. Raises NotAnswering if there is none yet."""
        if self.view is None:
            raise NotAnswering("The register is not loaded yet.", reason="NOT_LOADED")
        return self.view


Listener = Callable[[State], None]


class Replica:
    """The one place where the newest state stands. Reading it takes no lock."""

    def __init__(self, staleness_s_max: float) -> None:
        self._staleness_s_max = staleness_s_max
        self._state = State()
        self._too_old = (0, -math.inf)  # refused once, refused for good, wherever the clock goes
        # Since the last confirmation:
        self._latest_now = -math.inf
        self._set_back = False
        self._listeners: tuple[Listener, ...] = ()

    @property
    def state(self) -> State:
        return self._state

    @property
    def staleness_s_max(self) -> float:
        """How old a state may be that is answered from, in seconds."""
        return self._staleness_s_max

    def publish(self, state: State) -> None:
        """Put *state* in place and tell the listeners. Called by the follower's thread alone.

        Raises the first of what listeners raised, when all of them have heard.
        """
        before, self._state = self._state, state
        # Only now: the state before must not be judged by what is known of this one.
        if state.moment != before.moment:
            self._latest_now, self._set_back = -math.inf, False
        faults: list[Exception] = []
        for listener in self._listeners:
            try:
                listener(state)
            except Exception as fault:  # noqa: BLE001  (the others must hear of a suspension)
                faults.append(fault)
        if faults:
            raise faults[0]

    def listen(self, listener: Listener) -> None:
        """Have *listener* called after each publication, in the publishing thread; it must not
        block.
        """
        self._listeners = (*self._listeners, listener)

    def phase(self, now: float) -> Phase:
        """The phase as callers are told it, at *now* (Unix seconds)."""
        state = self._state
        if state.suspended:
            return Phase.SUSPENDED
        if state.view is None and state.phase is Phase.LIVE:
            return Phase.LOADING
        if state.view is not None and self._is_stale(state, now):
            return Phase.STALE
        return state.phase

    def answering_state(self, now: float) -> State:
        """The state to answer from at *now*. Raises NotAnswering: there may be none, and never a
        guess.
        """
        state = self._state
        if state.suspended:
            raise NotAnswering("All answers are suspended.", reason="SUSPENDED")
        _ = state.verified
        self.refuse_if_stale(state, now)
        return state

    def refuse_if_stale(self, state: State, now: float) -> None:
        """Raise NotAnswering if *state* is too old to be answered from at *now*."""
        if self._is_stale(state, now):
            raise NotAnswering(
                "The register was last known to be complete too long ago: over the limit of "
                f"{self._staleness_s_max:,.0f} s, or the clock was set back.",
                reason="STALE",
            )

    def clock_was_set_back(self, now: float) -> bool:
        """Whether the clock, at *now*, is or has been set back by more than CLOCK_BACK_S_MAX since
        the last confirmation. What is old looks young then: until the feed confirms anew, in a new
        era, the age of all that is known is unknown.
        """
        if now < max(self._latest_now, self._state.as_of) - CLOCK_BACK_S_MAX:
            self._set_back = True
        elif now > self._latest_now:
            self._latest_now = now
        return self._set_back

    def _is_stale(self, state: State, now: float) -> bool:
        if self.clock_was_set_back(now) or state.era != self._state.era:
            return True
        if not now - state.as_of <= self._staleness_s_max:
            self._too_old = max(self._too_old, state.moment)
            return True
        return state.moment <= self._too_old
