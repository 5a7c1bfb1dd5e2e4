"""A writer may be killed at any point, and nobody is the wiser: readers get to the register as it
was before or after, the same request sent again is recorded once, and the next writer goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ndoo.errors import FeedEmpty
from ndoo.feed import log
from ndoo.feed.feed import HistoryChanged
from ndoo.publish import publisher as publishers
from ndoo.publish import redis as redis_publisher
from ndoo.register.changes import Change, Kind
from ndoo.register.register import Register
from support import crashing
from support.crashing import BLOCK, OPERATIONS, RECORDED
from support.people import opt_out
from support.places import DirectoryHarm, Place, people_in

PATIENCE_S = 30
BYSTANDER = 30

State = tuple[frozenset[int], bool] | None


class Crashes:
    """Has operations done by a process that is killed at a given step of them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process = subprocess.Popen(
            [sys.executable, crashing.__file__, place.url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    def crash(self, operation: str, step: int) -> bool:
        """Whether the process was killed; False if it had finished before that step."""
        settled = _settling(self._place)
        self._process.stdin.write(f"{operation} {step}\n")
        self._process.stdin.flush()
        outcome = self._process.stdout.readline().strip()
        assert outcome in {"killed", "finished"}, f"{operation}, step {step}: {outcome}"
        settled()
        return outcome == "killed"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def crashes(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashes]:
    for module in (publishers, redis_publisher):
        monkeypatch.setattr(module, "CHANGES_PER_STEP_MAX", BLOCK)
    with contextlib.closing(Crashes(place)) as crashes:
        yield crashes


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_killed_at_every_step(place: Place, crashes: Crashes, operation: str) -> None:
    _begin(place)
    _crash_everywhere(place, crashes, operation)


def test_killed_at_every_step_of_the_first_load(place: Place, crashes: Crashes) -> None:
    _crash_everywhere(place, crashes, "load")


def _crash_everywhere(place: Place, crashes: Crashes, operation: str) -> None:
    reset = _resetting(place)
    allowed = _allowed(place, operation)
    assert not crashes.crash(operation, 0)
    allowed.append(_state(place))
    reset()
    step = 1
    while True:
        reader = _Reader(place)
        if not crashes.crash(operation, step):
            break
        assert _state(place) in allowed, f"step {step}"
        assert reader.state() in allowed, f"step {step}"
        _go_on(place, operation, allowed[-1])
        _prove_tidy(place)
        reset()
        step += 1
    assert step > 4, "no crash point was found"


def _begin(place: Place) -> None:
    """A register with what a writer may meet: trimmed changes, ids of requests, a suspension."""
    publisher = place.loaded(0, 1)
    publisher.append([opt_out(2)], request_id="first")
    publisher.snapshot()
    publisher.append([Change(Kind.SUSPEND), opt_out(3)], request_id="second")
    publisher.snapshot()
    publisher.append([opt_out(4)])


def _allowed(place: Place, operation: str) -> list[State]:
    """What readers may find until all is done. Several changes come one after the other, over
    Redis so many at once; a load or a snapshot comes whole.
    """
    states = [_state(place)]
    if operation == "record several":
        register = place.register()
        size = BLOCK if place.url.startswith("redis") else 1
        for done in range(0, len(RECORDED), size):
            block = RECORDED[done : done + size]
            first = register.revision.seq + 1
            register.apply([replace(change, seq=seq) for seq, change in enumerate(block, first)])
            states.append(_state_of(register))
    return states


def _go_on(place: Place, operation: str, after: State) -> None:
    """Somebody else records a change; then what was broken off is asked for again."""
    publisher, seq = place.publisher(), 0
    if _state(place) is not None:
        seq = publisher.append([opt_out(BYSTANDER)]).seq
        after = (after[0] | {BYSTANDER}, after[1])
    OPERATIONS[operation](publisher)
    register = place.register()
    assert _state_of(register) == after
    if operation.startswith("record"):
        assert OPERATIONS[operation](place.publisher()).seq <= register.revision.seq
        assert place.register().revision == register.revision
        count = 1 if operation == "record" else len(RECORDED)
        assert register.revision.seq == 4 + 1 + count
        assert seq <= register.revision.seq


def _prove_tidy(place: Place) -> None:
    """What was left behind goes with the next snapshot, or by itself."""
    place.publisher().snapshot()
    if isinstance(place.harm, DirectoryHarm):
        path = place.harm.path
        assert not [each for each in path.iterdir() if log.is_temporary(each.name)]
        generation = log.generation_of(path)
        assert {each.generation for each in log.segments(path)} == {generation}
        return
    known = {b"{ndoo}:changes", b"{ndoo}:snapshot", b"{ndoo}:head"}
    others = set(place.harm.client.keys()) - known
    assert all(place.harm.client.ttl(key) > 0 for key in others)


class _Reader:
    """Somebody who was reading all along, and reads on."""

    def __init__(self, place: Place) -> None:
        self._feed = place.feed()
        with contextlib.suppress(FeedEmpty):
            self._begin()

    def _begin(self) -> None:
        self._register: Register | None = None
        snapshot = self._feed.load()
        self._register, self._position = Register(snapshot), snapshot.position

    def state(self) -> State:
        """What it gets to now; a history that has ended is loaded anew, as a follower does."""
        try:
            if self._register is None:
                self._begin()
            self._read()
        except FeedEmpty:
            return None
        except HistoryChanged:
            self._begin()
            self._read()
        return _state_of(self._register)

    def _read(self) -> None:
        complete = False
        while not complete:
            batch = self._feed.read(self._register.revision, self._position, 0.0)
            self._register.apply(batch.changes)
            self._position, complete = batch.position, batch.complete


def _state(place: Place) -> State:
    try:
        return _state_of(place.register())
    except FeedEmpty:
        return None


def _state_of(register: Register) -> State:
    return frozenset(people_in(register)), register.suspended


def _resetting(place: Place) -> Callable[[], None]:
    """Brings back what the feed holds now, as often as it is called."""
    if isinstance(place.harm, DirectoryHarm):
        path = place.harm.path
        kept = path.with_name("kept")
        kept.mkdir()
        if path.exists():
            shutil.copytree(path, kept, dirs_exist_ok=True)
        empty = not path.exists()

        def bring_back() -> None:
            shutil.rmtree(path, ignore_errors=True)
            if not empty:
                shutil.copytree(kept, path)

        return bring_back
    client = place.harm.client
    values = [(key, max(0, client.pttl(key)), client.dump(key)) for key in client.scan_iter()]

    def restore() -> None:
        client.flushall()
        for key, ttl_ms, value in values:
            client.restore(key, ttl_ms, value)

    return restore


def _settling(place: Place) -> Callable[[], None]:
    """Waits, when called, until the server has done with whoever connected since."""
    if isinstance(place.harm, DirectoryHarm):
        return lambda: None
    client = place.harm.client
    known = {each["id"] for each in client.client_list()}

    def settled() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not {each["id"] for each in client.client_list()} <= known:
            assert time.monotonic() < deadline

    return settled
