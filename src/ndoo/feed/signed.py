"""A feed whose snapshots must be signed: an older one that is put back is refused, too.

Its signature is as good as it ever was. So what was seen of the newest is remembered, across
restarts where there is a state directory, and compared: within a generation by sequence number,
between two by when they began, which a snapshot that builds on an older one cannot move.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from ndoo.errors import SnapshotRefused
from ndoo.feed.feed import Batch, Feed
from ndoo.feed.state import Newest, StateRefused
from ndoo.register.changes import Change
from ndoo.register.replica import CLOCK_BACK_S_MAX
from ndoo.register.snapshot import Snapshot, unix_s
from ndoo.revision import Revision

_LOGGER = logging.getLogger(__name__)  # handled like all events, see ops.logs


class Memory(Protocol):
    """What outlives the process. Both raise StateRefused."""

    def read_newest(self) -> Newest | None: ...
    def write_newest(self, newest: Newest) -> None: ...


class SignedFeed:
    """*feed*, which verifies signatures, without the snapshots that are older than one it had.

    *memory* is there if there is a state directory; *refused* counts its failures by reason.
    *clock* gives Unix seconds. See `ndoo.feed.feed.Feed`.
    """

    def __init__(
        self,
        feed: Feed,
        memory: Memory | None,
        *,
        clock: Callable[[], float],
        refused: Callable[[str], None],
    ) -> None:
        self._feed = feed
        self._memory = memory
        self._clock = clock
        self._refused = refused
        self._newest: Newest | None = None

    @property
    def name(self) -> str:
        return self._feed.name

    def load(self) -> Snapshot:
        """Raises SnapshotRefused for one that is older than one that was seen, too."""
        snapshot = self._feed.load()
        found = self._newest_of(snapshot)
        known = self._newest or self._recall()
        if known is not None and found.is_older_than(known):
            raise SnapshotRefused(
                "The snapshot is signed, but older than one that was here before: somebody put it "
                "back; write a new one with 'ndoo load --sign'.",
                reason="SNAPSHOT_REPLAYED",
            )
        if found != known:
            self._remember(found)
        self._newest = found
        return snapshot

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        return self._feed.read(revision, position, wait_s)

    def retained(self, generation: str | None) -> Iterator[Change | None]:
        return self._feed.retained(generation)

    def close(self) -> None:
        self._feed.close()

    def _newest_of(self, snapshot: Snapshot) -> Newest:
        """Raises SnapshotRefused if it does not say when its generation began, or says nonsense."""
        revision = snapshot.revision
        began_at = unix_s(snapshot.began_at or ("" if revision.seq else snapshot.created_at))
        if began_at is None or began_at > self._clock() + CLOCK_BACK_S_MAX:
            raise SnapshotRefused(
                "The snapshot does not say when its generation began, or names a moment to come; "
                "set the clocks right and write a new one with 'ndoo load --sign'.",
                reason="SNAPSHOT_HEADER",
            )
        return Newest(revision, began_at)

    def _recall(self) -> Newest | None:
        try:
            return self._memory.read_newest() if self._memory is not None else None
        except StateRefused as failure:
            self._tell(failure)
            return None

    def _remember(self, newest: Newest) -> None:
        try:
            if self._memory is not None:
                self._memory.write_newest(newest)
        except StateRefused as failure:  # this process remembers it nevertheless
            self._tell(failure)

    def _tell(self, failure: StateRefused) -> None:
        self._refused(failure.reason)
        fields = {"reason": failure.reason, "why": str(failure)}
        _LOGGER.warning("state_refused", extra={"fields": fields})
