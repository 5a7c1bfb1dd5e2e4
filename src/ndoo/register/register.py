"""The writer's copy of the register: a Roaring bitmap to which batches of changes are applied
whole.

Numbers of one person are aliases. `supersede` joins the groups of two numbers, and everybody in the
joined group is opted out if anybody was; from then on a choice made under any of them is the
person's choice, and holds for all. (Merging errs towards opted out; after it the latest choice
wins, operational policy section 3.)

A batch is worked out beside the register first and committed at the end, so a batch that is refused
leaves no trace. Besides what it changed in the end, each flip on the way is told with the number of
the change that made it: other replicas cut their batches elsewhere, and callers may ask for any
revision between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from ndoo.errors import SequenceBroken
from ndoo.nhs_number import Keys
from ndoo.register.changes import Change, Kind
from ndoo.register.snapshot import Links, Snapshot
from ndoo.revision import Revision

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flips:
    """Between two revisions: the keys that became opted out, and those no longer so, ascending."""

    opted_out: Keys = field(repr=False)
    opted_in: Keys = field(repr=False)


@dataclass(frozen=True, slots=True)
class Applied(Flips):
    """What a batch changed in the end, and each single flip on the way, in order.

    *seqs* holds the number of the change that made a flip, *steps* twice its key, plus one if the
    key became opted out. Each step is a true flip: the steps of one key alternate.
    """

    seqs: npt.NDArray[np.int64] = field(repr=False)
    steps: npt.NDArray[np.uint32] = field(repr=False)


@dataclass(slots=True, repr=False)
class _Work:
    """What a batch would do: net flips by key, every flip, changed groups by key, suspension."""

    suspended: bool
    flipped: dict[int, bool] = field(default_factory=dict)
    seqs: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    groups: dict[int, Group] = field(default_factory=dict)


class Register:
    """Every opted-out key at one revision. One owner at a time: it takes no lock."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._keys = snapshot.keys.copy()
        self._groups: dict[int, Group] = {key: group for group in snapshot.links for key in group}
        self._revision = snapshot.revision
        self._suspended = snapshot.suspended
        self._last = snapshot.last

    @property
    def revision(self) -> Revision:
        return self._revision

    @property
    def suspended(self) -> bool:
        """Whether a `suspend` came last: no answers are to be given."""
        return self._suspended

    @property
    def last(self) -> Change | None:
        """The change that led to this revision, None if that is unknown."""
        return self._last

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    def keys(self) -> Keys:
        """All opted-out keys, ascending. A copy of 4 bytes a key."""
        return np.array(self._keys.to_array(), dtype=np.uint32)

    def person(self, key: int) -> Group:
        """All numbers, ascending, of the person who has *key*."""
        return self._groups.get(key) or (key,)

    def apply(self, changes: Sequence[Change]) -> Applied:
        """Apply *changes* whole and say which keys flipped, in the end and on the way.

        Raises SequenceBroken, with nothing applied, unless their sequence numbers go on from this
        register's by exactly one each: only that proves that nothing was lost.
        """
        self._prove_sequence(changes)
        work = _Work(self._suspended)
        for change in changes:
            self._work_out(change, work)
        return self._commit(work, changes)

    def snapshot(self, position: str, created_at: str) -> Snapshot:
        """The register as a snapshot, to be continued from *position* of its feed."""
        return Snapshot(
            revision=self._revision,
            position=position,
            created_at=created_at,
            keys=self._keys.copy(),
            links=self._links(),
            suspended=self._suspended,
            last=self._last,
        )

    def _prove_sequence(self, changes: Sequence[Change]) -> None:
        for expected, change in enumerate(changes, self._revision.seq + 1):
            if change.seq != expected:
                # What came is not told: the digits of a mixed-up entry may be anybody's.
                ahead = change.seq > expected
                raise SequenceBroken(
                    f"Change {expected} was expected and {'a later' if ahead else 'an earlier'} "
                    "one came.",
                    reason="GAP" if ahead else "BACKWARDS",
                )

    def _work_out(self, change: Change, work: _Work) -> None:
        match change:
            case Change(kind=Kind.OPT_OUT, key=int(key)):
                self._set(key, True, change.seq, work)
            case Change(kind=Kind.OPT_IN, key=int(key)):
                self._set(key, False, change.seq, work)
            case Change(kind=Kind.SUPERSEDE, key=int(old), new_key=int(new)):
                self._join(old, new, change.seq, work)
            case Change(kind=Kind.SUSPEND):
                work.suspended = True
            case Change(kind=Kind.RESUME):
                work.suspended = False
            case _:
                raise ValueError(
                    "a change of this shape cannot be applied, and none is passed over"
                )

    def _set(self, key: int, opted_out: bool, seq: int, work: _Work) -> None:
        for alias in self._group(key, work):
            if self._is_opted_out(alias, work) != opted_out:
                # Flips of a key alternate, so a second one takes the first back.
                if work.flipped.pop(alias, None) is None:
                    work.flipped[alias] = opted_out
                work.seqs.append(seq)
                work.steps.append(alias << 1 | opted_out)

    def _join(self, old: int, new: int, seq: int, work: _Work) -> None:
        group = tuple(sorted({*self._group(old, work), *self._group(new, work)}))
        for key in group:
            work.groups[key] = group
        self._set(old, any(self._is_opted_out(key, work) for key in group), seq, work)

    def _group(self, key: int, work: _Work) -> Group:
        return work.groups.get(key) or self._groups.get(key) or (key,)

    def _is_opted_out(self, key: int, work: _Work) -> bool:
        state = work.flipped.get(key)
        return key in self._keys if state is None else state

    def _commit(self, work: _Work, changes: Sequence[Change]) -> Applied:
        revision = Revision(self._revision.generation, self._revision.seq + len(changes))
        applied = Applied(
            opted_out=_ascending([key for key, out in work.flipped.items() if out]),
            opted_in=_ascending([key for key, out in work.flipped.items() if not out]),
            seqs=np.array(work.seqs, dtype=np.int64),
            steps=np.array(work.steps, dtype=np.uint32),
        )
        self._keys |= BitMap(applied.opted_out)
        self._keys -= BitMap(applied.opted_in)
        self._groups.update({key: group for key, group in work.groups.items() if len(group) > 1})
        self._suspended = work.suspended
        self._revision = revision
        self._last = changes[-1] if changes else self._last
        return applied

    def _links(self) -> Links:
        return tuple(sorted(set(self._groups.values())))


def _ascending(keys: list[int]) -> Keys:
    return np.array(sorted(keys), dtype=np.uint32)
