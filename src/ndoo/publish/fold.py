"""The register as a feed holds it now: its snapshot and all changes since."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass, replace

from pyroaring import BitMap

from ndoo.errors import ChangeRefused, FeedEmpty, SequenceBroken, SnapshotRefused
from ndoo.feed.feed import Feed, HistoryChanged
from ndoo.register.register import Register
from ndoo.register.snapshot import Snapshot, refuse_shrunken
from ndoo.revision import Revision

SHRINK_MAX = 0.02
_ROUNDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Folded:
    """*register*, reached at *position*, came of *before*."""

    before: Snapshot
    register: Register
    position: str

    def snapshot(self) -> Snapshot:
        """The register as a new snapshot. What was accepted for its generation stays accepted: a
        reader may not have seen the snapshot that came before.
        """
        snapshot = self.register.snapshot(self.position, now())
        return replace(snapshot, shrink_accepted=self.before.shrink_accepted)


def fold(feed: Feed) -> Folded:
    """All that *feed* holds. Raises what its `load` and `read` raise, and SequenceBroken.

    Begins again, a few times, when another writer replaces and trims what is being read.
    """
    for _ in range(_ROUNDS_MAX - 1):
        try:
            return _fold(feed)
        except (HistoryChanged, SequenceBroken):
            continue
    return _fold(feed)


def _fold(feed: Feed) -> Folded:
    before = feed.load()
    register = Register(before)
    return Folded(before, register, _apply_all(feed, register, before.position))


def _apply_all(feed: Feed, register: Register, position: str) -> str:
    """Apply to *register* all that comes after *position*, and return the position after it."""
    complete = False
    while not complete:
        batch = feed.read(register.revision, position, 0.0)
        register.apply(batch.changes)
        position, complete = batch.position, batch.complete
    return position


def first_snapshot(
    feed: Feed, keys: BitMap, revision: Revision, position: str, *, accept_shrink: bool
) -> Snapshot:
    """The snapshot that begins the generation of *revision*.

    It holds *keys*, and what no source of them tells but *feed* knows: that answers are suspended,
    and which numbers are one person's; all of these are opted out if one is.

    Raises SnapshotRefused if *keys* is empty, or, unless *accept_shrink*, far smaller than the
    register that *feed* holds.
    """
    if not keys:
        raise SnapshotRefused(
            "There is no opt-out to load, and an empty register would clear everybody; check the "
            "source.",
            reason="SNAPSHOT_EMPTY",
        )
    register = _in_place(feed)
    if register is None:
        return Snapshot(revision, position, now(), keys, shrink_accepted=accept_shrink)
    in_place = register.snapshot(position, now())
    out = [group for group in in_place.links if any(key in keys for key in group)]
    snapshot = replace(
        in_place,
        revision=revision,
        keys=keys | BitMap([key for group in out for key in group]),
        shrink_accepted=accept_shrink,
    )
    refuse_shrunken(snapshot, len(register), SHRINK_MAX)
    return snapshot


def _in_place(feed: Feed) -> Register | None:
    """The register that *feed* holds, as far as it can be read: a load mends what is broken."""
    try:
        return fold(feed).register
    except (FeedEmpty, SnapshotRefused):
        return None
    except (ChangeRefused, HistoryChanged, SequenceBroken):
        snapshot = feed.load()
        register = Register(snapshot)
        with contextlib.suppress(ChangeRefused, HistoryChanged, SequenceBroken):
            _apply_all(feed, register, snapshot.position)
        return register


def now() -> str:
    """The present moment, RFC 3339, UTC."""
    moment = dt.datetime.now(dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
