"""The flips of the last while, so that the register can be answered at any revision within it.

Replicas cut the feed into batches at different places, so a revision that one of them published may
lie in the middle of another's batch. Each keeps the single flips, numbered by the change that made
them; the register at an earlier revision is the newest view with the flips after it undone.

A history is of one continuous line of changes: it begins with a snapshot, and a follower that sets
out anew begins a new one. It travels with the state whose view it leads to, so the two always
belong together. The follower's thread writes; any thread reads.

It also knows when each revision was the newest, in *marks*: "at this moment nothing after this
revision had been recorded". They bound what is kept by age, and say as of when an earlier revision
is answered.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ndoo.errors import RevisionGone
from ndoo.register.changes import Change
from ndoo.register.register import Applied, Flips
from ndoo.register.view import View
from ndoo.revision import Revision

FLIPS_MAX = 4_194_304
"""Flips kept, 12 bytes each; over it the oldest go early. 1,000 changes a second fill an hour."""

CHUNK_FLIPS = 65_536

GRAIN_S = 1.0
"""How close two marks may stand: the moment told of a revision is that much too early at most."""

FEED_CLOCK_S_OFF_MAX = 60.0
"""How far a writer's clock may be ahead of this replica's, and a mark made by it still be true."""

Steps = npt.NDArray[np.uint32]


def inverse_of(steps: Steps) -> Flips:
    """What undoes *steps* (as in `Applied`, in order): the flips from after them to before them."""
    keys, first, counts = np.unique(steps >> 1, return_index=True, return_counts=True)
    odd = counts % 2 == 1  # the steps of a key alternate: an even number of them changes nothing
    was_out = steps[first] & 1 == 0
    return Flips(opted_out=keys[odd & was_out], opted_in=keys[odd & ~was_out])


@dataclass(slots=True)
class _Mark:
    """From *first* to *last* (Unix seconds) nothing after change *seq* had been recorded."""

    seq: int
    first: float
    last: float


class _Chunk:
    """Room for some flips. What stands below *count* never changes."""

    __slots__ = ("count", "seqs", "steps")

    def __init__(self) -> None:
        self.count = 0
        self.seqs = np.empty(CHUNK_FLIPS, dtype=np.int64)
        self.steps = np.empty(CHUNK_FLIPS, dtype=np.uint32)

    @property
    def last_seq(self) -> int:
        return int(self.seqs[self.count - 1])

    def fill(self, seqs: npt.NDArray[np.int64], steps: Steps) -> int:
        """Take as many flips as there is room for, and say how many."""
        taken = min(CHUNK_FLIPS - self.count, len(seqs))
        self.seqs[self.count : self.count + taken] = seqs[:taken]
        self.steps[self.count : self.count + taken] = steps[:taken]
        self.count += taken
        return taken


class History:
    """The flips after *revision*, for *seconds*, or as many as *flips_max*. 0 keeps nothing."""

    def __init__(self, revision: Revision, seconds: float, flips_max: int = FLIPS_MAX) -> None:
        self._generation = revision.generation
        self._seconds = seconds
        self._chunks_max = max(1, flips_max // CHUNK_FLIPS)
        self._since = revision.seq
        self._recorded = revision.seq
        self._chunks: list[_Chunk] = []
        self._marks: list[_Mark] = []  # ascending in seq and in time
        self._confirmed = False
        self._lock = threading.Lock()  # held for microseconds

    def record(self, changes: Sequence[Change], applied: Applied) -> None:
        """Take in what *changes*, the next in line, flipped."""
        if changes and changes[0].seq != self._recorded + 1:
            raise RuntimeError("a history goes on with the next change")
        with self._lock:
            self._recorded += len(changes)
            if not self._seconds:
                return
            if not self._confirmed:
                self._mark_as_recorded(changes)
            taken = 0
            while taken < len(applied.seqs):
                if not self._chunks or self._chunks[-1].count == CHUNK_FLIPS:
                    self._chunks.append(_Chunk())
                taken += self._chunks[-1].fill(applied.seqs[taken:], applied.steps[taken:])
            while len(self._chunks) > self._chunks_max:
                self._since = max(self._since, self._chunks.pop(0).last_seq)

    def confirm(self, seq: int, moment: float) -> None:
        """Note that nothing after change *seq* had been recorded at *moment* (Unix seconds), and
        forget what is too old by then.
        """
        if not self._seconds:
            return
        with self._lock:
            self._confirmed = True
            self._mark(seq, moment)
            self._forget(moment - self._seconds)

    def as_of(self, seq: int) -> float:
        """A moment (Unix seconds) at which revision *seq* held every change.

        It is never later than the last such moment. Raises RevisionGone if none is known, or the
        revision lies before what is kept.
        """
        with self._lock:
            place = bisect_right(self._marks, seq, key=lambda mark: mark.seq)
            if seq < self._since or not place:
                raise gone()
            return self._marks[place - 1].last

    def view_at(self, seq: int, newest: View) -> View:
        """The register at revision *seq*, made from the *newest* view of this history.

        Takes some tens of milliseconds and the memory of a whole register. Raises RevisionGone.
        """
        revision = Revision(self._generation, seq)
        known = seq <= newest.revision.seq <= self._recorded
        if newest.revision.generation != self._generation or not known:
            raise RuntimeError("a view is made from a later one of the same history")
        return newest.rewound(inverse_of(self._steps(seq, newest.revision.seq)), revision)

    def _steps(self, after: int, up_to: int) -> Steps:
        """The steps of the changes behind *after*, up to *up_to*, in order."""
        with self._lock:
            if after < self._since:
                raise gone()
            held = [
                (chunk.seqs[: chunk.count], chunk.steps[: chunk.count])
                for chunk in self._chunks
                if chunk.last_seq > after
            ]
        parts = [np.empty(0, dtype=np.uint32)]
        for seqs, steps in held:
            start, end = np.searchsorted(seqs, [after, up_to], side="right")
            parts.append(steps[start:end])
        return np.concatenate(parts)

    def _mark_as_recorded(self, changes: Sequence[Change]) -> None:
        """Marks from the moments at which the feed recorded *changes*: what this replica did not
        see itself. Just before a change came, the one before it was the newest.
        """
        latest = self._marks[-1].last if self._marks else 0.0
        for change in changes:
            moment = change.recorded_ms / 1000 - FEED_CLOCK_S_OFF_MAX
            if moment > 0 and not latest <= moment < latest + GRAIN_S:
                self._mark(change.seq - 1, moment)
                latest = moment
        # Marks stand apart: more of them reach back further than is kept, whatever the time is.
        surplus = len(self._marks) - 1 - math.ceil(self._seconds / GRAIN_S)
        if surplus > 0:
            self._let_go(surplus)

    def _mark(self, seq: int, moment: float) -> None:
        marks = self._marks
        # A clock was ahead when those were made, or is behind now: they may claim too much.
        while marks and marks[-1].last > moment:
            marks.pop()
        if marks and marks[-1].seq == seq:
            marks[-1].last = moment
            return
        if len(marks) > 1 and moment - marks[-2].last < GRAIN_S:
            marks.pop()
        marks.append(_Mark(seq, moment, moment))

    def _forget(self, moment: float) -> None:
        """Let go of the revisions that were no longer the newest at *moment*."""
        old = bisect_right(self._marks, moment, key=lambda mark: mark.first) - 1
        if old >= 0:
            self._let_go(old)

    def _let_go(self, marks: int) -> None:
        """Forget the oldest *marks*, and the revisions before the next one."""
        self._since = max(self._since, self._marks[marks].seq)
        del self._marks[:marks]
        while self._chunks and self._chunks[0].last_seq <= self._since:
            self._chunks.pop(0)


def gone() -> RevisionGone:
    return RevisionGone(
        "The register at that revision is not held any more; start over at the current one."
    )
