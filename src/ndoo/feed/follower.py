"""Keeps a replica as new as its feed: loads, catches up, follows, and mends whatever breaks.

    LOADING       the snapshot is being fetched and verified
    CATCHING_UP   the changes after it are being applied, to a register that nobody sees yet
    LIVE          the feed confirmed that nothing is missing; every batch is published as it comes

Whatever goes wrong, the last verified view stays published, with the moment it was last known to be
complete, and grows old until the replica refuses to answer from it. Nothing is ever stepped over: a
history that is not proven whole is loaded again, a change that cannot be read is waited for. The
only place that retries, never faster than its pauses allow.
"""

from __future__ import annotations

import contextlib
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ndoo.errors import (
    ChangeRefused,
    FeedEmpty,
    FeedUnavailable,
    NdooError,
    SequenceBroken,
    SnapshotRefused,
)
from ndoo.feed.feed import Feed, HistoryChanged
from ndoo.register.changes import Kind
from ndoo.register.register import Flips, Register
from ndoo.register.replica import CLOCK_BACK_S_MAX, Phase, Replica
from ndoo.register.snapshot import Snapshot, refuse_shrunken
from ndoo.register.view import View
from ndoo.revision import Revision

WAIT_S = 0.5
"""How long a read waits for news: so often an idle replica confirms itself and notices a load."""

GATHER_S = 0.003
"""Pause after a publication, so that a trickle of changes is published in batches."""

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0


class FollowerObserver(Protocol):
    """Who counts what the follower does. Called in its thread; must not block or raise."""

    def on_connected(self, connected: bool) -> None:
        """The feed answered, or did not."""

    def on_resync(self, reason: str) -> None:
        """The history broke, for *reason*; the snapshot will be loaded again."""

    def on_refused(self, reason: str) -> None:
        """A snapshot or a change was refused."""

    def on_changes(self, counts: Mapping[Kind, int]) -> None:
        """So many changes of each kind were applied."""

    def on_published(self, seconds: float) -> None:
        """A view with new changes was published, *seconds* after they had arrived."""


class Unobserved:
    """Counts nothing."""

    def on_connected(self, connected: bool) -> None: ...
    def on_resync(self, reason: str) -> None: ...
    def on_refused(self, reason: str) -> None: ...
    def on_changes(self, counts: Mapping[Kind, int]) -> None: ...
    def on_published(self, seconds: float) -> None: ...


@dataclass(slots=True)
class _Course:
    """How far the follower has come in one history."""

    register: Register
    position: str
    live: bool = False  # the published view is this register
    stuck: bool = False  # the next change could not be read


