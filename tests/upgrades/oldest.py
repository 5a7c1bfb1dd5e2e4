"""How version 0.1.0 reads a change, written down once more and never altered.

Whatever a later version writes, such a reader has to understand as it is meant, or to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NUMBERS = {"opt_out": ("nhs",), "opt_in": ("nhs",), "supersede": ("nhs", "new")}
_OTHERS = ("suspend", "resume")
_TEN_DIGITS = re.compile(r"\d{3}([ -]?)\d{3}\1\d{4}", re.ASCII)

Read = tuple[int, str, tuple[int, ...]]
"""Sequence number, kind, and the nine-digit keys."""


def read(fields: Mapping[str, str]) -> Read | None:
    """What *fields* say; None if that is refused, and what follows them waits."""
    seq, op = fields.get("seq", ""), fields.get("op", "")
    if fields.get("v", "1") != "1" or not re.fullmatch("[1-9][0-9]{0,18}", seq):
        return None
    if op not in _NUMBERS and op not in _OTHERS:
        return None
    keys = [_key(fields.get(name, "")) for name in _NUMBERS.get(op, ())]
    if None in keys:
        return None
    return int(seq), op, tuple(keys)


def _key(text: str) -> int | None:
    digits = re.sub("[ -]", "", text)
    if not _TEN_DIGITS.fullmatch(text) or len(set(digits)) == 1:
        return None
    weighted = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), digits))
    return int(digits[:9]) if (11 - weighted % 11) % 11 == int(digits[9]) else None
