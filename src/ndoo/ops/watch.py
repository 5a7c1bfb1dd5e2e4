"""Looks for two signs of loss that no sequence number shows: silence, and a register that jumps.

Both warn and stop no answers. They are guesses about the world, not facts about the feed: a quiet
week is no fault, and a real campaign moves the register too. An answer held back on a guess would
hold back all of them, and what the feed itself says to be whole is whole; somebody has to look.
"""

from __future__ import annotations

import enum
import math
from collections import deque

_STEP_S = 60.0
_STEPS = 60
"""A jump is what happens within so many steps: an hour."""


class Sign(enum.Enum):
    """What somebody should look at. Values are the labels of the metric."""

    FEED_SILENT = "FEED_SILENT"  # no change for longer than the source is ever quiet
    JUMP = "JUMP"  # the number of opt-outs moved by more than a share within an hour


class Watch:
    """Watches one replica. Times are Unix seconds; a limit of 0 turns its warning off.

    `on_news` and `look` are for one thread, all else may be read from any. *last_news* is when the
    feed recorded the newest change that was seen, 0 before the first that was dated.
    """

    def __init__(self, silence_s_max: float = 86_400.0, jump_max: float = 0.02) -> None:
        self._silence_s_max = silence_s_max
        self._jump_max = jump_max
        self._quiet_since = math.nan
        self._jumped = False
        self._opt_outs: int | None = None
        self._next_step = math.nan
        # The number at each step of the last hour; it holds from its step to the next.
        self._steps: deque[int] = deque(maxlen=_STEPS)
        self.last_news = 0.0

    def on_news(self, recorded_at: float, now: float) -> None:
        """Changes came, of which the feed recorded the last at *recorded_at*, 0 if unknown."""
        self.last_news = max(self.last_news, recorded_at)
        # A writer whose clock is ahead does not make the silence after it shorter.
        self._quiet_since = min(recorded_at or now, now)

    def look(self, opt_outs: int, now: float) -> None:
        """There are so many *opt_outs* now. To be called often, also when nothing changed."""
        if self._opt_outs is None:
            self._opt_outs = opt_outs
        if math.isnan(self._quiet_since):
            self._quiet_since = now  # before that there was nobody to hear
        if not self._next_step - now <= _STEP_S:  # the first time, or the clock was set back
            self._next_step = now
        if now >= self._next_step:
            steps = math.floor((now - self._next_step) / _STEP_S) + 1
            self._steps.extend([self._opt_outs] * min(steps, _STEPS))
            self._next_step += steps * _STEP_S
        self._opt_outs = opt_outs
        self._jumped = any(self._is_jump(then, opt_outs) for then in set(self._steps))

    def warnings(self, now: float) -> frozenset[Sign]:
        """What is to be warned of at *now*."""
        found = set()
        if self._silence_s_max > 0 and now - self._quiet_since > self._silence_s_max:
            found.add(Sign.FEED_SILENT)
        if self._jumped:
            found.add(Sign.JUMP)
        return frozenset(found)

    def _is_jump(self, then: int, now: int) -> bool:
        return self._jump_max > 0 and abs(now - then) > self._jump_max * then
