"""What an extract of the source says about people who have chosen since it was drawn.

A source is drawn at nine; somebody opts out at ten by a change in the feed; the source is loaded at
eleven. It knows nothing of that choice, and must not undo it. So, everywhere:

    A choice recorded in the feed after the source was drawn stands as recorded; where it is not
    known when the source was drawn, every opt-out among the changes that the feed still holds
    stands; and the source decides about everybody else.

Where it is open which came first, opted out wins. Whoever draws the source and whoever records
changes look at two clocks, so an opt-out recorded up to CLOCK_SKEW_MS before the source was drawn
stands, and an opt-in has to come as much later. An opt-in that repeats an earlier source
(RECONCILE) is nobody's choice. Nor is it a choice that two numbers were joined: such a person is
opted out if the register or the source says so under any number.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pyroaring import BitMap

from ndoo.errors import SnapshotRefused
from ndoo.register.changes import PERSONAL, Change, Kind
from ndoo.register.snapshot import Links, Snapshot

JUMP_MAX = 0.02
"""The share of the register in place that a source may release, or add, without a word."""

ADDED_FREELY_MAX = 1000
"""So few people added are a large share only where little is set up yet."""

CLOCK_SKEW_MS = 60_000
"""Machines that keep time are within a second; a minute covers those that hardly do."""

RECONCILE = "reconcile"
"""The `src` of changes that repeat what a source said."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a source is loaded.

    *drawn_at_ms* is when it was drawn (Unix ms), None if that is not known. *jump_max* is the share
    of the register in place that may be released, or added; *accept_jump* accepts any, and that the
    feed cannot be read in full. *examine* is shown what would come of it before anything is
    changed, perhaps several times as others write meanwhile, and may raise.
    """

    drawn_at_ms: int | None = None
    jump_max: float = JUMP_MAX
    accept_jump: bool = False
    examine: Callable[[Settled], None] = lambda _settled: None


PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class InPlace:
    """What a feed holds: the *register*; from when on (Unix ms) its generation holds every change,
    or None if that is not known; and whether all changes could be read.
    """

    register: Snapshot
    began_ms: int | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Settled:
    """Who is opted out once a source is loaded (*keys*), and who is now.

    *source* holds all numbers of the people in it. *standing* are the choices that outweigh it, one
    a person, oldest first: the next source has to be told of them, too.
    """

    keys: BitMap = field(repr=False)
    in_place: BitMap = field(repr=False)
    source: BitMap = field(repr=False)
    standing: tuple[Change, ...] = field(repr=False)

    @property
    def added(self) -> BitMap:
        return self.keys - self.in_place

    @property
    def released(self) -> BitMap:
        return self.in_place - self.keys

    @property
    def kept(self) -> BitMap:
        """Who stays as the feed has it although the source says otherwise."""
        return (self.keys ^ self.source) - (self.keys ^ self.in_place)

    def refuse_jump(self, share_max: float) -> None:
        """Raise SnapshotRefused if too many are released or added. A share that is not a number
        accepts none.
        """
        before = len(self.in_place)
        if not before:
            return
        for count, freely, what in (
            (len(self.released), 0, "release"),
            (len(self.added), ADDED_FREELY_MAX, "add"),
        ):
            if count > freely and not count <= before * share_max:
                raise SnapshotRefused(
                    f"The source would {what} {count:,} of {before:,} opt-outs, "
                    f"{count / before:.1%}, over the accepted {share_max:.1%}. Nothing was "
                    "changed; if that is right, say --accept-jump.",
                    reason="SOURCE_JUMP",
                )


def settle(
    keys: BitMap, terms: Terms, in_place: InPlace, retained: Iterable[Change | None]
) -> Settled:
    """Who is to be opted out by a source of *keys*; *retained* is what the feed still holds.

    Raises SnapshotRefused if *keys* is empty; if the feed cannot be read in full; if *retained*
    does not reach back to when the source was drawn; and if too many are released or added.
    """
    if not keys:
        raise SnapshotRefused(
            "There is no opt-out in the source, and an empty register would clear everybody; check "
            "the source.",
            reason="SNAPSHOT_EMPTY",
        )
    links = in_place.register.links
    groups = {key: group for group in links for key in group}
    history = _History(in_place, groups, terms.drawn_at_ms)
    for change in retained:
        history.add(change)
    history.refuse_short(accept_doubt=terms.accept_jump)
    standing = _standing(history.last, in_place.register.keys, terms.drawn_at_ms)
    source = whole_persons(keys, links)
    out, released = (
        whole_persons(
            BitMap([who for who, change in standing.items() if change.kind is kind]), links
        )
        for kind in (Kind.OPT_OUT, Kind.OPT_IN)
    )
    settled = Settled(
        keys=(source - released) | out,
        in_place=in_place.register.keys,
        source=source,
        standing=tuple(standing.values()),
    )
    terms.examine(settled)
    if not terms.accept_jump:
        settled.refuse_jump(terms.jump_max)
    return settled


def whole_persons(keys: BitMap, links: Links) -> BitMap:
    """*keys* and all other numbers of their people."""
    return keys | BitMap(
        [key for group in links if any(key in keys for key in group) for key in group]
    )


class _History:
    """What the changes that a feed still holds tell, one after the other."""

    def __init__(
        self, in_place: InPlace, groups: Mapping[int, tuple[int, ...]], drawn_at_ms: int | None
    ) -> None:
        self.last: dict[int, Change] = {}
        """By person (the first of all numbers): the last change that the source may not know."""
        self._groups = groups
        self._drawn_at_ms = drawn_at_ms
        self._known_ms = 0 if drawn_at_ms is None else drawn_at_ms - CLOCK_SKEW_MS
        self._whole = in_place.whole
        self._since_ms = in_place.began_ms if in_place.whole else None
        self._timed = False
        self._next_seq = None if in_place.began_ms is None else 1

    def add(self, change: Change | None) -> None:
        if change is None or self._next_seq not in {None, change.seq}:
            self._whole = False
            self._since_ms, self._timed = None, False
        self._next_seq = None if change is None else change.seq + 1
        if change is not None:
            self._note_time(change.recorded_ms)
            self._note_person(change)

    def refuse_short(self, *, accept_doubt: bool) -> None:
        """Raise SnapshotRefused unless every change that the source may not know is there."""
        if not self._whole and not accept_doubt:
            raise SnapshotRefused(
                "The feed cannot be read in full, and what cannot be read may be an opt-out, a "
                "suspension, or that two numbers are one person's, which no source tells. Draw the "
                "source anew, and say --accept-jump to load it all the same.",
                reason="SOURCE_IN_DOUBT",
            )
        if self._drawn_at_ms is not None:
            self._refuse_late(self._drawn_at_ms)

    def _refuse_late(self, drawn_at_ms: int) -> None:
        if self._since_ms is None:
            raise SnapshotRefused(
                "The feed cannot tell from when on it holds every change, so it is not known who "
                "has chosen since the source was drawn; load it without --drawn-at, and every "
                "opt-out that the feed holds stands.",
                reason="SOURCE_TOO_OLD",
            )
        if self._known_ms < self._since_ms:
            raise SnapshotRefused(
                f"The source was drawn at {_rfc_3339(drawn_at_ms)}, and the feed can tell who has "
                "chosen since only for one drawn at "
                f"{_rfc_3339(self._since_ms + CLOCK_SKEW_MS)} or later; draw it anew.",
                reason="SOURCE_TOO_OLD",
            )

    def _note_time(self, recorded_ms: int) -> None:
        """The first that tells a time counts: all that came before it, and is gone, is older."""
        if recorded_ms and not self._timed:
            since_ms = recorded_ms if self._since_ms is None else self._since_ms
            self._since_ms, self._timed = min(recorded_ms, since_ms), True

    def _note_person(self, change: Change) -> None:
        if change.kind not in PERSONAL or 0 < change.recorded_ms < self._known_ms:
            return
        for key in (change.key, change.new_key):
            if key is not None:
                person = self._groups.get(key, (key,))[0]
                self.last.pop(person, None)  # so that the order is that of the last changes
                self.last[person] = change


def _standing(
    last: dict[int, Change], in_place: BitMap, drawn_at_ms: int | None
) -> dict[int, Change]:
    """Those of the *last* changes that outweigh the source, as opt-outs and opt-ins."""
    standing = {}
    for person, change in last.items():
        match change.kind:
            case Kind.OPT_OUT:
                standing[person] = change
            case Kind.OPT_IN if _is_later_choice(change, drawn_at_ms):
                standing[person] = change
            case Kind.SUPERSEDE if person in in_place:
                standing[person] = replace(change, kind=Kind.OPT_OUT, key=person, new_key=None)
    return standing


def _is_later_choice(change: Change, drawn_at_ms: int | None) -> bool:
    """Whether it is certain that a person chose so after the source was drawn."""
    if drawn_at_ms is None or change.src == RECONCILE:
        return False
    return change.recorded_ms > drawn_at_ms + CLOCK_SKEW_MS


def _rfc_3339(unix_ms: int) -> str:
    """The second in which *unix_ms* lies, or the next one: never before it."""
    moment = dt.datetime.fromtimestamp(-(-unix_ms // 1000), dt.UTC)
    return moment.isoformat().replace("+00:00", "Z")
