"""One table of a TOML file, taken apart key by key, with one sentence for whatever is wrong in it.

A sentence names the file and the place, and repeats no value: who knows what somebody pasted there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ndoo import nhs_number
from ndoo.errors import InputError

UNLIMITED = "unlimited"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


class Table:
    """The values at *place*. Each is taken once, and `end` refuses those that nobody took.

    All methods raise InputError.
    """

    def __init__(self, place: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{place} must be a table.")
        self.place = place
        self._left: dict[str, Any] = dict(values)
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def table(self, key: str) -> Table:
        """The table under *key*, an empty one if it is missing."""
        return Table(f"{self.place}: {key}", self._take(key, {}))

    def tables(self, key: str, named: Callable[[str], bool], form: str) -> dict[str, Table]:
        """The tables under *key*, by their names, which are to be *form*."""
        found = self._take(key, {})
        if not isinstance(found, Mapping) or not all(map(named, found)):
            raise InputError(f"{self.place}: each table under '{key}' needs a name of {form}.")
        return {
            name: Table(f"{self.place}: {key}.{name}", values) for name, values in found.items()
        }

    def text(self, key: str, fits: Callable[[str], object], form: str) -> str:
        """The text under *key*, which must be there."""
        value = self._take(key, None)
        if not isinstance(value, str) or not fits(value):
            raise self._bad(key, form)
        return value

    def texts(self, key: str, fits: Callable[[str], object], form: str) -> frozenset[str]:
        """The list of texts under *key*; missing, it is empty. No text may stand in it twice."""
        values = self._take(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) and fits(v) for v in values):
            raise self._bad(key, f"a list, each of it {form}")
        if len(set(values)) < len(values):
            raise self._bad(key, "a list without repetitions")
        return frozenset(values)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def count(self, key: str, low: int, high: int, default: int | None) -> int | None:
        """The whole number under *key*, or *default*."""
        value = self._take(key, default)
        return value if value is default else self._whole(key, value, low, high)

    def limit(self, key: str, low: int, high: int) -> int | None:
        """The whole number under *key*, which must be there; None if it says "unlimited"."""
        value = self._take(key, None)
        if value == UNLIMITED:
            return None
        return self._whole(key, value, low, high, f', or "{UNLIMITED}"')

    def number(self, key: str, low: float, high: float, default: float) -> float:
        value = self._take(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # which also refuses NaN
            raise self._bad(key, f"a number between {low:,} and {high:,}")
        return float(value)

    def end(self) -> None:
        """Refuse what is left over: a misspelt limit is no limit."""
        for key in self._left:
            shown = f"the key '{key}'" if _may_be_shown(key) else "a key that is not shown here"
            close = difflib.get_close_matches(key, self._known, n=1)
            mend = f"did you mean '{close[0]}'?" if close else f"known are {_listed(self._known)}."
            raise InputError(f"{self.place} does not know {shown}; {mend}")

    def _take(self, key: str, default: Any) -> Any:
        self._known.add(key)
        return self._left.pop(key, default)

    def _whole(self, key: str, value: Any, low: int, high: int, or_else: str = "") -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(key, f"a whole number between {low:,} and {high:,}{or_else}")
        return value

    def _bad(self, key: str, form: str) -> InputError:
        return InputError(f"{self.place}: '{key}' must be {form}.")


def _may_be_shown(key: str) -> bool:
    return _NAME.fullmatch(key) is not None and not nhs_number.may_be_in(key)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
