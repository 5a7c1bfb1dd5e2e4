"""The readers' copy of the register: immutable, shared by all calls, one reference away.

A view owns a table of page slots over an *arena*, the pages themselves. A batch of changes makes a
new view: the pages it touches are copied into free slots of the same arena, and all others are
shared, so publishing a change costs some tens of microseconds. Slots that no living view uses are
taken again. What a view answers never changes: a stream takes it once and keeps it.
"""

from __future__ import annotations

import enum
import weakref
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, Keys, Numbers
from ndoo.register import kernel, sets
from ndoo.register.digest import digest_of
from ndoo.register.register import Flips
from ndoo.revision import Revision

PAGES = (KEY_MAX >> kernel.PAGE_BITS) + 1
NOBODY_CLEARED = 0  # the slot with no permission at all; nothing refers to it but mistakes
ALL_CLEARED = 1  # the slot of every page in which nobody opted out
_FIRST_FREE = 2
_SPARE_SLOTS = 2048
_VIEWS_BEFORE_RECLAIM = 128


class Verdict(enum.IntEnum):
    """May the record of this number be disclosed? Only CLEARED is a yes. Values as in the proto."""

    CLEARED = 1
    OPTED_OUT = 2
    INVALID = 3


class Counted(Protocol):
    """Answers to many at once, of either kind."""

    @property
    def count(self) -> int: ...

    @property
    def cleared_count(self) -> int: ...

    @property
    def invalid_count(self) -> int: ...

    @property
    def opted_out_count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Answers:
    """What a view says of an array of numbers, in its order.

    *cleared* and *invalid* hold one bit a number, least significant first, in ceil(count / 8)
    bytes; *invalid* is empty when no number is invalid.
    """

    count: int
    cleared: bytes
    invalid: bytes
    cleared_count: int
    invalid_count: int

    @property
    def opted_out_count(self) -> int:
        return self.count - self.cleared_count - self.invalid_count


