"""Decides what of a replica's knowledge goes to its state directory, and when; writes it.

The follower hands over copies and goes on; a thread of the keeper's own packs and writes them, so
that a slow disk delays no change. A disk that is full, gone or read-only is counted and tried
again, and harms nothing else: what was kept before is still whole, and says itself how old it is.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ndoo.errors import NdooError
from ndoo.feed.state import Confirmation, Kept, Reached, StateDirectory, StateRefused, moment
from ndoo.register.register import Register
from ndoo.register.replica import State
from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision

KEEP_S = 60.0
"""How often a register that changes is written; by as much the moment kept may lag."""

CONFIRM_S = 5.0
"""How often the moment is written until which an unchanged register was complete."""

_LOGGER = logging.getLogger(__name__)  # handled like all events, see ops.logs


class KeeperObserver(Protocol):
    """Who counts what the keeper does. Must not block."""

    def on_state_kept(self, as_of: float) -> None:
        """The state directory holds a register that was complete at *as_of* (Unix seconds)."""

    def on_state_refused(self, reason: str) -> None:
        """The state directory could not be read or written, for *reason*."""


@dataclass(slots=True)
class _OnDisk:
    """The register in the state directory."""

    revision: Revision
    digest: str
    as_of: float


class Keeper:
    """Keeps the newest register in *directory*; `run` it in a thread of its own.

    `restore`, `note` and `offer` are for the follower's thread alone, and return at once. *clock*
    gives Unix seconds.
    """

    def __init__(
        self, directory: StateDirectory, *, clock: Callable[[], float], observer: KeeperObserver
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._observer = observer
        self._closed = threading.Event()
        self._wake = threading.Event()
        # Handed over by single steps, the newest in place of what was not taken yet.
        self._noted: tuple[State, Reached] | None = None
        self._offered: deque[tuple[Snapshot, float]] = deque(maxlen=1)
        self._lost = False  # what was offered last may not be there, or not whole
        # The follower's: what it offered last.
        self._taken: tuple[Revision, bool] | None = None
        self._taken_at = 0.0
        # The writing thread's: what is on the disk.
        self._on_disk: _OnDisk | None = None
        self._confirmed: Confirmation | None = None
        self._trouble = ""

    def restore(self) -> Kept | None:
        """What an earlier process kept, or None. What is refused is counted and logged."""
        try:
            kept = self._directory.read(self._clock())
        except StateRefused as refused:
            self._tell_refused(refused)
            return None
        if kept is not None:
            revision, confirmed = kept.snapshot.revision, kept.confirmed
            self._on_disk = _OnDisk(revision, confirmed.register, confirmed.as_of)
            self._confirmed = confirmed
            self._taken = (revision, kept.snapshot.suspended)
            self._tell_kept()
        return kept

    def note(self, state: State, reached: Reached) -> None:
        """Take note of a published *state*. A suspension is written without delay.

        A state without a register says nothing of answers, unless that they are suspended.
        """
        if state.view is None and not state.suspended:
            return
        before = self._noted
        self._noted = (state, reached)
        if before is None or before[0].suspended != state.suspended:
            self._wake.set()

    def offer(self, register: Register, position: str, as_of: float, *, last: bool = False) -> None:
        """Keep a copy of *register*, complete at *as_of*, if one is due, or if this is the *last*.

        Costs some milliseconds when one is due.
        """
        now, newest = self._clock(), (register.revision, register.suspended)
        if newest == self._taken and not self._lost:
            return
        if last or self._is_due(register, now):
            self._offered.append((register.snapshot(position, moment(as_of)), as_of))
            self._taken, self._taken_at = newest, now
            self._wake.set()

    def run(self) -> None:
        """Write what is new until closed, and what came last."""
        while not self._closed.is_set():
            self._wake.wait(CONFIRM_S)
            self._wake.clear()
            self.write()
        self.write()
        self._directory.close()

    def close(self) -> None:
        """End `run` soon. From any thread; may be called twice."""
        self._closed.set()
        self._wake.set()

    def write(self) -> None:
        """Write what is new. Raises nothing."""
        self._attempt(self._write_confirmation)  # first: a suspension waits for no register
        self._attempt(self._write_offered)

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except NdooError as refused:
            self._tell_refused(refused)
        except Exception as fault:  # noqa: BLE001  (a bug must not end the keeping)
            self._tell_refused(StateRefused(
                f"Keeping the state failed unexpectedly ({type(fault).__name__}).",
                reason="STATE_NOT_WRITTEN",
            ))  # fmt: skip

    def _is_due(self, register: Register, now: float) -> bool:
        if self._taken is None:
            return True
        revision, suspended = self._taken
        if (revision.generation, suspended) != (register.revision.generation, register.suspended):
            return True
        return not 0 <= now - self._taken_at < KEEP_S

    def _write_offered(self) -> None:
        if self._offered:
            self._write_register(*self._offered.pop())
            self._write_confirmation()

    def _write_register(self, snapshot: Snapshot, as_of: float) -> None:
        self._lost = True
        digest = self._directory.write_register(snapshot, as_of)
        self._lost = False
        self._on_disk = _OnDisk(snapshot.revision, digest, as_of)

    def _write_confirmation(self) -> None:
        """Write until when the register on the disk was complete, if that is news."""
        if self._noted is None or self._on_disk is None:
            return
        (state, reached), on_disk = self._noted, self._on_disk
        if state.view is not None and state.view.revision == on_disk.revision:
            on_disk.as_of = state.as_of
        news = Confirmation(on_disk.digest, on_disk.as_of, state.suspended, reached)
        if news == self._confirmed:
            return
        try:
            self._directory.write_confirmation(news)
        except StateRefused:
            self._lost = True
            self._forget_unsuspended(state)
            raise
        self._confirmed = news
        self._tell_kept()

    def _forget_unsuspended(self, state: State) -> None:
        """Rather no state than one that answers although a suspension could not be written."""
        if state.suspended and self._confirmed is not None and not self._confirmed.suspended:
            self._directory.forget()
            self._confirmed = None

    def _tell_kept(self) -> None:
        if self._on_disk is not None:
            self._observer.on_state_kept(self._on_disk.as_of)
        if self._trouble:
            self._trouble = ""
            _LOGGER.info("state_kept_again")

    def _tell_refused(self, refused: NdooError) -> None:
        self._observer.on_state_refused(refused.reason)
        if self._trouble != refused.reason:
            self._trouble = refused.reason
            _LOGGER.warning(
                "state_refused", extra={"fields": {"reason": refused.reason, "why": str(refused)}}
            )
