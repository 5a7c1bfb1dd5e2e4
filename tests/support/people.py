"""Keys of numbers that were never issued, and changes about them."""

from __future__ import annotations

import numpy as np

from ndoo import nhs_number
from ndoo.register.changes import Change, Kind

_RANGE = np.arange(999_000_000, 999_100_000, dtype=np.uint32)
KEYS = _RANGE[nhs_number.check_digits(_RANGE) != 10].tolist()


def opt_out(person: int) -> Change:
    return Change(Kind.OPT_OUT, key=KEYS[person])


def opt_in(person: int) -> Change:
    return Change(Kind.OPT_IN, key=KEYS[person])


def supersede(old: int, new: int) -> Change:
    return Change(Kind.SUPERSEDE, key=KEYS[old], new_key=KEYS[new])


def number(person: int) -> str:
    return str(nhs_number.numbers_of([KEYS[person]])[0])
