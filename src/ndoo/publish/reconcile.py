"""The register is brought to what a source says by changes, in the generation that is there.

Opt-outs are published first, and at once: a person too many is opted out for a while at most. An
opt-in clears somebody, so it is recorded only right after a revision up to which nobody has touched
that person since the comparison; whoever was touched meanwhile stays as they are. Wherever it
breaks off it can be run again: it compares anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from ndoo.errors import FeedUnavailable
from ndoo.feed.feed import Feed, other_history
from ndoo.publish.fold import Folded, fold, settle_with
from ndoo.publish.publisher import CHANGES_PER_STEP_MAX, HeadMoved, Publisher, Unconfirmed
from ndoo.publish.request import new_request_id
from ndoo.publish.source import RECONCILE, Terms
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from ndoo.revision import Revision

_OVERTAKEN_MAX = 1000
"""So often in a row may another writer be faster, before the source waits for a quieter hour."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How many people were opted out, released, and left as they are because they were touched
    meanwhile; *revision* is the one up to which this is so.
    """

    opted_out: int
    released: int
    left: int
    revision: Revision


def reconcile(
    feed: Feed,
    publisher: Publisher,
    keys: BitMap,
    terms: Terms,
    progress: Callable[[int], object] = lambda _count: None,
) -> Reconciled:
    """Publish what a source of *keys* says otherwise than *feed*, to which *publisher* writes.

    *progress* is told how many changes each step recorded. Raises what `fold`, `settle` and
    `Publisher.append` raise; HistoryChanged if another register is loaded meanwhile.
    """
    found = fold(feed)
    settled, _ = settle_with(feed, found, keys, terms)
    out, released = (_people(found.register, keys) for keys in (settled.added, settled.released))
    for block in _blocks(out):
        revision = _record(publisher, Kind.OPT_OUT, block, None)
        if revision.generation != found.register.revision.generation:
            raise other_history()
        progress(len(block))
    count = _Release(feed, publisher, found, released).run(progress)
    return Reconciled(len(out), count, len(released) - count, found.register.revision)


class _Release:
    """People who are to be released, as long as nobody else touches them."""

    def __init__(self, feed: Feed, publisher: Publisher, found: Folded, people: BitMap) -> None:
        self._feed = feed
        self._publisher = publisher
        self._register = found.register
        self._position = found.position
        self._pending = people.copy()

    def run(self, progress: Callable[[int], object]) -> int:
        """Release them, and return how many it were."""
        released = overtaken = 0
        self._read_on()
        while self._pending:
            block = self._pending[:CHANGES_PER_STEP_MAX].to_array().tolist()
            try:
                _record(self._publisher, Kind.OPT_IN, block, self._register.revision)
            except HeadMoved:
                overtaken += 1
                if overtaken > _OVERTAKEN_MAX:
                    raise self._too_busy() from None
            else:
                self._pending -= BitMap(block)
                released, overtaken = released + len(block), 0
                progress(len(block))
            self._read_on()
        return released

    def _read_on(self) -> None:
        """Read all that came since, and leave alone whom it touches."""
        complete = False
        while not complete:
            batch = self._feed.read(self._register.revision, self._position, 0.0)
            self._register.apply(batch.changes)
            for change in batch.changes:
                for key in (change.key, change.new_key):
                    if key is not None:
                        self._pending -= BitMap(self._register.person(key))
            self._position, complete = batch.position, batch.complete

    def _too_busy(self) -> FeedUnavailable:
        return FeedUnavailable(
            f"{self._publisher.name} is written to all the while, so {len(self._pending):,} people "
            "were not released; run it again when the other writers rest."
        )


def _people(register: Register, keys: BitMap) -> BitMap:
    """One number of each person in *keys*."""
    return BitMap([register.person(key)[0] for key in keys])


def _blocks(people: BitMap) -> list[list[int]]:
    keys = people.to_array().tolist()
    return [
        keys[done : done + CHANGES_PER_STEP_MAX]
        for done in range(0, len(keys), CHANGES_PER_STEP_MAX)
    ]


def _record(
    publisher: Publisher, kind: Kind, people: Sequence[int], after: Revision | None
) -> Revision:
    """One step, sent once more if it is unknown whether it was recorded."""
    changes = [Change(kind, key=key, src=RECONCILE) for key in people]
    request_id = new_request_id()
    with contextlib.suppress(Unconfirmed):
        return publisher.append(changes, request_id=request_id, after=after)
    return publisher.append(changes, request_id=request_id, after=after)
