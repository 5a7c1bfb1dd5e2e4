"""The feed over Redis: a snapshot in a hash, changes in a stream, the writer's position in a head.

`XREAD` tells of new entries but proves nothing: past a trimmed or deleted entry it is silent. So
it serves as an alarm clock only, and what is returned comes from one transaction that looks at the
stream from the reader's own last entry on, at the head and at the stream's own record, all at one
moment. From these follows whether the history is still the one that was being read, and whether
there is nothing more.

The only module that imports the Redis client for reading. Errors of that client are never shown or
chained: their texts can hold whole commands, and so NHS numbers or a password.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry

from ndoo.errors import ChangeRefused, FeedUnavailable, SnapshotRefused
from ndoo.feed.feed import CHANGES_PER_READ_MAX, Batch, HistoryChanged, nothing_loaded
from ndoo.feed.url import PREFIX, RedisUrl
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, decode
from ndoo.register.snapshot import Packed, Snapshot
from ndoo.revision import Revision

START = "0-0"
"""The position before every entry."""

WAIT_S_MAX = 1.0
ANSWER_S_MAX = 5.0
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_ID_PART_MAX = 2**64 - 1
_ERROR_CODE = re.compile(r"(?:^|caused error: )([A-Z]{3,24})\b")  # a pipeline puts words before it

Id = tuple[int, int]
Entry = tuple[bytes, list[bytes]]


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the keys. The braces keep them in one slot of a cluster."""

    changes: str
    snapshot: str
    head: str

    @classmethod
    def of(cls, prefix: str) -> Keys:
        return cls(f"{{{prefix}}}:changes", f"{{{prefix}}}:snapshot", f"{{{prefix}}}:head")


def connect(url: RedisUrl, answer_s_max: float) -> redis.Redis:
    """A client that waits *answer_s_max* for an answer and retries nothing: what failed, the caller
    is to know. Protocol 2 has one shape of answers in every server and version of the client.
    """
    client = redis.Redis(
        host=url.host,
        port=url.port,
        db=url.database,
        username=url.user,
        password=url.password,
        ssl=url.tls,
        socket_timeout=answer_s_max,
        socket_connect_timeout=ANSWER_S_MAX,
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        decode_responses=False,
    )
    # As the server sends it: making a mapping of each entry is for whoever decodes it.
    client.set_response_callback("XRANGE", lambda entries, **_: entries)
    return client


def cause_of(error: Exception) -> str:
    """Why Redis cannot be used, in words that hold nothing of a command."""
    if isinstance(error, AuthenticationError):
        return "it refuses the user or password"
    if isinstance(error, redis.TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ResponseError):
        code = _ERROR_CODE.search(str(error))
        return f"it refuses the command ({code[1] if code else type(error).__name__})"
    return "there is no connection to it"


