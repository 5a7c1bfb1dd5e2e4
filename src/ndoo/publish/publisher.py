"""The protocol of the writing side: load a register, append changes, take snapshots.

Whoever writes holds these promises, over Redis and over a directory alike:

- a change gets its sequence number and its place in the history in one atomic step, with any number
  of writers at once;
- once `append` has returned, the change survives the death of any process;
- a request that is sent again under the same id is recorded once;
- a reader never sees a moment without a register.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyroaring import BitMap

from ndoo.errors import FeedUnavailable, NdooError
from ndoo.publish.source import PLAIN, Terms
from ndoo.register.changes import Change
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision

CHANGES_PER_STEP_MAX = 2000
"""More are appended in several atomic steps, so that others wait some milliseconds at most."""


class HeadMoved(NdooError):
    """Somebody else recorded a change, or loaded a register, first. Nothing was recorded."""

    reason = "HEAD_MOVED"


class Unconfirmed(FeedUnavailable):
    """It is unknown how many of the changes were recorded: all, none, or the first of them. The
    same request, sent again under the same id, records the others.
    """

    reason = "UNCONFIRMED"


class Publisher(Protocol):
    """Writes to one feed."""

    @property
    def name(self) -> str:
        """The feed for people and logs: its URL without a password."""

    def append(
        self, changes: Sequence[Change], *, request_id: str = "", after: Revision | None = None
    ) -> Revision:
        """Append *changes* (unnumbered) and return the revision after the last.

        A *request_id* that the feed remembers (see `ndoo.publish.request`) is recorded only as far
        as it was not before, and the revision that it reached first is returned. With *after* the
        changes are appended only if nothing came after that revision; there may be
        CHANGES_PER_STEP_MAX of them then, or ValueError is raised.

        Raises FeedEmpty if nothing was ever loaded; HeadMoved; RequestRefused; FeedUnavailable,
        and Unconfirmed of that kind once something was sent.
        """

    def load(self, keys: BitMap, terms: Terms = PLAIN) -> Revision:
        """Start a new generation from a source of *keys*; readers move over to it whole. What is
        recorded meanwhile comes along, after the revision that is returned.

        What the feed knows and no source tells stays in force: choices that people made since the
        source was drawn (see `ndoo.publish.source`), a suspension until `resume`, and which numbers
        are one person's, so that all of these are opted out if one is.

        Raises SnapshotRefused if *keys* is empty, or *terms* does not accept what would come of it;
        FeedUnavailable.
        """

    def snapshot(self) -> Snapshot:
        """Fold all changes so far into a new snapshot, and trim what the previous one already held.

        Raises FeedEmpty, FeedUnavailable, ChangeRefused, HistoryChanged.
        """

    def close(self) -> None:
        """Let go of everything. May be called twice."""


def refuse_long_step(changes: Sequence[Change], after: Revision | None) -> None:
    """Raise ValueError for more changes than one step takes, where they must come in one."""
    if after is not None and len(changes) > CHANGES_PER_STEP_MAX:
        raise ValueError(f"with 'after' no more than {CHANGES_PER_STEP_MAX} changes are appended")
