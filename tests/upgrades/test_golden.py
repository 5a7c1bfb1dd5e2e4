"""What released versions wrote means today what it meant then.

Each folder of tests/golden tells the same story in each format; see `golden.make`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyroaring import BitMap

from golden import SUMS, VERSIONS, make, version
from ndoo.budgets.directory import DirectoryStore
from ndoo.budgets.open import open_store
from ndoo.errors import SnapshotRefused
from ndoo.feed import log
from ndoo.feed.state import Newest, StateDirectory
from ndoo.ops.audit_file import AuditFile, parts_of
from ndoo.ops.audit_log import AuditLog
from ndoo.ops.audit_verify import verify
from ndoo.publish.request import RequestRefused
from ndoo.register import snapshot as snapshots
from ndoo.register.signature import Verifier
from ndoo.revision import Revision
from ndoo.server.policy import read_policy
from ndoo.v1 import check_pb2
from support.auditing import RECORD, Counting
from support.people import KEYS, opt_out
from support.places import DirectoryHarm, Place, people_in
from support.redis_server import RedisServer

NOTICED_LATER_S = 60.0


def test_there_is_a_folder_of_the_first_version_and_of_this_one() -> None:
    names = [folder.name for folder in VERSIONS]
    assert names[0] == "0.1.0"
    assert names[-1] == version(), "write it: PYTHONPATH=tests .venv/bin/python -m golden"


def test_nothing_that_was_released_has_changed(folder: Path) -> None:
    assert (folder / SUMS).read_text("utf-8") == make.sums(folder)


def test_what_is_written_now_is_what_the_newest_folder_holds(
    tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    """A format that changes is a decision: after a release it needs another version."""
    make.make(tmp_path / "now", start_redis())
    for line in (VERSIONS[-1] / SUMS).read_text("utf-8").splitlines():
        name = line.split("  ")[1]
        was, now = (
            _without_comments(each / name) for each in (VERSIONS[-1], tmp_path / "now")
        )  # fmt: skip
        assert now == was, name


def _without_comments(path: Path) -> bytes:
    raw = path.read_bytes()
    return re.sub(rb"//.*|\s+", b"", raw) if path.suffix == ".proto" else raw


def test_messages_are_read_whole(folder: Path) -> None:
    for name, told in json.loads((folder / "wire.json").read_text("utf-8")).items():
        raw = bytes.fromhex(told)
        message = getattr(check_pb2, name.partition(" ")[0]).FromString(raw)
        assert message.SerializeToString(deterministic=True) == raw
        message.DiscardUnknownFields()
        assert message.SerializeToString(deterministic=True) == raw, "a field is not known today"


def test_tokens_name_the_same_revisions(folder: Path) -> None:
    told = json.loads((folder / "tokens.json").read_text("utf-8"))
    assert len(told) == len(make.REVISIONS)
    for token, (generation, seq) in told.items():
        assert Revision.from_token(token) == Revision(generation, seq)


def in_redis(folder: Path, redis_place: Place, redis_server: RedisServer) -> Place:
    make.restore(json.loads((folder / "redis.json").read_text("utf-8")), redis_server)
    return redis_place


def test_a_redis_is_followed_and_written_on(
    folder: Path, redis_place: Place, redis_server: RedisServer
) -> None:
    place = in_redis(folder, redis_place, redis_server)
    assert make.dump(redis_server) == json.loads((folder / "redis.json").read_text("utf-8"))
    _prove_feed(place)
    with contextlib.closing(open_store(place.url)) as store:
        granted = store.claim(replace(make.CLAIM, holder="replica-b", wanted=10**6))
    assert granted == (make.CLAIM.ceiling - make.CLAIM.wanted, make.CLAIM.ceiling)


def test_a_directory_is_followed_and_written_on(copy: Callable[[str], Path]) -> None:
    path = copy("directory")
    with contextlib.ExitStack() as stack:
        _prove_feed(Place(f"dir:{path}", DirectoryHarm(path), stack))


def _prove_feed(place: Place) -> None:
    """Raise AssertionError unless *place* tells the story, and can be told more."""
    feed, publisher = place.feed(), place.publisher()
    snapshot = feed.load()
    assert (snapshot.revision, snapshot.suspended) == (replace(make.REVISION, seq=5), True)
    assert snapshot.created_at == snapshot.began_at == make.NOW
    assert snapshot.links == ((KEYS[1], KEYS[40]),)
    told = list(feed.retained(make.GENERATION.hex))
    described = replace(make.DESCRIBED, seq=4, recorded_ms=told[-1].recorded_ms)
    assert described in told
    register = place.register()
    assert (people_in(register), register.suspended) == (make.PEOPLE, False)
    assert register.revision == make.REVISION
    repeated = publisher.append(make.REQUEST, request_id=make.REQUEST_ID)
    assert repeated == make.REQUEST_REVISION
    with pytest.raises(RequestRefused):
        publisher.append(make.REQUEST[:1], request_id=make.REQUEST_ID)
    publisher.append([opt_out(50)])
    publisher.snapshot()
    publisher.append([opt_out(51)])
    assert people_in(place.register()) == make.PEOPLE | {50, 51}


def test_a_signature_still_counts_and_its_absence_too(folder: Path) -> None:
    verifier = Verifier.of(str(folder / "signed.pem"))
    signed, plain = (
        log.decode_snapshot((folder / name).read_bytes()) for name in ("signed", "plain")
    )
    snapshot = snapshots.unpack(signed, verifier)
    assert snapshot.revision == make.REVISION
    assert snapshot.keys == BitMap([KEYS[person] for person in make.PEOPLE])
    assert snapshots.unpack(plain).keys == snapshot.keys
    with pytest.raises(SnapshotRefused) as refused:
        snapshots.unpack(plain, verifier)
    assert refused.value.reason == "SNAPSHOT_UNSIGNED"


def test_a_state_directory_is_started_from(copy: Callable[[str], Path]) -> None:
    with contextlib.closing(StateDirectory(copy("state"), make.FEED_NAME)) as state:
        kept = state.read(make.NOW_S + NOTICED_LATER_S)
        assert kept is not None
        assert kept.snapshot.keys == BitMap([KEYS[person] for person in make.PEOPLE])
        assert (kept.confirmed.as_of, kept.confirmed.suspended) == (make.CONFIRMED_S, False)
        assert kept.confirmed.reached.revision == make.REVISION
        assert state.read_newest() == Newest(make.REVISION, make.NOW_S)


def test_what_was_spent_stays_spent(copy: Callable[[str], Path]) -> None:
    with contextlib.closing(DirectoryStore(copy("budgets"))) as store:
        granted = store.claim(replace(make.CLAIM, holder="replica-b", wanted=10**6))
    assert granted == (make.CLAIM.ceiling - make.CLAIM.wanted, make.CLAIM.ceiling)


def test_audit_records_are_proven_and_gone_on_from(copy: Callable[[str], Path]) -> None:
    path = copy("audit") / "audit.jsonl"
    found = verify(parts_of(path))
    assert (found.broken, found.last.number) == (None, make.RECORDS)
    with contextlib.closing(AuditFile(path, 10**6)) as sink:
        written = AuditLog(sink, Counting(), required=True, clock=lambda: make.NOW_S)
        written.record(RECORD)
    found = verify(parts_of(path), [found.last, written.head])
    assert (found.broken, found.last.number) == (None, make.RECORDS + 2)


def test_a_policy_allows_what_it_allowed(folder: Path) -> None:
    clients = read_policy(folder / "clients.toml").clients
    assert set(clients) == {"cohort-builder", "clinic-letters", "operators"}
    letters = clients["clinic-letters"]
    assert (letters.rpcs, letters.purposes) == ({"Check", "BatchCheck"}, {"audit"})
    assert (letters.numbers_per_day, letters.numbers_per_message) == (20_000, 1_000)
    assert clients["cohort-builder"].reference_required
