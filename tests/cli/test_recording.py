"""`ndoo record` when the feed fails: tried again where that is safe, and never recorded twice."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from client.people import valid_numbers
from ndoo.cli import record
from ndoo.errors import FeedUnavailable
from ndoo.feed.url import open_feed
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.fold import fold
from ndoo.publish.publisher import CHANGES_PER_STEP_MAX, Unconfirmed
from ndoo.publish.redis import RedisPublisher
from ndoo.register.register import Register
from support.redis_server import DURABLE, RedisServer

A, B, C, D = (f"{number:010d}" for number in valid_numbers(4).tolist())
FEED = "dir:feed"
ID = re.compile(r"Run it again with --request-id ([a-z]{20}) and nothing is recorded twice\.")

Fail = Callable[[Sequence[Exception], bool], list[str]]


def register(feed: str = FEED) -> Register:
    with contextlib.closing(open_feed(feed)) as reader:
        return fold(reader).register


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def _loaded(run, tmp_path) -> None:
    (tmp_path / "list.dat").write_text(f"{A}\n{B}\n")
    assert run("load", "list.dat", "--feed", FEED).exit_code == 0


@pytest.fixture
def fail(_loaded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fail]:
    """Has appending fail so often, after it was done or instead; tells the ids it was given."""

    def fail(errors: Sequence[Exception], done: bool) -> list[str]:
        real, left, ids = DirectoryPublisher.append, list(errors), []

        def append(self, changes, *, request_id="", after=None):
            ids.append(request_id)
            if not left:
                return real(self, changes, request_id=request_id, after=after)
            if done:
                real(self, changes, request_id=request_id, after=after)
            raise left.pop(0)

        monkeypatch.setattr(DirectoryPublisher, "append", append)
        return ids

    return fail


@pytest.mark.usefixtures("_loaded")
def test_the_same_request_id_records_nothing_twice(run):
    first = run("record", "opt_out", C, "--feed", FEED, "--request-id", "monday.1")
    assert run("record", "opt_in", C, "--feed", FEED).exit_code == 0
    again = run("record", "opt_out", C, "--feed", FEED, "--request-id", "monday.1")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert register().revision.seq == 2


@pytest.mark.usefixtures("_loaded")
def test_each_invocation_is_a_request_of_its_own(run):
    for _ in range(2):
        assert run("record", "opt_out", C, "--feed", FEED).exit_code == 0
    assert register().revision.seq == 2


@pytest.mark.usefixtures("_loaded")
def test_an_id_that_was_used_for_another_request_is_refused(run):
    assert run("record", "opt_out", C, "--feed", FEED, "--request-id", "x").exit_code == 0
    result = run("record", "opt_out", C, D, "--feed", FEED, "--request-id", "x")
    assert (result.exit_code, register().revision.seq) == (1, 1)
    assert "used for 1 changes" in result.stderr


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "9990000026", "a-999000002", "999-000-0026"])
@pytest.mark.usefixtures("_loaded")
def test_what_cannot_name_a_request_is_wrong_usage(run, bad):
    result = run("record", "opt_out", C, "--feed", FEED, "--request-id", bad)
    assert (result.exit_code, register().revision.seq) == (2, 0)
    assert "99900" not in result.stderr
    assert run("record", "suspend", "--feed", FEED, "--src", "999-000-0026").exit_code == 2


@pytest.mark.parametrize("done", [True, False])
def test_what_may_have_been_recorded_is_tried_again(run, fail, done):
    ids = fail([Unconfirmed("Unknown."), FeedUnavailable("Away."), Unconfirmed("Unknown.")], done)
    result = run("record", "opt_out", C, D, "--feed", FEED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert register().revision.seq == 2


def test_after_some_tries_the_id_is_told(run, fail):
    ids = fail([Unconfirmed("Unknown."), *[FeedUnavailable("Away.")] * 3], True)
    result = run("record", "opt_out", C, "--feed", FEED)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("Error: Unknown. Run it again")
    (request_id,) = ID.findall(result.stderr)
    assert set(ids) == {request_id}
    again = run("record", "opt_out", C, "--feed", FEED, "--request-id", request_id)
    assert (again.exit_code, register().revision.seq) == (0, 1)


def test_where_nothing_was_sent_nothing_is_tried_again(run, fail):
    ids = fail([FeedUnavailable("Away.")], False)
    result = run("record", "opt_out", C, "--feed", FEED)
    assert (result.exit_code, result.stderr) == (1, "Error: Away.\n")
    assert len(ids) == 1


def test_whoever_interrupts_it_is_told_the_id(run, fail, monkeypatch):
    def interrupted(*_arguments: object, **_named: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(DirectoryPublisher, "append", interrupted)
    result = run("record", "opt_out", C, "--feed", FEED)
    assert result.exit_code == 130
    assert ID.search(result.stderr)


def test_a_large_append_broken_off_is_finished_by_the_same_command(
    run, start_redis: Callable[..., RedisServer], monkeypatch, tmp_path
):
    server = start_redis(*DURABLE)
    numbers = [f"{number:010d}" for number in valid_numbers(3 * CHANGES_PER_STEP_MAX).tolist()]
    (tmp_path / "list.dat").write_text(numbers[0])
    assert run("load", "list.dat", "--feed", server.url).exit_code == 0
    real, steps = RedisPublisher._append_block, []

    def killed_before_the_third(self, *arguments):
        steps.append(1)
        if len(steps) == 3:
            server.kill()
        return real(self, *arguments)

    monkeypatch.setattr(RedisPublisher, "_append_block", killed_before_the_third)
    command = ("record", "opt_out", *numbers, "--feed", server.url)
    broken = run(*command)
    assert broken.exit_code == 1
    assert "(the 4,000 before them were)" in broken.stderr
    (request_id,) = ID.findall(broken.stderr)
    server.start()
    finished = run(*command, "--request-id", request_id)
    assert (finished.exit_code, finished.stdout.splitlines()[0]) == (0, "Recorded 6,000 changes.")
    made = register(server.url)
    assert (len(made), made.revision.seq) == (6000, 6000)
