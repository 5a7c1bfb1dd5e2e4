"""Writes one file of each format, by the real writers at a fixed time, so that they come out alike.

Every folder tells the same story, so that a test of one is a test of all: people 0 to 19 are
loaded; 30 opts out, 0 opts in and 1 gets the number of 40, in one request; 31 opts out; answers are
suspended and resumed; 32 opts out. Between them three snapshots are made, so that there are changes
that a snapshot holds, such that it does not, and a part of the log that was set aside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from golden import SUMS
from golden.messages import MESSAGES
from ndoo.budgets.directory import DirectoryStore
from ndoo.budgets.open import open_store
from ndoo.budgets.store import Claim
from ndoo.feed import log
from ndoo.feed.state import Confirmation, Newest, Reached, StateDirectory
from ndoo.feed.url import DirectoryUrl, open_feed
from ndoo.ops.audit_file import AuditFile
from ndoo.ops.audit_log import AuditLog
from ndoo.publish.directory import DirectoryPublisher
from ndoo.publish.fold import Folded, fold
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, Kind
from ndoo.revision import SEQ_MAX, Revision
from support.auditing import RECORD, Counting
from support.people import KEYS, opt_in, opt_out, supersede
from support.places import bitmap
from support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parent.parent.parent
NOW_S = 1_767_225_600.0
CONFIRMED_S = NOW_S + 2
NOW = "2026-01-01T00:00:00.000Z"
GENERATION = uuid.UUID("abcdefab-cdef-abcd-efab-cdefabcdefab")
BEHIND_ALL_CLOCKS = "4000000000000-0"
"""A stream that holds this id numbers its entries from here, whatever its server's clock shows."""

PEOPLE = {*range(1, 20), 30, 31, 32, 40}
REVISION = Revision(GENERATION.hex, 7)
REQUEST = [opt_out(30), opt_in(0), supersede(1, 40)]
REQUEST_ID, REQUEST_REVISION = "letter-of-monday", Revision(GENERATION.hex, 3)
DESCRIBED = Change(Kind.OPT_OUT, key=KEYS[31], at="2025-12-31T10:00:00Z", src="ONLINE")
CLAIM = Claim("letters", "2026-01-01", "replica-a", turn=1, held=0, wanted=500, ceiling=10_000)
FEED_NAME = "a feed"
REVISIONS = (REVISION, Revision("a", 0), Revision("Z_-9" * 16, SEQ_MAX))
RECORDS = 3  # that a file began, that a process did, and a call


def make(folder: Path, server: RedisServer) -> None:
    """Write *folder*, with the help of *server*, which holds nothing else."""
    folder.mkdir(parents=True)
    with (
        mock.patch("uuid.uuid4", return_value=GENERATION),
        mock.patch("ndoo.publish.fold.now", return_value=NOW),
    ):
        _redis(folder / "redis.json", server)
        folded = _directory(folder / "directory")
    _snapshots(folder, folded)
    _state(folder / "state", folded)
    _budgets(folder)
    _audit(folder / "audit")
    _texts(folder)
    shutil.copytree(ROOT / "proto", folder / "proto")
    (folder / SUMS).write_text(sums(folder), "utf-8")


