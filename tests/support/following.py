"""A follower in its thread, watched by somebody who knows what was recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ndoo.errors import FeedUnavailable
from ndoo.feed.feed import Feed
from ndoo.feed.follower import Follower
from ndoo.feed.redis import RedisFeed
from ndoo.feed.url import RedisUrl, parse
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind
from ndoo.register.replica import Phase, Replica, State
from ndoo.revision import Revision
from support.people import KEYS
from support.places import Place, bitmap, people_in
from support.scripted import Observer, people_seen

PATIENCE_S = 30
PEOPLE = 100


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask until it is so. For what only asking can tell."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline


class Following:
    """Every state that is published is shown to *judge*, in the follower's thread."""

    def __init__(self, feed: Feed, judge: Callable[[State], None] = lambda _: None) -> None:
        self.replica = Replica(3600.0)
        self.observer = Observer()
        self.broken: list[AssertionError] = []
        self._judge = judge
        self._news = threading.Condition()
        self.replica.listen(self._tell)
        self.follower = Follower(feed, self.replica, clock=time.time, observer=self.observer)
        self._thread = threading.Thread(target=self.follower.run)
        self._thread.start()

    def until(self, condition: Callable[[State], bool]) -> State:
        with self._news:
            assert self._news.wait_for(lambda: condition(self.replica.state), PATIENCE_S), (
                self.replica.state
            )
            return self.replica.state

    def until_at(self, revision: Revision) -> State:
        return self.until(
            lambda state: (
                state.phase is Phase.LIVE
                and state.view is not None
                and state.view.revision == revision
            )
        )

    def until_trouble(self, words: str) -> State:
        return self.until(lambda state: words in state.trouble)

    def until_confirmed(self) -> State:
        """Until the feed has confirmed something that was asked after now."""
        now = time.time()
        return self.until(lambda state: state.phase is Phase.LIVE and state.as_of > now)

    def close(self) -> None:
        self.follower.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert not self.broken, self.broken[0]

    def _tell(self, state: State) -> None:
        try:
            self._judge(state)
        except AssertionError as error:
            self.broken.append(error)
        with self._news:
            self._news.notify_all()


class Truth:
    """What was recorded, by one writer at a time: who was opted out at each revision, and when each
    change had been acknowledged. Histories that the feed lost are forgotten by `lose`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._people: dict[Revision, list[set[int]]] = {}
        self._acknowledged: dict[Revision, float] = {}
        self._early: list[tuple[Revision, set[int]]] = []
        self.revision = Revision("none", 0)
        self.people: set[int] = set()

    def begin(self, revision: Revision, people: set[int]) -> None:
        """A register of *people* was loaded."""
        with self._lock:
            self._expect(revision, people)
            self._acknowledged = {revision: time.time()}
            for each, seen in self._early:  # by a follower that was faster than the writer
                assert each != revision or seen == people

    def expect(self, change: Change) -> Revision:
        """*change* is about to be recorded."""
        with self._lock:
            person = {KEYS.index(change.key)}
            people = self.people | person if change.kind is Kind.OPT_OUT else self.people - person
            self._expect(Revision(self.revision.generation, self.revision.seq + 1), people)
            return self.revision

    def acknowledged(self, revision: Revision) -> None:
        """It was recorded at *revision*."""
        with self._lock:
            assert revision == self.revision
            self._acknowledged[revision] = time.time()

    def lose(self, revision: Revision) -> None:
        """The feed went back to *revision*: it holds nothing that was recorded later."""
        with self._lock:
            (self.people,) = self._people[revision]
            self.revision = revision
            self._acknowledged = {
                each: at for each, at in self._acknowledged.items() if each.seq <= revision.seq
            }

    def judge(self, state: State) -> None:
        """Raise AssertionError if *state* says what is not so."""
        if state.view is None:
            assert state.phase is not Phase.LIVE
            return
        revision = state.view.revision
        with self._lock:
            if all(each.generation != revision.generation for each in self._people):
                self._early.append((revision, people_seen(state)))
                return
            assert people_seen(state) in self._people.get(revision, []), "a wrong view"
            if revision.generation != self.revision.generation:
                return
            known = [each for each, at in self._acknowledged.items() if at < state.as_of]
        assert revision.seq >= max((each.seq for each in known), default=0), "as_of is too late"
        assert state.as_of <= time.time()

    def _expect(self, revision: Revision, people: set[int]) -> None:
        self.revision, self.people = revision, people
        self._people.setdefault(revision, []).append(people)


def impatient(url: str) -> RedisFeed:
    """A feed that takes a server for dead soon."""
    place = parse(url)
    assert isinstance(place, RedisUrl)
    return RedisFeed(place, wait_s_max=0.1, answer_s_max=0.25)


class Story:
    """A writer whose every step is known to *truth*."""

    def __init__(self, truth: Truth, place: Place) -> None:
        self.truth = truth
        self.place = place
        self.publisher = place.publisher()

    def load(self, *people: int) -> Revision:
        """Begin a generation with *people*, and whoever else the load finds in the old one."""
        revision = self.publisher.load(bitmap(*people), Terms(accept_jump=True))
        self.truth.begin(revision, people_in(self.place.register()))
        assert self.truth.people >= set(people)
        return revision

    def record(self, change: Change) -> Revision:
        self.truth.expect(change)
        revision = self.publisher.append([change])
        self.truth.acknowledged(revision)
        return revision

    def record_somehow(self, change: Change) -> Revision:
        """Try until it is recorded; nothing is, as long as an attempt fails."""
        self.truth.expect(change)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                revision = self.publisher.append([change])
            except FeedUnavailable:
                assert time.monotonic() < deadline
                continue
            self.truth.acknowledged(revision)
            return revision
