"""The protocol of the writing side: load a register, append changes, take snapshots.

Whoever writes holds these promises, over Redis and over a directory alike:

- a change gets its sequence number and its place in the history in one atomic step, with any number
  of writers at once;
- once `append` has returned, the change survives the death of any process;
- a reader never sees a moment without a register.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyroaring import BitMap

from ndoo.register.changes import Change
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision


class Publisher(Protocol):
    """Writes to one feed."""

    @property
    def name(self) -> str:
        """The feed for people and logs: its URL without a password."""

    def append(self, changes: Sequence[Change]) -> Revision:
        """Append *changes* (unnumbered) and return the revision after the last.

        Raises FeedEmpty if nothing was ever loaded, FeedUnavailable.
        """

    def load(self, keys: BitMap, *, accept_shrink: bool = False) -> Revision:
        """Start a new generation that holds *keys*; readers move over to it whole.

        What changes said that no source of keys tells stays in force: a suspension until `resume`,
        and which numbers are one person's, so that all of these are opted out if one is.

        Raises SnapshotRefused if *keys* is empty, or, unless *accept_shrink*, far smaller than the
        register in place; FeedUnavailable.
        """

    def snapshot(self) -> Snapshot:
        """Fold all changes so far into a new snapshot, and trim what the previous one already held.

        Raises FeedEmpty, FeedUnavailable, ChangeRefused, HistoryChanged.
        """

    def close(self) -> None:
        """Let go of everything. May be called twice."""
