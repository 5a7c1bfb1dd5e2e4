"""What a client asked lately, in a few figures: shares, and how often the same.

Little is kept for it: counts, of which the old fade, and some hundred values that stand for keys,
which nobody outside this process can read as such.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np

from ndoo.nhs_number import Keys
from ndoo.register.view import Counted

HALF_LIFE_S = 6 * 3600.0
"""What was asked so long ago counts half."""

NUMBERS_MAX = 1_000_000
"""The last so many numbers outweigh all before them, however many they were."""

TOGETHER = 256
"""Numbers asked one by one are looked at so many at a time."""

NEAR = 2
"""How far the next of two near keys is away. Of all valid keys in order, hardly any is farther."""

WEIGHT_MAX = 16.0
"""A step in the sample of a long message stands for up to so many."""


class Share:
    """The share that a part has in a whole, over the last hours, or the last NUMBERS_MAX of it."""

    __slots__ = ("_at", "part", "whole")

    def __init__(self) -> None:
        self._at = 0.0
        self.part = self.whole = 0.0

    def add(self, part: float, whole: float, now: float) -> None:
        keep = 0.5 ** (max(0.0, now - self._at) / HALF_LIFE_S)
        keep = min(keep, max(0.0, NUMBERS_MAX - whole) / (self.whole or 1.0))
        self._at = now
        self.part = self.part * keep + part
        self.whole = self.whole * keep + whole

    def of(self, enough: float, otherwise: float) -> float:
        """The share, or *otherwise* while the whole is less than *enough*."""
        return self.part / self.whole if self.whole >= enough else otherwise


class Askings:
    """How often a key was asked about, of those asked in the last hours.

    Keys go through a function that this process drew at random and nobody is told. Of the values,
    those below a bound are counted, and the bound sinks so that they stay few: so it is always a
    fair sample of all keys, and no larger. It begins anew after HALF_LIFE_S.
    """

    KEPT_MAX = 256

    def __init__(self) -> None:
        self._factor = np.uint64(secrets.randbits(64) | 1)
        self._times: dict[int, int] = {}
        self._bound = np.uint64(2**64 - 1)
        self._begun_at = 0.0
        self.asked = 0
        self.median = 0
        """Of the numbers of times. One number that all systems use for none, or a check that is
        asked for its own sake, moves it little.
        """

    def add(self, keys: Keys, now: float) -> None:
        if now - self._begun_at > HALF_LIFE_S:
            self._times = {}
            self._bound = np.uint64(2**64 - 1)
            self._begun_at = now
            self.asked = self.median = 0
        self.asked += len(keys)
        values = keys.astype(np.uint64) * self._factor
        for value in values[values < self._bound].tolist():
            self._times[value] = self._times.get(value, 0) + 1
        if len(self._times) > self.KEPT_MAX:
            smallest = sorted(self._times)[: self.KEPT_MAX // 2 + 1]
            self._bound = np.uint64(smallest.pop())
            self._times = {value: self._times[value] for value in smallest}
        if self._times:
            self.median = sorted(self._times.values())[len(self._times) // 2]


class Asked:
    """What one client asked."""

    def __init__(self) -> None:
        self.invalid = Share()
        self.opted_out = Share()
        self.near = Share()
        self.askings = Askings()
        self._new = [0, 0, 0]  # numbers, invalid ones, opted out ones
        self._samples: list[Keys] = []

    def add(self, answers: Counted, sample: Callable[[], Keys]) -> bool:
        """Whether there is enough for a `look`."""
        new = self._new
        new[0] += answers.count
        new[1] += answers.invalid_count
        new[2] += answers.opted_out_count
        if answers.count:  # or who asks about nobody, for ever, would fill the memory
            self._samples.append(sample())
        return new[0] >= TOGETHER

    def look(self, now: float) -> None:
        """Count in what was added."""
        count, invalid, opted_out = self._new
        keys = np.concatenate(self._samples)
        self._new = [0, 0, 0]
        self._samples = []
        self.invalid.add(invalid, count, now)
        self.opted_out.add(opted_out, count - invalid, now)
        self.askings.add(keys, now)
        keys.sort()  # several who count at once, each in their place, are seen as well
        steps = np.diff(keys)
        near = int(np.count_nonzero(steps - np.uint32(1) < NEAR))  # and not 0, which wraps around
        weight = min(WEIGHT_MAX, count / max(1, len(keys)))
        self.near.add(near * weight, int(np.count_nonzero(steps)) * weight, now)
