"""One change to the register: its kinds, and its form on a feed.

On a feed a change is a flat mapping of texts (`seq`, `op`, `nhs`, and as they apply `new`, `at`,
`src`, `recorded`), the same in a Redis stream entry and in a line of the directory's log. Reading
is exact about what decides who is opted out, and tolerant about the rest: fields it does not know
are passed over, `at` and `src` are carried as they are. A change that cannot be read is an error,
never a guess.

A later version may add fields that decide nothing. A change that says more than these fields do, so
that whoever passes a new one over would clear wrongly, names its form in `v`, and is no change to a
reader that does not know that form.
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

_FORM = "1"  # written by nobody: a change that names no form is of this one
_SEQ = re.compile(r"[1-9][0-9]{0,18}")
_RECORDED = re.compile(r"[1-9][0-9]{12}")  # from 2001 to 2286; never as short as an NHS number
_MILLISECONDS = re.compile(r"[0-9]{1,20}")
_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. *key* and *new_key* are nine-digit keys; only `supersede` has a *new_key*.

    *seq* is 0 until the writing side has numbered it. *at* is when the person chose (RFC 3339,
    UTC), *src* the code of the channel; both are information and decide nothing. *recorded_ms* is
    when the feed recorded it, in Unix milliseconds, 0 if that is unknown; no change is refused or
    passed over for it.

    Changes are compared with what another version told of them: a field that is added here is not
    to count in that (`compare=False`).
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
    if fields.get("v", _FORM) != _FORM:
        raise ChangeRefused("A change is of a form that this version does not know (field 'v').")
    seq = seq_of(fields)
    kind = _KINDS.get(fields.get("op", ""))
    if kind is None:
        raise ChangeRefused("A change is of a kind that this version does not know (field 'op').")
    key = _key(fields, "nhs") if kind in PERSONAL else None
    new_key = _key(fields, "new") if kind is Kind.SUPERSEDE else None
    at, src = fields.get("at", ""), fields.get("src", "")
    return Change(kind, seq, key, new_key, at, src, _recorded_ms(fields, entry_ms))


def seq_of(fields: Mapping[str, str]) -> int:
    """The sequence number in *fields*, which stands there in every form. Raises ChangeRefused."""
    text = fields.get("seq", "")
    if not _SEQ.fullmatch(text) or (seq := int(text)) > SEQ_MAX:
        raise ChangeRefused("A change has no readable sequence number (field 'seq').")
    return seq


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


def encode_numbered(change: Change) -> dict[str, str]:
    """*change* and its number, for `decode_numbered` to bring back exactly."""
    return {"seq": str(change.seq), **encode_recorded(change)}


def decode_numbered(fields: Mapping[str, str]) -> Change | None:
    """The change that `encode_numbered` told of; None if it cannot be read, as one of a kind that
    only a later version knows.
    """
    recorded = fields.get("recorded", "")
    try:
        return decode(fields, int(recorded) if _MILLISECONDS.fullmatch(recorded) else 0)
    except ChangeRefused:
        return None


def _ten_digits(key: int | None) -> str:
    if key is None:
        return ""
    digit = nhs_number.check_digit(key)
    if digit is None or not nhs_number.is_valid(key * 10 + digit):
        raise ValueError("no NHS number has these nine digits")
    return f"{key:09d}{digit}"
