"""Who can write to the feed but not sign gets no register into use, neither forged nor old."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from ndoo.cli.main import commands
from ndoo.errors import SnapshotRefused
from ndoo.feed.feed import Feed
from ndoo.feed.signed import SignedFeed
from ndoo.feed.state import Newest, StateDirectory
from ndoo.feed.url import open_feed
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.seal import UNSIGNED, Seal
from ndoo.publish.source import Terms
from ndoo.register.replica import CLOCK_BACK_S_MAX
from ndoo.register.signature import Signer, Verifier
from ndoo.register.snapshot import unix_s
from ndoo.revision import Revision
from support.following import PATIENCE_S, Following
from support.people import opt_out
from support.places import Place, RedisHarm, bitmap
from support.scripted import people_seen
from support.signing import KeyPair

PEOPLE = {1, 2, 3}
NEW_PEOPLE = {1, 2, 3, 4}


class House:
    """One feed, a key that is trusted, and the state directory of a replica."""

    def __init__(self, place: Place, directory: Path, stack: contextlib.ExitStack) -> None:
        self.place = place
        self.pair = KeyPair(directory)
        self.refused: list[str] = []
        self._state = directory / "state"
        self._directory = directory
        self._stack = stack
        self.verify = Verifier.of(str(self.pair.public))
        self.seal = Seal(Signer(str(self.pair.key)).sign, self.verify)

    def publisher(self, seal: Seal | None = None) -> Publisher:
        publisher = open_publisher(self.place.url, seal=self.seal if seal is None else seal)
        return self._stack.enter_context(contextlib.closing(publisher))

    def load(self, *people: int, seal: Seal | None = None) -> Revision:
        return self.publisher(seal).load(bitmap(*people), Terms(accept_jump=True))

    @contextlib.contextmanager
    def replica(self, *, has_state: bool = True) -> Iterator[SignedFeed]:
        """The feed of a replica that starts now."""
        state = StateDirectory(self._state, "signed") if has_state else None
        feed = open_feed(self.place.url, verify=self.verify)
        signed = SignedFeed(feed, state, clock=time.time, refused=self.refused.append)
        with contextlib.closing(signed):
            yield signed
        if state is not None:
            state.close()

    @contextlib.contextmanager
    def following(self) -> Iterator[Following]:
        with self.replica() as feed, contextlib.closing(Following(feed)) as following:
            yield following

    def backup(self) -> Callable[[], None]:
        """Take one of all that the feed holds; returns how it is put back."""
        if isinstance(self.place.harm, RedisHarm):
            return _backup_of_redis(self.place.harm.client)
        return _backup_of_directory(self.place.harm.path, self._directory / "backup")


def _backup_of_redis(client: redis.Redis) -> Callable[[], None]:
    held = {key: client.dump(key) for key in client.keys("{ndoo}*")}

    def put_back() -> None:
        client.flushall()
        for key, raw in held.items():
            client.restore(key, 0, raw)

    return put_back


def _backup_of_directory(path: Path, copy: Path) -> Callable[[], None]:
    shutil.copytree(path, copy)

    def put_back() -> None:
        shutil.rmtree(path)
        shutil.copytree(copy, path)

    return put_back


@pytest.fixture
def house(place: Place, tmp_path: Path) -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        yield House(place, tmp_path, stack)


def reason_of(feed: Feed) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        feed.load()
    return refused.value.reason


def test_what_is_signed_is_followed(house: House) -> None:
    loaded = house.load(*PEOPLE)
    with house.following() as following:
        following.until_at(loaded)
        changed = house.publisher().append([opt_out(4)])
        following.until_at(changed)
        assert house.publisher().snapshot().revision == changed
    with house.following() as following:
        assert people_seen(following.until_at(changed)) == NEW_PEOPLE


def test_a_forged_register_changes_nothing_but_an_alarm(house: House, tmp_path: Path) -> None:
    stranger = Seal(Signer(str(KeyPair(tmp_path, "stranger").key)).sign)
    for forger, words, reason in (
        (UNSIGNED, "is not signed", "SNAPSHOT_UNSIGNED"),
        (stranger, "not signed by a key that is trusted", "SNAPSHOT_SIGNATURE"),
    ):
        loaded = house.load(*PEOPLE)
        with house.following() as following:
            following.until_at(loaded)
            house.load(9, seal=forger)
            state = following.until_trouble(words)
            assert people_seen(state) == PEOPLE
            assert state.view.revision == loaded
            assert following.observer.refused[-1] == reason
            mended = house.load(*PEOPLE)
            following.until_at(mended)
        house.load(9, seal=forger)
        with house.replica() as feed:
            assert reason_of(feed) == reason


def test_an_older_register_that_is_put_back_changes_nothing_but_an_alarm(house: House) -> None:
    house.load(1)
    put_back = house.backup()
    with house.replica() as feed:
        feed.load()
    loaded = house.load(*PEOPLE)
    with house.following() as following:
        following.until_at(loaded)
        put_back()
        state = following.until_trouble("older than one that was here before")
        assert people_seen(state) == PEOPLE
    with house.replica() as feed:
        assert reason_of(feed) == "SNAPSHOT_REPLAYED", "a restart forgets nothing"
    house.publisher().snapshot()
    with house.replica() as feed:
        assert reason_of(feed) == "SNAPSHOT_REPLAYED", "nor does a new signature make it newer"
    newest = house.load(*PEOPLE)
    with house.following() as following:
        following.until_at(newest)
    assert house.refused == []


def test_an_older_snapshot_of_the_same_generation_is_not_taken_either(house: House) -> None:
    house.load(*PEOPLE)
    put_back = house.backup()
    publisher = house.publisher()
    changed = publisher.append([opt_out(4)])
    publisher.snapshot()
    with house.following() as following:
        following.until_at(changed)
        put_back()
        state = following.until(lambda state: bool(state.trouble))
        assert people_seen(state) == NEW_PEOPLE
    with house.replica() as feed:
        assert reason_of(feed) == "SNAPSHOT_REPLAYED"


def test_a_follower_without_that_memory_still_goes_no_way_back(house: House) -> None:
    """Of what it has published itself."""
    house.load(*PEOPLE)
    put_back = house.backup()
    changed = house.publisher().append([opt_out(4)])
    with house.following() as following:
        following.until_at(changed)
        put_back()
        state = following.until(lambda state: bool(state.trouble))
        assert people_seen(state) == NEW_PEOPLE


def test_who_never_saw_the_newer_one_cannot_know(house: House) -> None:
    """What signatures alone leave open; docs/tls.md tells what closes it."""
    house.load(1)
    put_back = house.backup()
    house.load(*PEOPLE)
    put_back()
    with house.replica(has_state=False) as feed:
        assert len(feed.load().keys) == 1


def test_a_new_key_makes_all_that_the_old_one_signed_void(house: House, tmp_path: Path) -> None:
    house.load(1)
    house.verify = Verifier.of(str(KeyPair(tmp_path, "renewed").public))
    with house.replica(has_state=False) as feed:
        assert reason_of(feed) == "SNAPSHOT_SIGNATURE"


def test_nothing_forged_is_built_on_and_signed(house: House) -> None:
    house.load(*PEOPLE)
    house.load(9, seal=UNSIGNED)
    with pytest.raises(SnapshotRefused) as refused:
        house.publisher().snapshot()
    assert refused.value.reason == "SNAPSHOT_UNSIGNED"
    with house.replica() as feed:
        assert reason_of(feed) == "SNAPSHOT_UNSIGNED"


def test_a_snapshot_says_when_its_generation_began(house: House) -> None:
    house.load(*PEOPLE)
    with house.replica() as feed:
        began_at = feed.load().created_at
        publisher = house.publisher()
        for person in (4, 5):
            publisher.append([opt_out(person)])
            assert publisher.snapshot().began_at == began_at
        assert feed.load().began_at == began_at


class Scripted:
    """A feed with one snapshot."""

    def __init__(self, snapshot: object) -> None:
        self.load = lambda: snapshot


def test_a_moment_to_come_is_not_believed(house: House) -> None:
    house.load(*PEOPLE)
    with house.replica(has_state=False) as feed:
        snapshot = feed.load()
    later = unix_s(snapshot.created_at) - 61
    for clock, began_at in ((later, snapshot.began_at), (time.time(), "yesterday")):
        nonsense = replace(snapshot, began_at=began_at)
        feed = SignedFeed(Scripted(nonsense), None, clock=lambda at=clock: at, refused=print)
        assert reason_of(feed) == "SNAPSHOT_HEADER"
    unsaid = replace(snapshot, revision=Revision("g", 1), began_at="")
    feed = SignedFeed(Scripted(unsaid), None, clock=time.time, refused=print)
    assert reason_of(feed) == "SNAPSHOT_HEADER"


def test_what_was_seen_counts_whether_or_not_it_was_taken(house: House) -> None:
    """It tells that the one before is old, and people have opted out since; a load mends it."""
    house.load(*PEOPLE)
    put_back = house.backup()
    house.load(*NEW_PEOPLE)
    with house.replica() as feed:
        feed.load()
    put_back()
    with house.following() as following:
        assert following.until_trouble("older than one that was here before").view is None
        following.until_at(house.load(*NEW_PEOPLE))


def test_a_writer_whose_clock_is_ahead_delays_a_load_by_no_more_than_that(house: House) -> None:
    house.load(*PEOPLE)
    with house.replica(has_state=False) as feed:
        ahead = feed.load()
    now = unix_s(ahead.began_at) - CLOCK_BACK_S_MAX
    scripted = Scripted(ahead)
    signed = SignedFeed(scripted, None, clock=lambda: now, refused=print)
    assert signed.load() == ahead
    for seconds, is_older in ((CLOCK_BACK_S_MAX - 1, True), (CLOCK_BACK_S_MAX, False)):
        began_at = dt.datetime.fromtimestamp(now + seconds, dt.UTC).isoformat()
        later = replace(ahead, revision=Revision("later", 0), began_at=began_at)
        scripted.load = lambda at=later: at
        assert (reason_of(signed) if is_older else signed.load()) in ("SNAPSHOT_REPLAYED", later)


def test_a_memory_that_fails_is_told_and_stops_nothing(house: House, tmp_path: Path) -> None:
    house.load(*PEOPLE)
    note = tmp_path / "state" / "newest"
    with house.replica() as feed:
        feed.load()
        old = note.read_bytes()
        for raw, reason in ((b"damaged\n", "STATE_DAMAGED"), (b"", "STATE_DAMAGED")):
            note.write_bytes(raw)
            with house_of(feed) as again:
                again.load()
            assert house.refused.pop() == reason
            assert note.read_bytes() == old
        note.unlink()
        note.mkdir()
        with house_of(feed) as again:
            again.load()
            assert {house.refused.pop() for _ in range(2)} == {
                "STATE_UNREADABLE",
                "STATE_NOT_WRITTEN",
            }
            newest = again._newest
            again._newest = Newest(Revision("other", 0), newest.began_at + 1)
            assert reason_of(again) == "SNAPSHOT_REPLAYED", "this process remembers"
    foreign = StateDirectory(tmp_path / "foreign", "another")
    foreign.write_newest(newest)
    foreign.close()
    other = StateDirectory(tmp_path / "foreign", "signed")
    with contextlib.closing(open_feed(house.place.url, verify=house.verify)) as plain:
        SignedFeed(plain, other, clock=time.time, refused=house.refused.append).load()
    assert house.refused == ["STATE_FOREIGN"]
    assert other.read_newest() == newest


@contextlib.contextmanager
def house_of(feed: SignedFeed) -> Iterator[SignedFeed]:
    """As after a restart, over the same parts."""
    yield SignedFeed(feed._feed, feed._memory, clock=time.time, refused=feed._refused)


def test_from_the_command_line(
    directory_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, stranger = KeyPair(tmp_path), KeyPair(tmp_path, "stranger")
    monkeypatch.setenv("NDOO_FEED", directory_place.url)
    source = tmp_path / "source.dat"
    source.write_text("9990000018\n9990000026\n")

    def trouble_of(*arguments: object) -> str:
        ran = CliRunner().invoke(commands, [str(each) for each in arguments])
        return ran.stderr if ran.exit_code else ""

    monkeypatch.setenv("NDOO_SNAPSHOT_PUBLIC_KEY", str(pair.public))
    assert "--sign FILE" in trouble_of("load", source)
    assert "not among those" in trouble_of("load", source, "--sign", stranger.key)
    assert not trouble_of("load", source, "--sign", pair.key)
    assert not trouble_of("load", source, "--dry-run")
    assert "--sign FILE" in trouble_of("snapshot")
    monkeypatch.delenv("NDOO_SNAPSHOT_PUBLIC_KEY")
    assert not trouble_of("snapshot", "--sign", pair.key)
    assert "not signed by a key that is" in trouble_of("snapshot", "--sign", stranger.key)
    with _service(pair, tmp_path / "state") as phases:
        assert next(phases) == ("LIVE", "")
        assert not trouble_of("load", source), "unsigned, by somebody who has no key"
        assert any("is not signed" in trouble for _, trouble in phases)
    monkeypatch.setenv("NDOO_SNAPSHOT_PUBLIC_KEY", str(pair.public))
    assert trouble_of("load", source, "--dry-run"), "nothing of what is there is believed"


@contextlib.contextmanager
def _service(pair: KeyPair, state: Path) -> Iterator[Iterator[tuple[str, str]]]:
    """A service that demands signatures, and the phases that it tells of from its first register
    on.
    """
    command = [sys.executable, "-m", "ndoo", "serve", "--state-dir", state]
    options = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, *options, "--snapshot-public-key", pair.public],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        events = map(json.loads, process.stdout)
        phases = ((event["phase"], event["trouble"]) for event in events if "phase" in event)
        try:
            yield itertools.dropwhile(lambda phase: phase[0] != "LIVE", phases)
        finally:
            watchdog.cancel()
            process.kill()
