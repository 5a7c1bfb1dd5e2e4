"""The register as a feed holds it now: its snapshot and all changes since."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pyroaring import BitMap

from ndoo.errors import ChangeRefused, FeedEmpty, SequenceBroken, SnapshotRefused
from ndoo.feed.feed import Batch, Feed, HistoryChanged
from ndoo.publish.source import JUMP_MAX, InPlace, Settled, Terms, settle
from ndoo.register.changes import Change
from ndoo.register.register import Register
from ndoo.register.snapshot import Snapshot, unix_s
from ndoo.revision import Revision

_ROUNDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Folded:
    """*register*, reached at *position*, came of *before*.

    *whole* says that the feed held nothing else; otherwise what came next could not be read.
    """

    before: Snapshot
    register: Register
    position: str
    whole: bool = True

    def snapshot(self) -> Snapshot:
        """The register as a new snapshot. What was accepted for its generation stays accepted: a
        reader may not have seen the snapshot that came before.
        """
        before = self.before
        began_at = before.began_at or (before.created_at if before.revision.seq == 0 else "")
        return replace(
            self.register.snapshot(self.position, now()),
            shrink_accepted=before.shrink_accepted,
            began_at=began_at,
        )


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


def fold_readable(feed: Feed, known: Folded | None = None) -> Folded | None:
    """What *feed* holds, as far as it can be read, and None if that is nothing: a load mends what
    is broken. Goes on from what is *known* of it, as long as that is the same history.

    Raises FeedUnavailable.
    """
    if known is not None and known.whole:
        with contextlib.suppress(ChangeRefused, HistoryChanged, SequenceBroken):
            return replace(known, position=_apply_all(feed, known.register, known.position))
    try:
        return fold(feed)
    except (FeedEmpty, SnapshotRefused):
        return None
    except (ChangeRefused, HistoryChanged, SequenceBroken):
        return _fold_first(feed)


def changes_since(feed: Feed, found: Folded | None) -> list[Change] | None:
    """What *feed* holds after what was *found* in it, applied there too; None if that cannot be
    told.
    """
    if found is None or not found.whole:
        return None
    with contextlib.suppress(ChangeRefused, HistoryChanged, SequenceBroken):
        batches = _read_on(feed, found.register, found.position)
        return [change for batch in batches for change in batch.changes]
    return None


def _fold(feed: Feed) -> Folded:
    before = feed.load()
    register = Register(before)
    return Folded(before, register, _apply_all(feed, register, before.position))


def _fold_first(feed: Feed) -> Folded:
    """The snapshot of *feed*, and its changes up to the one that cannot be read."""
    before = feed.load()
    register = Register(before)
    with contextlib.suppress(ChangeRefused, HistoryChanged, SequenceBroken):
        _apply_all(feed, register, before.position)
    return Folded(before, register, before.position, whole=False)


def _apply_all(feed: Feed, register: Register, position: str) -> str:
    """Apply to *register* all that comes after *position*, and return the position after it."""
    for batch in _read_on(feed, register, position):
        position = batch.position
    return position


def _read_on(feed: Feed, register: Register, position: str) -> Iterator[Batch]:
    """What comes after *position*, batch by batch, each applied to *register*."""
    complete = False
    while not complete:
        batch = feed.read(register.revision, position, 0.0).after(register.last)
        register.apply(batch.changes)
        position, complete = batch.position, batch.complete
        yield batch


def first_snapshot(
    feed: Feed,
    found: Folded | None,
    keys: BitMap,
    revision: Revision,
    position: str,
    terms: Terms,
) -> tuple[Snapshot, tuple[Change, ...]]:
    """The snapshot that begins the generation of *revision*, in place of what was *found* in
    *feed*, and the choices that outweigh the source: the generation's first changes, which alter
    nothing in that snapshot, but have to be known when the next source is loaded.

    It holds *keys*, and what no source of them tells but the feed knows: the choices since, that
    answers are suspended, and which numbers are one person's.

    Raises SnapshotRefused if *keys* is empty or what `settle` and *terms* do not accept, and what
    `Feed.retained` raises.
    """
    settled, register = settle_with(feed, found, keys, terms)
    snapshot = replace(
        register,
        revision=revision,
        position=position,
        keys=settled.keys,
        shrink_accepted=terms.accept_jump or terms.jump_max > JUMP_MAX,
        began_at=register.created_at,
        last=None,
    )
    return snapshot, settled.standing


def settle_with(
    feed: Feed, found: Folded | None, keys: BitMap, terms: Terms
) -> tuple[Settled, Snapshot]:
    """What would come of a source of *keys* now, and the register that was *found* in *feed*.

    Raises what `settle` and `Feed.retained` raise.
    """
    if found is None:
        in_place = _without_snapshot(feed)
        return settle(keys, terms, in_place, feed.retained(None)), in_place.register
    before, generation = found.before, found.before.revision.generation
    retained = feed.retained(generation)
    if found.whole:  # what has come since is not settled here, but carried over, in its order
        reached = found.register.revision.seq
        retained = (change for change in retained if change is None or change.seq <= reached)
    else:
        _apply_readable(found.register, feed.retained(generation), found.register.revision.seq)
    began_ms = _unix_ms(before.created_at) if before.revision.seq == 0 else None
    register = found.register.snapshot(found.position, now())
    in_place = InPlace(register, began_ms, found.whole)
    return settle(keys, terms, in_place, retained), register


def _without_snapshot(feed: Feed) -> InPlace:
    """What the changes alone tell. In full only where nothing was ever loaded: there are none."""
    register = Register(Snapshot(Revision("none", 0), "none", now(), BitMap()))
    _apply_readable(register, feed.retained(None), 0)
    whole = register.revision.seq == 0 and _was_never_loaded(feed)
    return InPlace(register.snapshot("none", now()), whole=whole)


def _was_never_loaded(feed: Feed) -> bool:
    try:
        feed.load()
    except (FeedEmpty, SnapshotRefused) as error:
        return isinstance(error, FeedEmpty)
    return False


def _apply_readable(register: Register, retained: Iterable[Change | None], after: int) -> None:
    """Apply those with a number over *after*, and step over what cannot be read: whose register is
    replaced must not lose what follows it.
    """
    for change in retained:
        if change is not None and change.seq > after:
            register.apply([replace(change, seq=register.revision.seq + 1)])


def now() -> str:
    """The present moment, RFC 3339, UTC."""
    moment = dt.datetime.now(dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unix_ms(created_at: str) -> int | None:
    """The moment in a snapshot's header; None if it is none, as that of a foreign writer may be."""
    moment = unix_s(created_at)
    return None if moment is None else int(moment * 1000)
