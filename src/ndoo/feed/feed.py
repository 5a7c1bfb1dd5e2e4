"""The protocol of a feed: load a snapshot, read the changes after a position.

A feed brings bytes and positions; it proves what it can prove about its own storage (checksums,
that the history was not rewritten), and leaves the sequence to the register and all retrying to the
follower. The contract suite in `tests/contract` holds every implementation to these words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from ndoo.errors import FeedEmpty, NdooError
from ndoo.register.changes import Change, Kind
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision

CHANGES_PER_READ_MAX = 10_000

UNREADABLE = Change(Kind.SUSPEND)
"""Stands for a change that is there and cannot be read. It has no number, so none that was read is
equal to it.
"""


class HistoryChanged(NdooError):
    """The feed is no longer the history that was being read; the snapshot has to be loaded again.

    *reason* is one of OTHER_GENERATION, BACKWARDS, REWRITTEN, TRIMMED.
    """

    reason = "REWRITTEN"


def nothing_loaded(name: str) -> FeedEmpty:
    """What to raise where the feed *name* was never loaded."""
    return FeedEmpty(f"{name} holds no register; load one with 'ndoo load'.")


def other_history() -> HistoryChanged:
    """What to raise where another generation is found than the one that was being read."""
    return HistoryChanged("The feed has started another history.", reason="OTHER_GENERATION")


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes read after a position, in the order of the feed.

    *position* is where the next read goes on. *complete* says that, at the moment of reading, the
    feed confirmed that it holds nothing after these changes; *behind* is how many more it was seen
    to hold, and *snapshot_at* when its newest snapshot says that it was made (Unix seconds, not
    verified; None if that cannot be told). These two are for those who watch, and decide nothing.

    *own* is the change in front of these as it stands now: UNREADABLE if it is of a form that only
    later versions read, None if it is not there, or none. See `after`.
    """

    changes: tuple[Change, ...]
    position: str
    complete: bool
    behind: int = 0
    snapshot_at: float | None = field(default=None, compare=False)
    own: Change | None = field(default=None, compare=False, repr=False)

    def after(self, last: Change | None) -> Batch:
        """This batch, for who knows that *last* was in front of it, None if that is unknown.

        Raises HistoryChanged if another change is there now: a fail-over that loses changes can
        give their numbers and their very places to others. When they were recorded is not compared:
        that belongs to the place, and not everybody tells it.
        """
        own = self.own
        if last and own and replace(own, recorded_ms=last.recorded_ms) != last:
            raise HistoryChanged("The change read last is another now.", reason="REWRITTEN")
        return self


class Feed(Protocol):
    """Where the register comes from. Used by one thread, except for `close`."""

    @property
    def name(self) -> str:
        """The feed for people and logs: its URL without a password."""

    def load(self) -> Snapshot:
        """The newest snapshot, verified.

        Raises FeedEmpty, FeedUnavailable or SnapshotRefused.
        """

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        """Up to CHANGES_PER_READ_MAX changes after *position*, where *revision* was reached.

        Waits up to *wait_s* seconds, or less, for a first change; returns an empty batch if none
        comes. Changes in front of one that cannot be read are returned first; ChangeRefused is
        raised only when that one is next. Raises HistoryChanged or FeedUnavailable.
        """

    def retained(self, generation: str | None) -> Iterator[Change | None]:
        """The changes of *generation* that the feed still holds, oldest first, also those that its
        snapshot includes. None of a feed whose snapshot cannot be read: whichever there are.

        None stands for one that cannot be read. What is appended or trimmed meanwhile may be
        missing. Raises HistoryChanged if the feed is, or becomes, of another generation, or
        FeedUnavailable.
        """

    def close(self) -> None:
        """Let go of everything; a waiting `read` ends soon with FeedUnavailable. May be called
        twice, and from another thread.
        """
