"""Spent budgets of one replica, in one small file of a directory.

Whoever keeps them holds a lock on the directory, which the system takes back from a process that
dies. The file is replaced whole, and durable before anything is granted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ndoo.budgets.store import DAYS_KEPT, Claim, Granted, StoreFailed, share
from ndoo.feed import durable

BUDGETS = "budgets.json"
_FORMAT = 1
_BYTES_MAX = 16 * 1024 * 1024
_DIRECTORY_MODE = 0o750
_FILE_MODE = 0o640

Days = dict[str, dict[str, int]]
"""For each day, the one claimed from last at the end: by client what was claimed of it."""


class DirectoryStore:
    """See `ndoo.budgets.store.Store`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory: int | None = None
        self._days: Days = {}
        self._held: dict[tuple[str, str, str], int] = {}

    @property
    def name(self) -> str:
        return f"dir:{self._path}"

    def claim(self, claim: Claim) -> Granted:
        with self._errors():
            directory = self._locked()
            day = self._days.get(claim.day, {})
            holder = (claim.day, claim.client, claim.holder)
            granted = share(claim, day.get(claim.client, 0) - self._held.get(holder, 0))
            days = {kept: self._days[kept] for kept in self._days if kept != claim.day}
            days[claim.day] = {**day, claim.client: granted.total}
            for old in list(days)[:-DAYS_KEPT]:
                del days[old]
            raw = json.dumps({"format": _FORMAT, "days": days}).encode()
            durable.put(directory, BUDGETS, raw, _FILE_MODE)
        self._days = days
        self._held = {key: held for key, held in self._held.items() if key[0] in days}
        self._held[holder] = claim.held + granted.numbers
        return granted

    def close(self) -> None:
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    def _locked(self) -> int:
        """The directory, made, locked and read at the first claim."""
        if self._directory is None:
            self._path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._days = _read(directory)
            except (OSError, ValueError):
                os.close(directory)
                raise
            self._directory = directory
        return self._directory

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises StoreFailed for every error of the system, and for a file that is damaged."""
        try:
            yield
        except BlockingIOError:
            cause = "another process uses it; give each replica its own, or let them share a Redis"
        except OSError as error:
            cause = error.strerror or type(error).__name__
        except ValueError:
            cause = f"{BUDGETS} is damaged; move it away, and the day's budgets begin anew"
        else:
            return
        raise StoreFailed(f"Spent budgets cannot be kept in {self.name}: {cause}.")


def _read(directory: int) -> Days:
    """Raises ValueError for whatever is not as it was written: nothing is taken for zero."""
    try:
        file = os.open(BUDGETS, os.O_RDONLY, dir_fd=directory)
    except FileNotFoundError:
        return {}
    with os.fdopen(file, "rb") as opened:
        raw = opened.read(_BYTES_MAX)
    try:
        kept = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
        raise ValueError("another format")
    days = kept.get("days")
    if not isinstance(days, dict) or not all(map(_is_day, days.values())):
        raise ValueError("no days")
    return days


def _is_day(clients: object) -> bool:
    return isinstance(clients, Mapping) and all(
        type(claimed) is int and claimed >= 0 for claimed in clients.values()
    )
