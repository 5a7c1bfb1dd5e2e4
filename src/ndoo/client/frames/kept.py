"""Which rows of a frame stay, and the report beside it."""

from __future__ import annotations

import re
import threading
import unicodedata
from typing import Any, Literal

import numpy as np

from ndoo import nhs_number
from ndoo.client.answers import Mask, Revision, Summary, Verdicts
from ndoo.client.columns import Column, select

OnInvalid = Literal["drop", "keep", "raise"]

_DIGITS = 10
_NO_DIGIT = re.compile(r"\D+")


class InvalidNumbers(ValueError):
    """Rows without a valid NHS number, where there were to be none."""


class Report:
    """Counts of the rows that were asked about, all at *revision*.

    Of a reader or a lazy frame: of those that were read so far, every time they were.
    """

    def __init__(self, revision: Revision) -> None:
        self._summary = Summary(0, 0, 0, 0, revision)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, summary: Summary) -> Report:
        """The report on a frame that was answered whole."""
        report = cls(summary.revision)
        report.add(summary)
        return report

    def add(self, summary: Summary) -> None:
        """Count more rows. Raises IncompleteAnswer if they are of another revision."""
        with self._lock:
            self._summary = Summary.of([self._summary, summary])

    @property
    def summary(self) -> Summary:
        """All of it in one."""
        return self._summary

    @property
    def received(self) -> int:
        """How many rows were asked about."""
        return self._summary.received

    @property
    def cleared(self) -> int:
        """How many of their people have not opted out."""
        return self._summary.cleared

    @property
    def opted_out(self) -> int:
        """How many have."""
        return self._summary.opted_out

    @property
    def invalid(self) -> int:
        """How many rows hold no valid NHS number."""
        return self._summary.invalid

    @property
    def revision(self) -> Revision:
        """The state of the register that all of this is true for."""
        return self._summary.revision

    def __repr__(self) -> str:
        return f"Report({self._summary})"


def kept_rows(values: Any, verdicts: Verdicts, on_invalid: OnInvalid) -> Mask:
    """Which rows stay, given the *verdicts* on their column *values*.

    Raises InvalidNumbers with the count of the rows that are, if *on_invalid* is "raise".
    """
    match on_invalid:
        case "drop":
            return verdicts.cleared
        case "raise":
            if verdicts.summary.invalid:
                raise InvalidNumbers(
                    f"{verdicts.summary.invalid:,} of {len(verdicts):,} rows hold no valid NHS "
                    "number; mend them, or say on_invalid='drop'."
                )
            return verdicts.cleared
        case "keep":
            return verdicts.cleared | _without_number(values, verdicts)
    raise ValueError("on_invalid is 'drop', 'keep' or 'raise'")


def _without_number(values: Any, verdicts: Verdicts) -> Mask:
    """The rows that hold no valid number by the service's reading and by our own, nor one that
    would be valid if it were written otherwise.
    """
    column = Column.of(values)
    without = verdicts.invalid & ~nhs_number.valid(column.numbers(0, len(column)))
    written = without & ~np.asarray(values.isna() if hasattr(values, "isna") else values.is_null())
    without[written] = [not _may_be_somebody(str(value)) for value in select(values, written)]
    return without


def _may_be_somebody(text: str) -> bool:
    """Whether ten digits of *text*, or fewer with zeros before them, are a valid NHS number.

    Digits of every kind are digits here: of other scripts, raised, lowered or circled.
    """
    digits = _NO_DIGIT.sub("", unicodedata.normalize("NFKC", text))
    if not digits:
        return False
    padded = digits.zfill(_DIGITS)
    places = range(len(padded) - _DIGITS + 1)
    return any(nhs_number.is_valid(int(padded[at : at + _DIGITS])) for at in places)
