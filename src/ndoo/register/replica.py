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
    """One state of knowledge. *view* is the last verified register, None before the first.

    *as_of* is the last moment (Unix seconds) at which every change was known to be applied. *phase*
    is what the follower is doing: LOADING, CATCHING_UP or LIVE. *trouble* says in one sentence why
    it is not LIVE, or "".
    """

    phase: Phase = Phase.LOADING
    view: View | None = None
    as_of: float = 0.0
    suspended: bool = False
    trouble: str = "The register is being loaded."

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
        self._refused_as_of = math.nan  # refused once, refused for good, wherever the clock goes
        self._latest_now = -math.inf  # since the last confirmation
        self._listeners: tuple[Listener, ...] = ()

    @property
    def state(self) -> State:
        return self._state

    def publish(self, state: State) -> None:
        """Put *state* in place and tell the listeners. Called by the follower's thread alone."""
        if state.as_of != self._state.as_of:
            self._latest_now = -math.inf
        self._state = state
        for listener in self._listeners:
            listener(state)

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

    def _is_stale(self, state: State, now: float) -> bool:
        # A clock set back makes what is old look young: until the feed confirms anew, its age is
        # unknown.
        if now < self._latest_now - CLOCK_BACK_S_MAX:
            self._refused_as_of = self._state.as_of
        elif now > self._latest_now:
            self._latest_now = now
        if not -CLOCK_BACK_S_MAX <= now - state.as_of <= self._staleness_s_max:
            self._refused_as_of = state.as_of
            return True
        return state.as_of == self._refused_as_of