class RedisFeed:
    """See `ndoo.feed.feed.Feed`."""

    def __init__(
        self,
        url: RedisUrl,
        prefix: str = PREFIX,
        *,
        wait_s_max: float = WAIT_S_MAX,
        answer_s_max: float = ANSWER_S_MAX,
    ) -> None:
        self._url = url
        self._keys = Keys.of(prefix)
        self._wait_s_max = wait_s_max
        # A server that waits on our behalf is not late: its time to answer comes on top.
        self._client = connect(url, wait_s_max + answer_s_max)
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        return self._url.name

    def load(self) -> Snapshot:
        with self._errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hmget(self._keys.snapshot, ["header", "register", "links"])
            pipeline.hmget(self._keys.head, ["generation", "seq"])
            (header, register, links), (generation, _) = pipeline.execute()
        if header is None and register is None:
            raise nothing_loaded(self.name)
        packed = Packed(header or b"", register or b"", links or b"")
        return _verified(snapshots.unpack(packed), generation)

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        with self._errors():
            if wait_s > 0:
                self._wait(position, min(wait_s, self._wait_s_max))
            look = self._look(position)
        return look.batch(revision, position)

    def close(self) -> None:
        self._closed.set()
        self._client.connection_pool.disconnect(inuse_connections=True)

    def _wait(self, position: str, wait_s: float) -> None:
        wait_ms = max(1, int(wait_s * 1000))  # 0 would mean for ever
        self._client.xread({self._keys.changes: position}, count=1, block=wait_ms)

    def _look(self, position: str) -> _Look:
        pipeline = self._client.pipeline(transaction=True)
        # From our own last entry, inclusive: that it comes back proves the history.
        pipeline.xrange(self._keys.changes, min=position, count=CHANGES_PER_READ_MAX + 1)
        pipeline.hmget(self._keys.head, ["generation", "seq"])
        pipeline.execute_command(  # type: ignore[no-untyped-call]
            "XINFO", "STREAM", self._keys.changes
        )
        entries, head, info = pipeline.execute(raise_on_error=False)
        for reply in (entries, head):
            if isinstance(reply, Exception):
                raise reply
        return _Look.of(entries, head, info)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises FeedUnavailable for every error of the client, and for any once closed."""
        if self._closed.is_set():
            raise FeedUnavailable("The feed is closed.")
        try:
            yield
        except Exception as error:
            if self._closed.is_set():  # the connection was taken away in the middle of things
                raise FeedUnavailable("The feed is closed.") from None
            if not isinstance(error, RedisError | OSError):
                raise
            raise FeedUnavailable(f"{self.name} cannot be read: {cause_of(error)}.") from None


@dataclass(frozen=True, slots=True)
class _Look:
    """All that one transaction saw, at one moment."""

    entries: Sequence[Entry]  # from our position on, inclusive
    generation: str | None  # of the head, as its seq
    seq: int | None
    first_id: Id | None  # of the stream, if there is one
    last_id: Id | None  # the last ever given out in it

    @classmethod
    def of(cls, entries: Sequence[Entry], head: Sequence[bytes | None], info: Any) -> _Look:
        generation, seq = head
        first_id, last_id = _stream_ids(info)
        return cls(
            entries=entries,
            generation=None if generation is None else generation.decode("ascii", "replace"),
            seq=int(seq) if seq is not None and seq.isdigit() else None,
            first_id=first_id,
            last_id=last_id,
        )

    def batch(self, revision: Revision, position: str) -> Batch:
        """What to make of it, for a reader who reached *revision* at *position*."""
        if self.generation != revision.generation:
            raise HistoryChanged("The feed has started another history.", reason="OTHER_GENERATION")
        if self.seq is None:
            raise FeedUnavailable("The feed's head holds no sequence number in its field 'seq'.")
        entries = self._after_own(revision, position)
        changes, refused = _decode(entries[:CHANGES_PER_READ_MAX])
        if not changes and refused:
            raise refused
        if not changes:
            self._refuse_lost(self.seq, revision, position)
            return Batch((), position, complete=True)
        position = entries[len(changes) - 1][0].decode()
        ended = _id(position) == self.last_id  # none that was left out, or deleted, came after it
        return Batch(changes, position, complete=ended and self.seq <= changes[-1].seq)

    def _after_own(self, revision: Revision, position: str) -> Sequence[Entry]:
        """The entries after our own last one, which proves that this is the history we know."""
        if position == START:
            return self.entries
        own = _id(position)
        if self.last_id is None or self.last_id < own:
            raise HistoryChanged("The feed went back behind what was read.", reason="BACKWARDS")
        if self.entries and _id_of(self.entries[0]) == own:
            if _seq_of(self.entries[0]) != revision.seq:
                raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")
            return self.entries[1:]
        if self.first_id is not None and self.first_id < own:
            raise HistoryChanged(
                "A change that was read is no longer in the feed.", reason="REWRITTEN"
            )
        return self.entries  # ours was trimmed, as it may be: the sequence numbers will tell

    def _refuse_lost(self, head_seq: int, revision: Revision, position: str) -> None:
        """Raise HistoryChanged if there was something after *position*: there is nothing now."""
        if head_seq > revision.seq or (self.last_id is not None and self.last_id > _id(position)):
            raise HistoryChanged(
                f"Changes after {revision.seq} are no longer in the feed.", reason="TRIMMED"
            )


def _verified(snapshot: Snapshot, generation: bytes | None) -> Snapshot:
    """Raises SnapshotRefused unless the head and the position of *snapshot* make sense with it."""
    if generation is None or generation != snapshot.revision.generation.encode():
        raise SnapshotRefused(
            "The snapshot belongs to another history than the head; load again with 'ndoo load'.",
            reason="SNAPSHOT_GENERATION",
        )
    match = _ID.fullmatch(snapshot.position)
    if match is None or max(int(match[1]), int(match[2])) > _ID_PART_MAX:
        raise SnapshotRefused(
            "The snapshot's 'stream_id' is not the id of a stream entry; write a new one with "
            "'ndoo snapshot' or 'ndoo load'.",
            reason="SNAPSHOT_POSITION",
        )
    return snapshot


def _decode(entries: Sequence[Entry]) -> tuple[tuple[Change, ...], ChangeRefused | None]:
    """The changes up to the first that cannot be read, and the refusal of that one."""
    changes: list[Change] = []
    try:
        for entry in entries:
            changes.append(decode(_fields(entry)))  # noqa: PERF401  (those before a refusal count)
    except ChangeRefused as refused:
        return tuple(changes), refused
    return tuple(changes), None


def _seq_of(entry: Entry) -> int | None:
    try:
        return decode(_fields(entry)).seq
    except ChangeRefused:
        return None


def _fields(entry: Entry) -> dict[str, str]:
    """The fields of *entry* as texts. Raises ChangeRefused if they are not texts, or ambiguous."""
    entry_id, flat = entry
    flat = flat or []  # None stands for an entry that was deleted
    try:
        fields = dict(zip(map(bytes.decode, flat[::2]), map(bytes.decode, flat[1::2])))
    except UnicodeDecodeError:
        raise ChangeRefused(f"The entry {entry_id.decode()} is not UTF-8 text.") from None
    if len(fields) * 2 != len(flat):
        raise ChangeRefused(f"The entry {entry_id.decode()} holds a field twice.")
    return fields


def _stream_ids(info: Any) -> tuple[Id | None, Id | None]:
    """The first and the last id of a stream, from its XINFO; None where it does not exist."""
    if isinstance(info, ResponseError) and "no such key" in str(info):
        return None, None
    if isinstance(info, Exception):
        raise info
    facts = dict(zip(info[::2], info[1::2]))
    first = facts[b"first-entry"]
    return _id_of(first) if first else None, _id(facts[b"last-generated-id"].decode())


def _id_of(entry: Entry) -> Id:
    return _id(entry[0].decode())


def _id(text: str) -> Id:
    milliseconds, _, serial = text.partition("-")
    return int(milliseconds), int(serial)
