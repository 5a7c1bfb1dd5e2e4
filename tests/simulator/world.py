"""One simulated world: a feed's storage, replicas that follow it, writers, an operator, and faults.

A run has two halves. In the first everything goes wrong that the seed has in store; in the second
nothing does, and every replica has to become LIVE at the newest revision, by itself where the
history it knows is still there, and after a load where it is not.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

from pyroaring import BitMap

from ndoo.errors import FeedUnavailable, NdooError
from ndoo.feed import follower, keeper
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, decode
from ndoo.revision import Revision
from simulator.clocks import Clock
from simulator.directory_storage import DirectoryStorage
from simulator.disk import Disk
from simulator.network import Link
from simulator.oracle import Oracle
from simulator.redis_storage import RedisStorage
from simulator.replicas import Follow, Outcome
from simulator.schedule import EPOCH_S, Actor, Helpers, Schedule
from simulator.storage import ALWAYS_OUT, PEOPLE
from simulator.truth import Truth

REPLICAS = 3
KEEPERS = 2
"""So many of the replicas have a state directory."""

WRITERS = 2
RETRIES_MAX = 6
CHAOS_S = 40.0
ASKED_EVERY_S = 0.5
RECOVERY_S_MAX = 40.0
TRACE_LINES_MAX = 40
FAULTS_PER_RUN = (3, 7)
KEEP_S = 5.0
CONFIRM_S = 1.0
"""As fast as the rest of this short life."""

logging.getLogger("ndoo").addHandler(logging.NullHandler())  # faults are logged by the thousand


class World:
    """Everything, made of one *seed*."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.rng = random.Random(seed)
        self.outcome = Outcome(seed)
        self.schedule = Schedule(random.Random(self.rng.random()))
        self.truth = Truth()
        self.links: dict[Actor, Link] = {}
        self.quiet = False
        self._last_fired = ""
        self._lives = 0  # of writers
        self.writing = 0  # so many writers are at work
        self.disk = Disk(self.schedule, self.rng, directory, self.fired)
        self.storage = self._storage(seed)
        self.follows = [self._follow(index) for index in range(REPLICAS)]
        self.writers: dict[int | str, Actor] = {}
        self.unfinished: dict[int, tuple[str, list[Change]]] = {}

    def _storage(self, seed: int) -> RedisStorage | DirectoryStorage:
        if seed % 2:
            storage = RedisStorage(self.schedule, self.rng, self.truth, self.fired)
            self.links = storage.server.links
            return storage
        return DirectoryStorage(self.schedule, self.rng, self.truth, self.fired, self.disk)

    def _follow(self, index: int) -> Follow:
        name = f"replica {index}"
        clock = Clock(self.schedule, self.rng.uniform(-5.0, 5.0))
        retained_from = self.storage.retained_from
        oracle = Oracle(name, self.truth, clock, retained_from, self.outcome.wrong)
        state = Path(self.disk.root) / f"state-{index}" if index < KEEPERS else None
        return Follow(self, name, clock, Link(self.fired), oracle, state)

    def fired(self, fault: str) -> None:
        self.outcome.fired[fault] += 1
        if fault != self._last_fired:
            self.tell(f"FAULT {fault}")
        self._last_fired = fault

    def publisher(self) -> Publisher:
        publisher = open_publisher(self.storage.url)
        publisher._clock = lambda: EPOCH_S + self.schedule.now
        return publisher

    def tell(self, what: str) -> None:
        self.outcome.trace.append(f"{self.schedule.now:8.3f} s  {what}")

    def start(self, name: str, link: Link, body: Callable[[], None]) -> Actor:
        actor = self.schedule.start(name, body)
        self.links[actor] = link
        return actor

    # --- those who write --------------------------------------------------------------------------

    def start_writer(self, index: int) -> None:
        """A process that records choices. What an earlier one left undone it sends again."""

        def live() -> None:
            with contextlib.closing(self.publisher()) as publisher:
                for number in range(10**6):
                    self.schedule.sleep(self.rng.expovariate(1.2))
                    if self.quiet:
                        return
                    if self.schedule.now < self.storage.rest_until:
                        continue
                    request = self.unfinished.pop(index, None) or self._request(f"{life}-{number}")
                    self.unfinished[index] = request
                    self.attempt(functools.partial(self._append, publisher, *request))
                    del self.unfinished[index]

        life = f"w{self._lives}"
        self._lives += 1
        self.writers[index] = self.start(f"writer {index}", Link(self.fired), live)

    def attempt(self, act: Callable[[], None]) -> bool:
        """Do *act* as a writing process; errors are what a caller would be told."""
        if self.writing:
            self.outcome.fired["two writers at once"] += 1
        self.writing += 1
        try:
            act()
        except NdooError as error:
            self.outcome.counts["writes refused"] += 1
            self.tell(f"{self.schedule.current.name} was refused: {error.reason}")
            return False
        finally:
            self.writing -= 1
        return True

    def _request(self, name: str) -> tuple[str, list[Change]]:
        count = self.rng.choice((1, 1, 2, 5))
        return name, [
            decode(self.storage.some_change(1, f"{name}-{index}")) for index in range(count)
        ]

    def _append(self, publisher: Publisher, name: str, changes: list[Change]) -> None:
        """Record *changes*, and when it is unknown whether they were, say so again."""
        for _ in range(RETRIES_MAX):
            try:
                revision = publisher.append(changes, request_id=name)
            except FeedUnavailable:
                self.schedule.sleep(self.rng.uniform(0.1, 2.0))
            else:
                self._acknowledged(revision, changes)
                return

    def _acknowledged(self, revision: Revision, changes: list[Change]) -> None:
        """What a writer was told is recorded has to be there."""
        self.outcome.counts["changes acknowledged"] += len(changes)
        nodes = self.truth.nodes.get((revision.generation, revision.seq), [])
        recorded = {each.tag for node in nodes for each in node.line()}
        recorded |= self.storage.beyond_damage
        if not {change.src for change in changes} <= recorded:
            self.outcome.wrong.append(f"{revision.seq} was acknowledged and lacks its changes")

    def operate(self) -> None:
        """An operator's day: snapshots, and now and then a load."""
        with contextlib.closing(self.publisher()) as publisher:
            while not self.quiet:
                self.schedule.sleep(self.rng.uniform(1.0, 6.0))
                if self.rng.random() < 0.2 or (self.storage.damaged and self.rng.random() < 0.4):
                    self.attempt(lambda: self.load(publisher))
                else:
                    self.attempt(publisher.snapshot)

    def load(self, publisher: Publisher) -> None:
        tip = self.truth.tip
        out = tip.out if tip else frozenset[int]()
        publisher.load(ALWAYS_OUT | BitMap(out), Terms(accept_jump=True))
        self.tell("loaded")

    # --- the run ----------------------------------------------------------------------------------

    def run(self, faults: Mapping[str, Callable[[World], bool]]) -> Outcome:
        with self._in_place():
            try:
                self._run(faults)
            except AssertionError as error:
                self.outcome.wrong.append(str(error))
            finally:
                self.schedule.end()
                self._tidy_up()
        self._judge_the_run()
        return self.outcome

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """The real code meets this world while in here."""
        helpers = Helpers(self.schedule, self._help)
        with (
            self.schedule.in_place(),
            self.disk.in_place(),
            self.storage.in_place(),
            mock.patch.object(follower, "futures", helpers),
            mock.patch.object(keeper, "KEEP_S", KEEP_S),
            mock.patch.object(keeper, "CONFIRM_S", CONFIRM_S),
        ):
            yield

    def _help(self, body: Callable[[], None]) -> None:
        for follow in self.follows:
            follow.help_if_current(body)

    def _tidy_up(self) -> None:
        """Collect what killed processes left while nothing of it can reach the world."""
        if isinstance(self.storage, RedisStorage):
            self.storage.server.over = True
        gc.collect()

    def _run(self, faults: Mapping[str, Callable[[World], bool]]) -> None:
        first = self.start("operator", Link(self.fired), self._first_load)
        while not first.done:
            self.schedule.sleep(0.1)
        for follow in self.follows:
            follow.start()
        for index in range(WRITERS):
            self.start_writer(index)
        self.writers["operator"] = self.start("operator", Link(self.fired), self.operate)
        self._chaos(self._plan(faults))
        self._calm()

    def _first_load(self) -> None:
        with contextlib.closing(self.publisher()) as publisher:
            publisher.load(ALWAYS_OUT | BitMap(self.rng.sample(sorted(PEOPLE), 10)))

    def _plan(
        self, faults: Mapping[str, Callable[[World], bool]]
    ) -> list[tuple[float, str, Callable[[World], bool]]]:
        """Which faults strike when. Each seed is sure to try one, so that all are tried."""
        names = list(faults)
        chosen = [names[self.outcome.seed // 2 % len(names)]]
        chosen += self.rng.choices(names, k=self.rng.randint(*FAULTS_PER_RUN))
        moments = sorted(self.rng.uniform(2.0, CHAOS_S - 5.0) for _ in chosen)
        self.rng.shuffle(chosen)
        return [(moment, name, faults[name]) for moment, name in zip(moments, chosen)]

    def _chaos(self, plan: list[tuple[float, str, Callable[[World], bool]]]) -> None:
        while self.schedule.now < CHAOS_S:
            self.step()
            if plan and self.schedule.now >= plan[0][0]:
                moment, name, fault = plan.pop(0)
                if fault(self):
                    self.tell(f"      {name}: all is set for it")
                elif self.schedule.now < moment + 8.0:
                    plan.insert(0, (moment, name, fault))
            if self.rng.random() < 0.15:
                self.storage.keep_copy()
            for index in range(WRITERS):
                if self.writers[index].done:
                    self.start_writer(index)

    def step(self) -> None:
        """Let some time pass, and ask every replica about everybody."""
        self.schedule.sleep(self.rng.uniform(0.5, 1.5) * ASKED_EVERY_S)
        for follow in self.follows:
            follow.oracle.ask(follow.replica)

    def _calm(self) -> None:
        """No more faults: everybody has to recover."""
        self.quiet = True
        storage = self.storage
        storage.untamper()
        if isinstance(storage, RedisStorage):
            storage.come_back()
        self.disk.full = ""
        for follow in self.follows:
            follow.link.slow = False
            follow.link.armed.clear()
        self.tell("calm")
        if not self._wait_until(lambda: all(follow.is_right for follow in self.follows)):
            for follow in self.follows:
                if not follow.is_right and follow.can_mend_itself:
                    self._not_recovered(follow)
            self._load_from_the_source()

    def _load_from_the_source(self) -> None:
        """What is lost has to be loaded again; then all is well."""
        self.outcome.counts["mended by a load"] += 1

        def live() -> None:
            with contextlib.closing(self.publisher()) as publisher:
                while not self.attempt(lambda: self.load(publisher)):
                    self.schedule.sleep(1.0)

        self.start("operator", Link(self.fired), live)
        if not self._wait_until(lambda: all(follow.is_right for follow in self.follows)):
            for follow in self.follows:
                if not follow.is_right:
                    self._not_recovered(follow)

    def _wait_until(self, reached: Callable[[], bool]) -> bool:
        deadline = self.schedule.now + RECOVERY_S_MAX
        while self.schedule.now < deadline:
            self.step()
            if reached():
                return True
        return False

    def _not_recovered(self, follow: Follow) -> None:
        state = follow.replica.state
        where = state.view.revision.seq if state.view else "nowhere"
        self.outcome.wrong.append(
            f"{follow.name} did not recover: {state.phase.name} at {where}, {state.trouble!r}"
        )

    def _judge_the_run(self) -> None:
        outcome = self.outcome
        outcome.simulated_s = self.schedule.now
        outcome.wrong += self.storage.wrong
        outcome.wrong += [f"raised: {error!r}" for error in self.schedule.failures]
        for follow in self.follows:
            outcome.counts["answered"] += follow.oracle.answered
            outcome.counts["refused"] += follow.oracle.refused
            outcome.counts["answered of the past"] += follow.oracle.answered_past
            outcome.counts["beyond proof"] += follow.oracle.beyond_proof
        tags = self._tags()
        if len(tags) != len(set(tags)) and not self.storage.requests_forgotten:
            outcome.wrong.append("a change was recorded twice")
        outcome.trace = outcome.trace[-TRACE_LINES_MAX:]

    def _tags(self) -> list[str]:
        """The changes that writers made in the last history. Those that it began with a load has
        put there, which may tell a choice both as standing and as made meanwhile.
        """
        line = self.truth.tip.line() if self.truth.tip else []
        return [
            node.tag
            for node in line
            if node.tag.startswith("w") and node.recorded_at > line[-1].recorded_at
        ]


def simulate(seed: int, faults: Callable[[int], Mapping[str, Callable[[World], bool]]]) -> Outcome:
    """Run the world of *seed*."""
    with _no_garbage_collected_meanwhile():
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
            return World(seed, Path(directory)).run(faults(seed))


@contextlib.contextmanager
def _no_garbage_collected_meanwhile() -> Iterator[None]:
    """What is finalised acts in whichever actor's turn it comes, so worlds collect at their end."""
    _leave_out_what_was_there()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@functools.cache
def _leave_out_what_was_there() -> None:
    """Worlds that collect do not go through all that other tests of this process have left."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries take it for leaked at the end