class Follower:
    """Follows *feed* and publishes to *replica*; `run` it in a thread of its own.

    *clock* gives Unix seconds. *pause* waits so many seconds, and less once stopped. *rng* spreads
    the retries of many replicas.
    """

    def __init__(
        self,
        feed: Feed,
        replica: Replica,
        *,
        clock: Callable[[], float],
        shrink_max: float = 0.02,
        observer: FollowerObserver | None = None,
        pause: Callable[[float], object] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._feed = feed
        self._replica = replica
        self._clock = clock
        self._shrink_max = shrink_max
        self._observer = observer or Unobserved()
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait
        self._rng = rng or random.Random()  # noqa: S311  (it protects nothing)
        self._course: _Course | None = None
        self._published: tuple[Revision, str] | None = None  # the last, and its position
        self._failures = 0  # since the feed last confirmed that nothing is missing

    def run(self) -> None:
        """Follow until `stop`. Whatever is raised on the way is handled here."""
        while not self._stopped.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  (a bug must not leave the replica alone)
                if not self._stopped.is_set():
                    with contextlib.suppress(Exception):  # of an observer or a listener
                        self._handle(error)
                    self._back_off()

    def stop(self) -> None:
        """End `run` soon, and close the feed. From any thread; may be called twice."""
        self._stopped.set()
        self._feed.close()

    def _step(self) -> None:
        course = self._course
        if course is None:
            self._show(Phase.LOADING)
            self._begin(self._feed.load())
        elif course.stuck:
            self._look_past(course)
        elif not self._read(course):
            self._pause(GATHER_S)

    def _begin(self, snapshot: Snapshot) -> None:
        """Set out anew from *snapshot*. The view in use stays in use."""
        self._observer.on_connected(True)
        view = self._replica.state.view
        if view is not None and view.revision.generation != snapshot.revision.generation:
            refuse_shrunken(snapshot, view.opt_outs, self._shrink_max)
        self._course = _Course(Register(snapshot), snapshot.position)
        self._show(Phase.CATCHING_UP)

    def _look_past(self, course: _Course) -> None:
        """Go on from a newer snapshot if there is one, else try the unreadable change again."""
        course.stuck = False
        with contextlib.suppress(FeedEmpty, SnapshotRefused):
            snapshot = self._feed.load()
            here, there = course.register.revision, snapshot.revision
            if here.generation != there.generation or here.seq < there.seq:
                self._observer.on_resync("CHANGE_REFUSED")
                self._begin(snapshot)

    def _read(self, course: _Course) -> bool:
        """Read and apply one batch. Returns whether the next is to be read at once."""
        # Taken before the question is sent: what the feed confirms was true later than this.
        asked_at = self._clock()
        wait_s = WAIT_S if course.live else 0.0
        batch = self._feed.read(course.register.revision, course.position, wait_s)
        arrived_at = self._clock()
        self._observer.on_connected(True)
        flips = course.register.apply(batch.changes)
        course.position = batch.position
        if batch.changes:
            self._observer.on_changes(Counter(change.kind for change in batch.changes))
        if not course.live and not batch.complete:
            self._suspend_early(course.register)
            return bool(batch.changes)
        self._publish(course, self._view(course, flips), asked_at if batch.complete else None)
        if batch.changes:
            self._observer.on_published(max(0.0, self._clock() - arrived_at))
        return False

    def _view(self, course: _Course, flips: Flips) -> View:
        revision, current = course.register.revision, self._replica.state.view
        if course.live and current is not None:
            return current if current.revision == revision else current.with_flips(flips, revision)
        self._prove_same_history(revision)
        return View.of(course.register.keys(), revision)

    def _prove_same_history(self, revision: Revision) -> None:
        """Raise HistoryChanged if the feed lost what this replica published in the same generation.

        After a fail-over to a server that lacked the last changes, a generation goes on with others
        under the same numbers. Only a load from the source, a new generation, can mend that.
        """
        if self._published is None or self._published[0].generation != revision.generation:
            return
        published, position = self._published
        if revision.seq < published.seq:
            raise HistoryChanged(
                f"The feed ends at change {revision.seq}, but had {published.seq}; load the "
                "register again with 'ndoo load'.",
                reason="BACKWARDS",
            )
        try:
            following = self._feed.read(published, position, 0.0).changes
        except ChangeRefused:
            return  # the one after it; this one was found
        except HistoryChanged as changed:
            if changed.reason in {"BACKWARDS", "REWRITTEN"}:
                raise
            return
        if following and following[0].seq <= published.seq:
            raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")

    def _publish(self, course: _Course, view: View, confirmed_at: float | None) -> None:
        """Put *view* in use, with what its own register says of suspension."""
        state = self._replica.state
        state = replace(state, view=view, suspended=course.register.suspended, trouble="")
        if confirmed_at is not None:
            self._failures = 0
            as_of = _later(state.as_of, confirmed_at)
            state = replace(state, phase=Phase.LIVE, as_of=as_of)
        self._published = (view.revision, course.position)
        self._replica.publish(state)
        course.live = True

    def _suspend_early(self, register: Register) -> None:
        """Stop answering from the view in use if a newer change says so, complete or not."""
        state = self._replica.state
        view, ahead = state.view, register.revision
        if view is None or not register.suspended or state.suspended:
            return
        if ahead.generation != view.revision.generation or ahead.seq > view.revision.seq:
            self._replica.publish(replace(state, suspended=True))

    def _handle(self, error: Exception) -> None:
        """Put the follower where it can go on after *error*, and tell of it."""
        course = self._course
        if course is not None and isinstance(error, ChangeRefused):
            course.stuck = True
            self._observer.on_refused(error.reason)
        elif not isinstance(error, FeedUnavailable):
            self._course = None  # it may be half-way through something
        self._show(Phase.CATCHING_UP if self._course else Phase.LOADING, _sentence(error))
        match error:
            case FeedUnavailable():
                self._observer.on_connected(False)
            case HistoryChanged() | SequenceBroken():
                self._observer.on_resync(error.reason)
            case SnapshotRefused():
                self._observer.on_refused(error.reason)
            case NdooError():
                pass
            case _:
                self._observer.on_resync("INTERNAL")

    def _show(self, phase: Phase, trouble: str | None = None) -> None:
        state = self._replica.state
        new = replace(state, phase=phase, trouble=state.trouble if trouble is None else trouble)
        if new != state:
            self._replica.publish(new)

    def _back_off(self) -> None:
        longest = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(self._failures, 16))
        self._failures += 1
        self._pause(longest * self._rng.uniform(0.5, 1.0))


def _later(as_of: float, confirmed_at: float) -> float:
    """*as_of* never goes back, unless it lies so far ahead that the clock was set back since."""
    return confirmed_at if as_of > confirmed_at + CLOCK_BACK_S_MAX else max(as_of, confirmed_at)


def _sentence(error: Exception) -> str:
    """What to tell of *error*. The text of an unexpected one is not shown: it may hold anything."""
    if isinstance(error, NdooError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {place.name}, line {place.lineno}"
    return f"Following the feed failed unexpectedly ({where}); the register is loaded again."
