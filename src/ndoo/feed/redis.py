"""The feed over Redis: a snapshot in a hash, changes in a stream, the writer's position in a head.

`XREAD` tells of new entries but proves nothing: past a trimmed or deleted entry it is silent. So
it serves as an alarm clock only, and what is returned comes from one transaction that looks at the
stream from the reader's own last entry on, at the head and at the stream's own record, all at one
moment. From these follows whether the history is still the one that was being read, and whether
there is nothing more.

Only a master is read, and asked in the same transaction whether it is one.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from ndoo.errors import ChangeRefused, FeedUnavailable, SnapshotRefused
from ndoo.feed.connection import Unreachable, cause_of
from ndoo.feed.feed import (
    CHANGES_PER_READ_MAX,
    UNREADABLE,
    Batch,
    HistoryChanged,
    nothing_loaded,
    other_history,
)
from ndoo.feed.master import Master, Moved
from ndoo.feed.url import PREFIX, RedisUrl
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, decode, seq_of
from ndoo.register.snapshot import Packed, Snapshot, Verify
from ndoo.revision import SEQ_MAX, Revision

START = "0-0"
"""The position before every entry."""

WAIT_S_MAX = 1.0
ANSWER_S_MAX = 5.0
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_ID_PART_MAX = 2**64 - 1

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


class RedisFeed:
    """See `ndoo.feed.feed.Feed`."""

    def __init__(
        self,
        url: RedisUrl,
        prefix: str = PREFIX,
        verify: Verify | None = None,
        *,
        wait_s_max: float = WAIT_S_MAX,
        answer_s_max: float = ANSWER_S_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._keys = Keys.of(prefix)
        self._verify = verify
        self._wait_s_max = wait_s_max
        self._master = Master(url, prefix, clock)
        # A server that waits on our behalf is not late: its time to answer comes on top.
        self._client = self._master.connect(wait_s_max + answer_s_max)
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        return self._url.name

    def load(self) -> Snapshot:
        with self._errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hmget(self._keys.snapshot, ["header", "register", "links"])
            pipeline.hmget(self._keys.head, ["generation", "seq"])
            (header, register, links), (generation, _) = self._of_master(pipeline)
        if header is None and register is None and generation is None:
            raise nothing_loaded(self.name)
        packed = Packed(header or b"", register or b"", links or b"")
        return _verified(snapshots.unpack(packed, self._verify), generation)

    def read(self, revision: Revision, position: str, wait_s: float) -> Batch:
        with self._errors():
            if wait_s > 0:
                self._wait(position, min(wait_s, self._wait_s_max))
            doubt = self._doubt()
            look = self._look(position)
        batch = look.batch(revision, position)
        if not doubt:
            return batch
        if not batch.changes:
            raise FeedUnavailable(f"{self.name} confirms nothing: {doubt}.")
        return replace(batch, complete=False)

    def retained(self, generation: str | None) -> Iterator[Change | None]:
        after = "-"
        while True:
            with self._errors():
                pipeline = self._client.pipeline(transaction=True)
                pipeline.xrange(self._keys.changes, min=after, count=CHANGES_PER_READ_MAX)
                pipeline.hmget(self._keys.head, ["generation"])
                entries, (current,) = self._of_master(pipeline)
            if generation is not None and current != generation.encode():
                raise other_history()
            if not entries:
                return
            yield from map(_readable, entries)
            after = f"({entries[-1][0].decode()}"

    def close(self) -> None:
        self._closed.set()
        self._client.connection_pool.disconnect(inuse_connections=True)
        self._master.close()

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
        pipeline.hmget(self._keys.snapshot, ["header"])
        entries, head, info, snapshot = self._of_master(pipeline, raise_on_error=False)
        for reply in (entries, head):
            if isinstance(reply, Exception):
                raise reply
        return _Look.of(entries, head, info, snapshot)

    def _of_master(self, pipeline: Pipeline, *, raise_on_error: bool = True) -> list[Any]:
        """The replies to *pipeline*, all of one moment at which the server was a master."""
        pipeline.execute_command("ROLE")  # type: ignore[no-untyped-call]
        *replies, role = pipeline.execute(raise_on_error=raise_on_error)
        if isinstance(role, Exception):
            raise role
        if role[0] != b"master":
            self._client.connection_pool.disconnect()  # to look for the master anew
            raise Unreachable("it is a replica, which may lag; name its master")
        return replies

    def _doubt(self) -> str:
        """Why the connected server may not be the master, or nothing. Changes that it has are worth
        having even then; that there are no others, it cannot say.
        """
        try:
            self._master.prove()
        except Moved:
            self._client.connection_pool.disconnect()
            raise
        except RedisError as error:
            return cause_of(error)
        return ""

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
    snapshot_at: float | None  # when the snapshot says that it was made

    @classmethod
    def of(
        cls, entries: Sequence[Entry], head: Sequence[bytes | None], info: Any, snapshot: Any
    ) -> _Look:
        generation, seq = head
        first_id, last_id = _stream_ids(info)
        return cls(
            entries=entries,
            generation=None if generation is None else generation.decode("ascii", "replace"),
            seq=int(seq) if seq is not None and seq.isdigit() else None,
            first_id=first_id,
            last_id=last_id,
            snapshot_at=_made_at(snapshot),
        )

    def batch(self, revision: Revision, position: str) -> Batch:
        """What to make of it, for a reader who reached *revision* at *position*."""
        if self.generation != revision.generation:
            raise other_history()
        if self.seq is None:
            raise FeedUnavailable("The feed's head holds no sequence number in its field 'seq'.")
        entries = self._after_own(revision, position)
        has_own = len(entries) < len(self.entries)
        own = (_readable(self.entries[0]) or UNREADABLE) if has_own else None
        changes, refused = _decode(entries[:CHANGES_PER_READ_MAX])
        if not changes and refused:
            refused.behind = max(1, self.seq - revision.seq)
            raise refused
        if not changes:
            self._refuse_lost(self.seq, revision, position)
            return Batch((), position, complete=True, snapshot_at=self.snapshot_at, own=own)
        position = entries[len(changes) - 1][0].decode()
        ended = _id(position) == self.last_id  # none that was left out, or deleted, came after it
        complete = ended and self.seq <= changes[-1].seq
        behind = max(0, self.seq - changes[-1].seq)
        return Batch(changes, position, complete, behind, self.snapshot_at, own)

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
        if self.entries and (_seq_of(self.entries[0]) or SEQ_MAX) <= revision.seq:
            raise HistoryChanged("Numbers that were read were given again.", reason="REWRITTEN")
        if self.last_id > own:
            # Numbers that go on by one prove nothing: another master may have given them again.
            raise HistoryChanged(
                "The change that was read last was trimmed, and what follows it may belong to "
                "another history.",
                reason="TRIMMED",
            )
        return ()

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
            entry_ms = int(entry[0].partition(b"-")[0])
            changes.append(decode(_fields(entry), entry_ms))
    except ChangeRefused as refused:
        return tuple(changes), refused
    return tuple(changes), None


def _seq_of(entry: Entry) -> int | None:
    """The number of *entry*, also if the rest of it cannot be read; None if it has none."""
    try:
        return seq_of(_fields(entry))
    except ChangeRefused:
        return None


def _readable(entry: Entry) -> Change | None:
    """The change in *entry*, None if it cannot be read."""
    try:
        return decode(_fields(entry), _id_of(entry)[0])
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


def _made_at(reply: Any) -> float | None:
    """When the snapshot was made whose header is *reply*, which may be an error, too."""
    return None if isinstance(reply, Exception) else snapshots.made_at(reply[0] or b"")


def _id_of(entry: Entry) -> Id:
    return _id(entry[0].decode())


def _id(text: str) -> Id:
    milliseconds, _, serial = text.partition("-")
    return int(milliseconds), int(serial)
