"""One change to the register: its kinds, and its form on a feed.

On a feed a change is a flat mapping of texts (`seq`, `op`, `nhs`, and as they apply `new`, `at`,
`src`, `recorded`), the same in a Redis stream entry and in a line of the directory's log. Reading
is exact about what decides who is opted out, and tolerant about the rest: fields it does not know
are passed over, `at` and `src` are carried as they are. A change that cannot be read is an error,
never a guess.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ndoo import nhs_number
from ndoo.errors import ChangeRefused
from ndoo.nhs_number import KEY_MAX
from ndoo.revision import SEQ_MAX


class Kind(enum.StrEnum):
    """What a change does."""

    OPT_OUT = "opt_out"
    OPT_IN = "opt_in"
    SUPERSEDE = "supersede"  # a person got a new number; both are that person's from here on
    SUSPEND = "suspend"  # stop all answers
    RESUME = "resume"


PERSONAL = frozenset({Kind.OPT_OUT, Kind.OPT_IN, Kind.SUPERSEDE})
"""The kinds that are about a person, and so carry an NHS number."""

_SEQ = re.compile(r"[1-9][0-9]{0,18}")
_RECORDED = re.compile(r"[1-9][0-9]{12}")  # from 2001 to 2286; never as short as an NHS number
_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. *key* and *new_key* are nine-digit keys; only `supersede` has a *new_key*.

    *seq* is 0 until the writing side has numbered it. *at* is when the person chose (RFC 3339,
    UTC), *src* the code of the channel; both are information and decide nothing. *recorded_ms* is
    when the feed recorded it, in Unix milliseconds, 0 if that is unknown; no change is refused or
    passed over for it.
    """

    kind: Kind
    seq: int = 0
    key: int | None = field(default=None, repr=False)
    new_key: int | None = field(default=None, repr=False)
    at: str = ""
    src: str = ""
    recorded_ms: int = 0

    def __post_init__(self) -> None:
        if (self.kind in PERSONAL) != (self.key is not None):
            raise ValueError("opt_out, opt_in and supersede carry a number; no other change does")
        if (self.kind is Kind.SUPERSEDE) != (self.new_key is not None):
            raise ValueError("supersede carries a new number; no other change does")
        for key in (self.key, self.new_key):
            if key is not None and not (isinstance(key, int) and 0 <= key <= KEY_MAX):
                raise ValueError("a key is an int of at most nine digits")


def decode(fields: Mapping[str, str], entry_ms: int = 0) -> Change:
    """The change that *fields* describe, in an entry that the feed itself dates *entry_ms*, or does
    not (0).

    Raises ChangeRefused, naming the field but no content, not even that of `seq`: in an entry whose
    fields are mixed up it may be somebody's number.
    """
    seq_text = fields.get("seq", "")
    if not _SEQ.fullmatch(seq_text) or (seq := int(seq_text)) > SEQ_MAX:
        raise ChangeRefused("A change has no readable sequence number (field 'seq').")
    kind = _KINDS.get(fields.get("op", ""))
    if kind is None:
        raise ChangeRefused("A change is of a kind that this version does not know (field 'op').")
    key = _key(fields, "nhs") if kind in PERSONAL else None
    new_key = _key(fields, "new") if kind is Kind.SUPERSEDE else None
    at, src = fields.get("at", ""), fields.get("src", "")
    return Change(kind, seq, key, new_key, at, src, _recorded_ms(fields, entry_ms))


def _key(fields: Mapping[str, str], name: str) -> int:
    key = nhs_number.key_of(fields.get(name, ""))
    if key is None:
        raise ChangeRefused(f"A change carries no valid NHS number (field '{name}').")
    return key


def _recorded_ms(fields: Mapping[str, str], entry_ms: int) -> int:
    """What the entry says, which is older than itself if a load carried it over; never newer."""
    text = fields.get("recorded")
    if text is None or not _RECORDED.fullmatch(text):
        return entry_ms
    return min(int(text), entry_ms) if entry_ms else int(text)


def encode(change: Change) -> dict[str, str]:
    """*change* as it stands on a feed, without `seq` and `recorded`, which the writing side adds.
    Empty fields are left out.

    Raises ValueError if a key was never issued: no reader could decode it.
    """
    fields = {
        "op": change.kind.value,
        "nhs": _ten_digits(change.key),
        "new": _ten_digits(change.new_key),
        "at": change.at,
        "src": change.src,
    }
    return {name: text for name, text in fields.items() if text}


def encode_recorded(change: Change) -> dict[str, str]:
    """*change*, which was recorded before, as it stands where it is written down again."""
    recorded = {"recorded": str(change.recorded_ms)} if change.recorded_ms else {}
    return {**encode(change), **recorded}


def _ten_digits(key: int | None) -> str:
    if key is None:
        return ""
    digit = nhs_number.check_digit(key)
    if digit is None or not nhs_number.is_valid(key * 10 + digit):
        raise ValueError("no NHS number has these nine digits")
    return f"{key:09d}{digit}"
