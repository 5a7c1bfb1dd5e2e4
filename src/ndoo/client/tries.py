"""When a question is asked again, and how long that goes on.

Again only where the service itself says so (RetryInfo), or where no service spoke at all: the
connection broke, or there was none. Everything else is an answer, and stands. Pauses double, and
are jittered, so that callers who were cut off together do not come back together.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import grpc

from ndoo.client.errors import CallFailed

PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0
_DOUBLINGS_MAX = 10

LOST_REASONS = frozenset({"REVISION_GONE", "OTHER_GENERATION"})
"""The demanded revision cannot be had: whoever did not fix it may start over at another."""


def is_unreached(error: CallFailed) -> bool:
    """Whether no service spoke: the connection broke, or there was none."""
    return error.code is grpc.StatusCode.UNAVAILABLE and not error.reason


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

    def pause_s(self, error: CallFailed) -> float:
        """How long to wait before the next try.

        Raises *error* if there is to be none; if time has merely run out in the middle of a try,
        the error of the try before, which says why it took so long.
        """
        if error.retry_delay_s is None and not is_unreached(error):
            is_late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            raise self._last if is_late and self._last else error
        self._last = error
        doubled = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self._failed, _DOUBLINGS_MAX))
        self._failed += 1
        pause_s: float = max(doubled, error.retry_delay_s or 0.0) * random.uniform(1.0, 1.5)  # noqa: S311
        remaining_s = self.remaining_s()
        if remaining_s is not None and pause_s >= remaining_s:
            raise error
        return pause_s
