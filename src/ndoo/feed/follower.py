"""Keeps a replica as new as its feed: loads, catches up, follows, and mends whatever breaks.

    LOADING       the snapshot is being fetched and verified
    CATCHING_UP   the changes after it are being applied, to a register that nobody sees yet
    LIVE          the feed confirmed that nothing is missing; every batch is published as it comes

Whatever goes wrong, the last verified view stays published, with the moment it was last known to be
complete, and grows old until the replica refuses to answer from it. Nothing is ever stepped over: a
history that is not proven whole is loaded again, a change that cannot be read is waited for. The
only place that retries, never faster than its pauses allow.

With a keeper all this survives a restart. What an earlier process kept is gone on from where it
ended; it answers only when the feed does not, or not as it should, just as it would have done
without the restart.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from ndoo.errors import (
    ChangeRefused,
    FeedEmpty,
    FeedUnavailable,
    NdooError,
    SequenceBroken,
    SnapshotRefused,
)
from ndoo.feed.feed import Batch, Feed, HistoryChanged
from ndoo.feed.keeper import Keeper
from ndoo.feed.observer import FollowerObserver, Unobserved
from ndoo.feed.state import Kept, Reached
from ndoo.register.changes import Change
from ndoo.register.history import History
from ndoo.register.register import Flips, Register
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.snapshot import Snapshot, refuse_shrunken, unix_s
from ndoo.register.view import View
from ndoo.revision import Revision

WAIT_S = 0.5
"""How long a read waits for news: so often an idle replica confirms itself and notices a load."""

GATHER_S = 0.003
"""Pause after a publication, so that a trickle of changes is published in batches."""

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0

FIRST_ANSWER_S_MAX = 0.5
"""How long a kept register waits for the feed: a server that is gone can be silent for long."""

_LOGGER = logging.getLogger(__name__)  # handled like all events, see ops.logs


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Course:
    """How far the follower has come in one history."""

    register: Register
    position: str
    history: History
    live: bool = False  # the published view is this register
    stuck: bool = False  # the next change could not be read


class Follower:
    """Follows *feed* and publishes to *replica*; `run` it in a thread of its own.

    *clock* gives Unix seconds. *pause* waits so many seconds, and less once stopped. *rng* spreads
    the retries of many replicas. *keeper* keeps the register for the next start.
    """

    def __init__(
        self,
        feed: Feed,
        replica: Replica,
        *,
        clock: Callable[[], float],
        shrink_max: float = 0.02,
        history_s: float = 3600.0,
        observer: FollowerObserver | None = None,
        pause: Callable[[float], object] | None = None,
        rng: random.Random | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._feed = feed
        self._replica = replica
        self._clock = clock
        self._shrink_max = shrink_max
        self._history_s = history_s
        self._observer = observer or Unobserved()
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait
        self._rng = rng or random.Random()  # noqa: S311  (it protects nothing)
        self._course: _Course | None = None
        self._keeper = keeper
        self._kept: Kept | None = None  # until something is published
        self._reached: Reached | None = None  # what was published last, by an earlier process too
        self._replaced: set[str] = set()  # generations that were left, and may not come back
        self._failures = 0  # on end, or soon one after the other
        self._failed_at = 0.0
        self._faults: set[str] = set()

    def run(self) -> None:
        """Follow until `stop`. Whatever is raised on the way is handled here."""
        self._attempt(self._restore)
        while not self._stopped.is_set():
            self._attempt(self._step)
        self._keep(last=True)

    def stop(self) -> None:
        """End `run` soon, and close the feed. From any thread; may be called twice."""
        self._stopped.set()
        self._feed.close()

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  (a bug must not leave the replica alone)
            if not self._stopped.is_set():
                self._tell(self._handle, error)
                self._back_off()

    def _restore(self) -> None:
        """Set out from where an earlier process ended, if it kept that."""
        kept = self._keeper.restore() if self._keeper is not None else None
        if kept is not None:
            self._kept, self._reached = kept, kept.confirmed.reached
            self._course = self._course_from(kept.snapshot)
            self._show(Phase.CATCHING_UP)

    def _step(self) -> None:
        course = self._course
        if course is None:
            self._show(Phase.LOADING)
            self._begin(self._ask(self._feed.load))
        elif course.stuck:
            self._look_past(course)
        elif not self._read(course):
            self._pause(GATHER_S)

    def _begin(self, snapshot: Snapshot) -> None:
        """Set out anew from *snapshot*. The view in use stays in use."""
        self._tell(self._observer.on_connected, True)
        self._tell_snapshot(unix_s(snapshot.created_at))
        if snapshot.revision.generation in self._replaced:
            raise HistoryChanged(
                "The feed went back to a register that a load had replaced; load the register "
                "again with 'ndoo load'.",
                reason="BACKWARDS",
            )
        self._suspend_early(snapshot.revision, snapshot.suspended, at_end=False)
        reached = self._reached
        if reached is not None and reached.revision.generation != snapshot.revision.generation:
            refuse_shrunken(snapshot, reached.opt_outs, self._shrink_max)
        self._course = self._course_from(snapshot)
        self._show(Phase.CATCHING_UP)

    def _course_from(self, snapshot: Snapshot) -> _Course:
        history = History(snapshot.revision, self._history_s)
        return _Course(Register(snapshot), snapshot.position, history)

    def _look_past(self, course: _Course) -> None:
        """Go on from a newer snapshot if there is one, else try the unreadable change again."""
        course.stuck = False
        try:
            snapshot = self._feed.load()
        except (FeedEmpty, SnapshotRefused):
            return
        here, there = course.register.revision, snapshot.revision
        if here.generation != there.generation or here.seq < there.seq:
            self._begin(snapshot)
            self._tell(self._observer.on_resync, "CHANGE_REFUSED")

    def _read(self, course: _Course) -> bool:
        """Read and apply one batch. Returns whether the next is to be read at once."""
        # Taken before the question is sent: what the feed confirms was true later than this.
        asked_at = self._clock()
        was_live = course.live
        wait_s = WAIT_S if was_live else 0.0
        register = course.register
        batch = self._look(register.revision, course.position, register.last, wait_s)
        arrived_at = self._clock()
        complete = batch.complete and asked_at <= arrived_at  # else the clock was set back between
        self._tell(self._observer.on_connected, True)
        flips = register.apply(batch.changes)
        course.history.record(batch.changes, flips)
        course.position = batch.position
        self._tell(self._observer.on_behind, batch.behind)
        self._tell_snapshot(batch.snapshot_at)
        if batch.changes:
            counts = Counter(change.kind for change in batch.changes)
            recorded_at = batch.changes[-1].recorded_ms / 1000
            self._tell(self._observer.on_changes, counts, recorded_at)
        if not course.live:
            self._suspend_early(register.revision, register.suspended, batch.complete)
            if not complete:
                return bool(batch.changes)
        self._publish(course, self._view(course, flips), asked_at if complete else None)
        if batch.changes and was_live:
            seconds = max(0.0, self._clock() - arrived_at)
            self._tell(self._observer.on_published, seconds)
        return False

    def _look(self, revision: Revision, position: str, last: Change | None, wait_s: float) -> Batch:
        """Read on after *last*, which may stand there no more, though its number and id do."""
        read = functools.partial(self._feed.read, revision, position, wait_s)
        return self._ask(read).after(last)

    def _ask(self, question: Callable[[], T]) -> T:
        """What the feed answers to *question*. A kept register does not wait for it long."""
        if self._kept is None:
            return question()
        with futures.ThreadPoolExecutor(1, "first-answer") as helper:
            answer = helper.submit(question)
            if not futures.wait({answer}, FIRST_ANSWER_S_MAX).done:
                self._show_trouble("The feed has not answered yet.")
            return answer.result()

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
        reached = self._reached
        if reached is None or reached.revision.generation != revision.generation:
            return
        published = reached.revision
        if revision.seq < published.seq:
            raise HistoryChanged(
                f"The feed ends at change {revision.seq}, but had {published.seq}; load the "
                "register again with 'ndoo load'.",
                reason="BACKWARDS",
            )
        try:
            following = self._look(published, reached.position, reached.last, 0.0).changes
        except ChangeRefused:
            return  # the one after it; this one was found
        except HistoryChanged as changed:
            if changed.reason != "TRIMMED":
                raise  # a generation that has begun meanwhile proves nothing of this one either
            return
        if following and following[0].seq <= published.seq:
            raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")

    def _publish(self, course: _Course, view: View, confirmed_at: float | None) -> None:
        """Put *view* in use, with what its own register says of suspension."""
        state = self._replica.state
        suspended = course.register.suspended
        if confirmed_at is not None:
            state = self._confirm(course, state, confirmed_at)
        state = replace(state, view=view, history=course.history, suspended=suspended)
        before = self._reached
        if before is not None and before.revision.generation != view.revision.generation:
            self._replaced.add(before.revision.generation)
        last = course.register.last
        self._reached = Reached(view.revision, course.position, view.opt_outs, last)
        self._kept = None
        self._put(state)
        course.live = True
        self._keep()

    def _confirm(self, course: _Course, state: State, confirmed_at: float) -> State:
        """*state*, confirmed by the feed to lack nothing that there was at *confirmed_at*."""
        as_of, era = max(state.as_of, confirmed_at), state.era
        if self._replica.clock_was_set_back(self._clock()):
            as_of, era = confirmed_at, era + 1
            # Nobody knows how old its moments are.
            course.history = History(course.register.revision, self._history_s)
        course.history.confirm(course.register.revision.seq, confirmed_at)
        # A feed that confirms and breaks by turns is not asked, nor loaded, without a pause.
        if abs(confirmed_at - self._failed_at) > BACKOFF_S_MAX:
            self._failures = 0
        return replace(state, phase=Phase.LIVE, as_of=as_of, era=era, trouble="")

    def _suspend_early(self, ahead: Revision, suspended: bool, at_end: bool) -> None:
        """Stop answering from the view in use if the feed says so at *ahead*, which is not in use
        yet, and may never be: if that is newer, or all that the feed has.
        """
        state, reached = self._replica.state, self._reached
        if reached is None or not suspended or state.suspended:
            return
        is_older = (
            ahead.generation == reached.revision.generation and ahead.seq <= reached.revision.seq
        )
        if at_end or not is_older:
            self._put(replace(state, suspended=True))

    def _handle(self, error: Exception) -> None:
        """Put the follower where it can go on after *error*, and tell of it."""
        course = self._course
        if course is not None and isinstance(error, ChangeRefused):
            course.stuck = True
            self._tell(self._observer.on_behind, error.behind)
            self._tell(self._observer.on_refused, error.reason)
        elif not isinstance(error, FeedUnavailable):
            self._course = None  # it may be half-way through something
        match error:
            case FeedUnavailable():
                self._tell(self._observer.on_connected, False)
            case HistoryChanged() | SequenceBroken():
                self._tell(self._observer.on_resync, error.reason)
            case SnapshotRefused():
                self._tell(self._observer.on_refused, error.reason)
            case NdooError():
                pass
            case _:
                self._tell(self._observer.on_resync, "INTERNAL")
        self._show_trouble(_sentence(error))

    def _show(self, phase: Phase) -> None:
        self._put(replace(self._replica.state, phase=phase))

    def _show_trouble(self, trouble: str) -> None:
        """Tell of *trouble*. From the first on, a kept register answers, as old as it is."""
        phase = Phase.CATCHING_UP if self._course else Phase.LOADING
        state = replace(self._replica.state, phase=phase, trouble=trouble)
        kept, self._kept = self._kept, None
        if kept is not None:
            state = replace(
                state,
                view=_view_of(kept.snapshot),
                as_of=kept.confirmed.as_of,
                suspended=state.suspended or kept.confirmed.suspended or kept.snapshot.suspended,
            )
        self._put(state)

    def _put(self, state: State) -> None:
        """Put *state* in place, if it is news, and have it kept."""
        if state != self._replica.state:
            self._tell(self._replica.publish, state)
        if self._keeper is not None and self._reached is not None:
            self._tell(self._keeper.note, state, self._reached)

    def _keep(self, *, last: bool = False) -> None:
        """Hand the register that is in use to the keeper."""
        course, as_of = self._course, self._replica.state.as_of
        if self._keeper is not None and course is not None and course.live:
            self._tell(self._keeper.offer, course.register, course.position, as_of, last=last)

    def _tell(self, listener: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call *listener*. Its faults do not disturb the following; each kind is logged once."""
        try:
            listener(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001
            name = type(fault).__name__
            if name not in self._faults:
                self._faults.add(name)
                _LOGGER.log(logging.ERROR, "follower_fault", extra={"fields": {"error": name}})

    def _tell_snapshot(self, made_at: float | None) -> None:
        if made_at is not None:
            self._tell(self._observer.on_snapshot, made_at)

    def _back_off(self) -> None:
        longest = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(self._failures, 16))
        self._failures += 1
        self._failed_at = self._clock()
        self._pause(longest * self._rng.uniform(0.5, 1.0))


def _view_of(snapshot: Snapshot) -> View:
    return View.of(np.array(snapshot.keys.to_array(), dtype=np.uint32), snapshot.revision)


def _sentence(error: Exception) -> str:
    """What to tell of *error*. The text of an unexpected one is not shown: it may hold anything."""
    if isinstance(error, NdooError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {place.name}, line {place.lineno}"
    return f"Following the feed failed unexpectedly ({where}); the register is loaded again."