class View:
    """The register at one revision, for reading, from any thread."""

    __slots__ = (
        "__weakref__", "_arena", "_digest", "_pages", "epoch", "opt_outs", "revision", "token"
    )  # fmt: skip

    def __init__(
        self, arena: _Arena, pages: npt.NDArray[np.uint32], opt_outs: int, revision: Revision
    ) -> None:
        pages.flags.writeable = False
        self._arena = arena
        self._pages = pages
        self.opt_outs = opt_outs
        self.revision = revision
        self.token = revision.token
        self._digest: bytes | None = None
        self.epoch = arena.admit(self)

    @classmethod
    def of(cls, keys: Keys, revision: Revision) -> View:
        """A view in which exactly *keys* (ascending, nine digits) are opted out.

        Raises RuntimeError if the tables, counted back, do not hold them all.
        """
        used = np.unique(keys >> kernel.PAGE_BITS)
        arena = _Arena(len(used))
        pages = np.full(PAGES, ALL_CLEARED, dtype=np.uint32)
        pages[used] = arena.take(len(used))
        arena.write_all_cleared(pages[used])
        arena.mark(keys, True, pages)
        arena.prove_count(pages, len(keys))
        return cls(arena, pages, len(keys), revision)

    def with_flips(self, flips: Flips, revision: Revision) -> View:
        """The view after *flips*, sharing every page they do not touch. Called by one thread only.

        Raises RuntimeError unless this is the newest view: its pages would be taken back twice.
        """
        if not self._arena.is_newest(self):
            raise RuntimeError("only the newest view can be continued")
        opt_outs, touched = self._after(flips)
        if not self._arena.has_room(len(touched)):
            return self._moved(len(touched)).with_flips(flips, revision)
        pages = self._pages.copy()
        pages[touched] = self._arena.copy_from(self._arena, self._pages[touched])
        self._arena.mark(flips.opted_out, True, pages)
        self._arena.mark(flips.opted_in, False, pages)
        view = View(self._arena, pages, opt_outs, revision)
        # Last, so that a failure on the way leaves this view the newest and all its pages its own.
        self._arena.retire(self._pages[touched], last_epoch=self.epoch)
        return view

    def rewound(self, flips: Flips, revision: Revision) -> View:
        """The view at an earlier *revision*, which *flips* lead back to, from any thread.

        It is a copy in memory of its own: it shares nothing with the line of views that goes on,
        which neither waits for it nor keeps pages for it. Raises RuntimeError if its tables,
        counted back, do not hold every opt-out.
        """
        opt_outs, touched = self._after(flips)
        arena, pages = self._copied(also=touched)
        arena.mark(flips.opted_out, True, pages)
        arena.mark(flips.opted_in, False, pages)
        arena.prove_count(pages, opt_outs)
        return View(arena, pages, opt_outs, revision)

    def check(self, number: int | None) -> Verdict:
        """The verdict on one number as an integer; None stands for what was not ten digits."""
        if number is None or not nhs_number.is_valid(number):
            return Verdict.INVALID
        return Verdict.CLEARED if self._may_clear(number // 10) else Verdict.OPTED_OUT

    def check_many(self, numbers: Numbers) -> Answers:
        """The verdicts on an array of numbers. Runs without the GIL; about 5 ns a number."""
        cleared = kernel.empty_bits(len(numbers))
        invalid = kernel.empty_bits(len(numbers))
        arena = self._arena
        cleared_count, invalid_count = kernel.check(
            numbers, self._pages, arena.summary, arena.detail, cleared, invalid
        )
        size = (len(numbers) + 7) // 8
        return Answers(
            count=len(numbers),
            cleared=cleared.tobytes()[:size],
            invalid=invalid.tobytes()[:size] if invalid_count else b"",
            cleared_count=int(cleared_count),
            invalid_count=int(invalid_count),
        )

    def check_set(self, data: sets.Bytes) -> sets.SetAnswers:
        """The verdicts on a Roaring bitmap of keys. Runs without the GIL; below 1 ns a key.

        Raises sets.BadSet. See `sets.check_set` for what it may cost.
        """
        return sets.check_set(data, self._pages, self._arena.detail)

    def keys(self) -> Keys:
        """All opted-out keys, ascending, read from the very tables that answer checks.

        Takes some tens of milliseconds, without the GIL. Raises RuntimeError if the tables do not
        hold as many as they should.
        """
        keys = np.empty(self.opt_outs, dtype=np.uint32)
        if kernel.list_opted_out(self._pages, self._arena.detail, keys) != self.opt_outs:
            raise RuntimeError("the look-up tables do not hold every opt-out")
        return keys

    def digest(self) -> bytes:
        """The digest of `keys`, worked out once; see there for what it costs."""
        if self._digest is None:
            self._digest = digest_of(self.keys())
        return self._digest

    def _after(self, flips: Flips) -> tuple[int, npt.NDArray[np.uint32]]:
        """How many are opted out after *flips*, and which pages those touch."""
        opt_outs = self.opt_outs + len(flips.opted_out) - len(flips.opted_in)
        both = np.concatenate([flips.opted_out, flips.opted_in])
        return opt_outs, np.unique(both >> kernel.PAGE_BITS)

    def _may_clear(self, key: int) -> bool:
        slot = int(self._pages[key >> kernel.PAGE_BITS])
        byte = self._arena.detail[slot * kernel.DETAIL_BYTES + (key % kernel.PAGE_KEYS) // 8]
        return bool(byte >> (key % 8) & 1)

    def _moved(self, slots_to_come: int) -> View:
        """The same view in an arena of its own, with room for *slots_to_come* more pages.

        What to do when old views hold too many slots, or a batch touches more pages than are free.
        """
        arena, pages = self._copied(slots_to_come)
        return View(arena, pages, self.opt_outs, self.revision)

    def _copied(
        self, slots_to_come: int = 0, also: npt.NDArray[np.uint32] | None = None
    ) -> tuple[_Arena, npt.NDArray[np.uint32]]:
        """The pages in use, and *also* these, copied to an arena with room for *slots_to_come*."""
        is_used = self._pages != ALL_CLEARED
        if also is not None:
            is_used[also] = True
        used = np.flatnonzero(is_used)
        arena = _Arena(len(used) + slots_to_come)
        pages = np.full(PAGES, ALL_CLEARED, dtype=np.uint32)
        pages[used] = arena.copy_from(self._arena, self._pages[used])
        return arena, pages


class _Arena:
    """The pages of one line of views. Only the thread that publishes calls it; readers read its
    arrays.

    Memory is reserved for the pages in use, half as many again and some, but costs nothing until a
    page is written.
    """

    def __init__(self, pages_used: int) -> None:
        slots = _FIRST_FREE + pages_used + pages_used // 2 + _SPARE_SLOTS
        self.detail = np.zeros(slots * kernel.DETAIL_BYTES, dtype=np.uint8)
        self.summary = np.zeros(slots * kernel.SUMMARY_BYTES, dtype=np.uint8)
        self._detail = self.detail.reshape(slots, kernel.DETAIL_BYTES)
        self._summary = self.summary.reshape(slots, kernel.SUMMARY_BYTES)
        self._free: list[int] = list(range(slots - 1, _FIRST_FREE - 1, -1))
        self._views: list[weakref.ref[View]] = []
        self._epoch = 0
        # A retired slot is of the views from the epoch it was taken in to the last that used it.
        self._taken_in = np.zeros(slots, dtype=np.int64)
        self._last_used_in = np.zeros(slots, dtype=np.int64)
        self._retired: list[int] = []
        self.write_all_cleared(np.array([ALL_CLEARED]))

    def admit(self, view: View) -> int:
        """Take note of a living view; its epoch is its place in the line."""
        self._epoch += 1
        self._views.append(weakref.ref(view))
        return self._epoch

    def is_newest(self, view: View) -> bool:
        return view.epoch == self._epoch

    def has_room(self, slots: int) -> bool:
        """Whether *slots* more pages fit, once those that no living view uses are taken back."""
        if len(self._free) < slots or len(self._views) > _VIEWS_BEFORE_RECLAIM:
            self._reclaim()
        return len(self._free) >= slots

    def take(self, slots: int) -> npt.NDArray[np.uint32]:
        taken = np.array([self._free.pop() for _ in range(slots)], dtype=np.uint32)
        self._taken_in[taken] = self._epoch + 1  # the epoch of the view they are taken for
        return taken

    def retire(self, slots: npt.NDArray[np.uint32], last_epoch: int) -> None:
        """Have *slots* taken back once every view that uses them, up to *last_epoch*, is gone."""
        slots = slots[slots != ALL_CLEARED]
        self._last_used_in[slots] = last_epoch
        self._retired.extend(slots.tolist())

    def copy_from(self, other: _Arena, slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Copies, in free slots of this arena, of *slots* of *other* (which may be this one)."""
        copies = self.take(len(slots))
        self._detail[copies] = other._detail[slots]
        self._summary[copies] = other._summary[slots]
        return copies

    def write_all_cleared(self, slots: npt.NDArray[np.uint32]) -> None:
        self._detail[slots] = 255
        self._summary[slots] = 255

    def mark(self, keys: Keys, opted_out: bool, pages: npt.NDArray[np.uint32]) -> None:
        kernel.mark(keys, opted_out, pages, self.summary, self.detail)

    def prove_count(self, pages: npt.NDArray[np.uint32], opt_outs: int) -> None:
        """Raise RuntimeError unless *opt_outs* are opted out, counted from the tables."""
        if kernel.count_opted_out(pages, self.detail) != opt_outs:
            raise RuntimeError("the look-up tables do not hold every opt-out")

    def _reclaim(self) -> None:
        """Take back the retired slots that no living view uses, whatever older views are held."""
        # Each view is looked at once and held: readers drop views at any moment, and the second of
        # two looks could find none where there are others behind it.
        living = [view for reference in self._views if (view := reference()) is not None]
        self._views = [weakref.ref(view) for view in living]
        epochs = np.array([view.epoch for view in living], dtype=np.int64)  # ascending
        retired = np.array(self._retired, dtype=np.int64)
        users = np.searchsorted(epochs, self._last_used_in[retired], side="right")
        users -= np.searchsorted(epochs, self._taken_in[retired], side="left")
        self._free.extend(retired[users == 0].tolist())
        self._retired = retired[users > 0].tolist()
