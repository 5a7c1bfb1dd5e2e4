"""When a question is asked again, and how long that goes on.

Again only where the service itself says so (RetryInfo), or where no service spoke at all: the
connection broke, or there was none. Everything else is an answer, and stands. Pauses double, and
are jittered, so that callers who were cut off together do not come back together.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from ipaddress import ip_address

import grpc

from ndoo.client.errors import CallFailed

PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0
DELAY_S_MAX = 60.0
"""A service that wants more time than this, for a day's budget say, has answered for now."""

TURNS_MAX = 10
TURN_PAUSE_S = 0.05
"""A replica that has just been found may need it to be connected."""

_DOUBLINGS_MAX = 10

LOST_REASONS = frozenset({"REVISION_GONE", "OTHER_GENERATION"})
"""The demanded revision cannot be had: whoever did not fix it may start over at another."""

_STOPPING = "SHUTTING_DOWN"
_UNREACHED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""A service that stops ends calls that it has not looked at yet as CANCELLED."""


def is_unreached(error: CallFailed) -> bool:
    """Whether the service is not there: the connection broke, there was none, or it is stopping."""
    return error.reason == _STOPPING or (error.code in _UNREACHED and not error.reason)


def turns_of(target: str) -> int:
    """How often *target* is asked for a revision before it is not held there: behind a name may
    stand several replicas, which take turns, and only some of them may hold it.
    """
    try:
        ip_address(target.rpartition(":")[0].removeprefix("[").removesuffix("]"))
    except ValueError:
        return TURNS_MAX
    return 1


def _is_worth_another(error: CallFailed) -> bool:
    if error.retry_delay_s is None:
        return is_unreached(error)
    return error.retry_delay_s <= DELAY_S_MAX


@dataclass(slots=True)
class Tries:
    """The tries of one question, which must be answered *within_s* seconds; None is for ever."""

    within_s: float | None
    _started: float = field(default_factory=time.monotonic)
    _failed: int = 0
    _last: CallFailed | None = None

    def remaining_s(self) -> float | None:
        """What the next try may take."""
        if self.within_s is None:
            return None
        return max(0.0, self._started + self.within_s - time.monotonic())

    def is_over_in(self, seconds: float) -> bool:
        """Whether a try that begins after *seconds* comes too late."""
        remaining_s = self.remaining_s()
        return remaining_s is not None and seconds >= remaining_s

    def pause_s(self, error: CallFailed) -> float:
        """How long to wait before the next try.

        Raises *error* if there is to be none; if time has merely run out in the middle of a try,
        the error of the try before, which says why it took so long.
        """
        if not _is_worth_another(error):
            is_late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            raise self._last if is_late and self._last else error
        self._last = error
        doubled = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self._failed, _DOUBLINGS_MAX))
        self._failed += 1
        spread = random.uniform(1.0, 1.5)  # noqa: S311  (it protects nothing)
        pause_s: float = max(doubled, error.retry_delay_s or 0.0) * spread
        if self.is_over_in(pause_s):
            raise error
        return pause_s