def sums(folder: Path) -> str:
    """The digests of all files in *folder*, as `sha256sum` writes them."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path.as_posix()}\n"
        for path in paths
        if path.name != SUMS
    )


def dump(server: RedisServer) -> dict[str, object]:
    """All that *server* holds, each byte a character."""
    with server.client() as client:
        kinds = {key: client.type(key) for key in sorted(client.keys())}
        read = {b"stream": client.xrange, b"hash": client.hgetall, b"string": client.get}
        return {key.decode(): _as_text(read[kind](key)) for key, kind in kinds.items()}


def restore(held: dict[str, object], server: RedisServer) -> None:
    """Let *server* hold what `dump` told."""
    with server.client() as client:
        for key, value in held.items():
            match _as_bytes(value):
                case dict() as fields:
                    client.hset(key, mapping=fields)
                case list() as entries:
                    for entry_id, fields in entries:
                        client.xadd(key, fields, id=entry_id)
                case text:
                    client.set(key, text)


def _redis(path: Path, server: RedisServer) -> None:
    def rewind() -> None:
        with server.client() as client:
            client.xadd("{ndoo}:changes", {"": ""}, id=BEHIND_ALL_CLOCKS)
            client.xdel("{ndoo}:changes", BEHIND_ALL_CLOCKS)

    with contextlib.closing(open_publisher(server.url)) as publisher:
        for step in _story(publisher):
            if step == "loaded":
                rewind()
    with contextlib.closing(open_store(server.url)) as store:
        store.claim(CLAIM)
    path.write_text(json.dumps(dump(server), indent=2) + "\n", "utf-8")


def _directory(path: Path) -> Folded:
    url = DirectoryUrl(path)
    with contextlib.closing(DirectoryPublisher(url, lambda: NOW_S)) as publisher:
        list(_story(publisher))
    (path / log.LOCK).unlink()
    with contextlib.closing(open_feed(f"dir:{path}")) as feed:
        return fold(feed)


def _story(publisher: Publisher) -> Iterator[str]:
    publisher.load(bitmap(*range(20)))
    yield "loaded"
    publisher.append(REQUEST, request_id=REQUEST_ID)
    publisher.snapshot()
    publisher.append([DESCRIBED])
    publisher.snapshot()
    publisher.append([Change(Kind.SUSPEND)])
    publisher.snapshot()
    publisher.append([Change(Kind.RESUME), opt_out(32)])
    yield "told"


def _snapshots(folder: Path, folded: Folded) -> None:
    """One that is signed, by a key that is made of nothing secret, and one as another writer may
    leave it, who says only what is demanded.
    """
    snapshot = folded.register.snapshot(folded.position, NOW)
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"ndoo golden").digest())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "signed.pem").write_bytes(public)
    (folder / "signed").write_bytes(log.encode_snapshot(snapshots.pack(snapshot, key.sign)))
    packed = snapshots.pack(snapshot)
    demanded = ("format", "generation", "seq", "stream_id", "count", "sha256", "created_at")
    header = {name: json.loads(packed.header)[name] for name in demanded}
    plain = snapshots.Packed(json.dumps(header).encode(), packed.register, b"")
    (folder / "plain").write_bytes(log.encode_snapshot(plain))


def _state(path: Path, folded: Folded) -> None:
    register = folded.register
    reached = Reached(register.revision, folded.position, len(PEOPLE), register.last)
    with contextlib.closing(StateDirectory(path, FEED_NAME)) as state:
        digest = state.write_register(register.snapshot(folded.position, NOW), NOW_S)
        state.write_confirmation(
            Confirmation(digest, CONFIRMED_S, suspended=False, reached=reached)
        )
        state.write_newest(Newest(register.revision, NOW_S))


def _budgets(folder: Path) -> None:
    with contextlib.closing(DirectoryStore(folder / "budgets")) as store:
        store.claim(CLAIM)


def _audit(folder: Path) -> None:
    folder.mkdir()
    with contextlib.closing(AuditFile(folder / "audit.jsonl", 10**6)) as sink:
        AuditLog(sink, Counting(), required=True, clock=lambda: NOW_S).record(RECORD)
    (folder / "audit.jsonl.lock").unlink()


def _texts(folder: Path) -> None:
    wire = {
        name: message.SerializeToString(deterministic=True).hex()
        for name, message in MESSAGES.items()
    }
    tokens = {each.token: [each.generation, each.seq] for each in REVISIONS}
    for name, told in (("wire.json", wire), ("tokens.json", tokens)):
        (folder / name).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    shutil.copy(ROOT / "docs" / "clients.example.toml", folder / "clients.toml")


def _as_text(value: object) -> object:
    match value:
        case bytes():
            return value.decode("latin-1")
        case dict():
            return {_as_text(name): _as_text(each) for name, each in sorted(value.items())}
        case list() | tuple():
            return [_as_text(each) for each in value]
    return value


def _as_bytes(value: object) -> object:
    match value:
        case str():
            return value.encode("latin-1")
        case dict():
            return {_as_bytes(name): _as_bytes(each) for name, each in value.items()}
        case list():
            return [_as_bytes(each) for each in value]
    return value
