"""The clocks of the replicas' machines, which may go wrong, and what they showed when."""

from __future__ import annotations

from simulator.schedule import EPOCH_S, Schedule


class Clock:
    """Shows Unix seconds, *offset* beside the truth, and remembers when it showed which."""

    def __init__(self, schedule: Schedule, offset: float) -> None:
        self.schedule = schedule
        self._offset = offset
        self._shown_at: dict[float, float] = {}
        self._set_back: list[tuple[float, float]] = []  # when, by how many seconds

    def __call__(self) -> float:
        shown = EPOCH_S + self.schedule.now + self._offset
        self._shown_at[shown] = self.schedule.now
        return shown

    def jump(self, seconds: float) -> None:
        self._offset += seconds
        if seconds < 0:
            self._set_back.append((self.schedule.now, -seconds))

    def set_back_since(self, moment: float, seconds_max: float) -> float:
        """By how many seconds in all this clock was set back since *moment*, where of each time no
        more than *seconds_max* count.
        """
        return sum(min(seconds, seconds_max) for when, seconds in self._set_back if when >= moment)

    def real(self, shown: float) -> float:
        """The moment at which this clock showed *shown*. Raises KeyError: it never did."""
        return self._shown_at[shown]

    def real_or_recorded(self, shown: float) -> float:
        """As `real`, for what the clock of storage may tell instead, which is right or slow."""
        return self._shown_at.get(shown, shown - EPOCH_S)
