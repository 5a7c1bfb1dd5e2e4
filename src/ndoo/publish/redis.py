"""The writing side of a Redis feed. Every write is one atomic step on the server: a Lua script or a
transaction, so that writers, snapshots and loads may run at once and be killed anywhere.

Nothing is retried after it was sent: whether it was recorded is then unknown, and sending it again
could record it twice. The caller is told so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyroaring import BitMap
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError

from ndoo.errors import FeedUnavailable
from ndoo.feed.feed import HistoryChanged, nothing_loaded
from ndoo.feed.redis import START, Keys, RedisFeed, cause_of, connect
from ndoo.feed.url import PREFIX, RedisUrl
from ndoo.publish.fold import Folded, first_snapshot, fold
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, encode
from ndoo.register.snapshot import Packed, Snapshot
from ndoo.revision import Revision, new_generation

CHANGES_PER_SCRIPT_MAX = 2000
_LOAD_TRIES_MAX = 5
"""So that other clients of the server wait some milliseconds at most."""

ANSWER_S_MAX = 30.0

_APPEND = """
local generation, seq = unpack(redis.call('HMGET', KEYS[1], 'generation', 'seq'))
if not generation or not seq then return false end
seq = tonumber(seq)
local at = 1
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  local entry = {'seq', string.format('%.0f', seq + 1)}
  for i = at + 1, at + size do entry[#entry + 1] = ARGV[i] end
  redis.call('XADD', KEYS[2], '*', unpack(entry))
  seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
  at = at + size + 1
end
return {generation, string.format('%.0f', seq)}
"""

# Entries are trimmed by how many are to stay rather than by id, which comes to the same where
# sequence numbers are dense, because XTRIM MINID of Redis 6.2.5 and before can empty a stream.
_SNAPSHOT = """
local generation, seq, header, register, links, position, folded = unpack(ARGV)
local old = cjson.decode(redis.call('HGET', KEYS[1], 'header') or '{}')
if old.generation ~= generation or redis.call('HGET', KEYS[2], 'generation') ~= generation then
  return 'OTHER_GENERATION'
end
if old.seq > tonumber(seq) then return 'NEWER' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'header', header, 'register', register, 'links', links)
local since = #redis.call('XRANGE', KEYS[3], '(' .. position, '+')
redis.call('XTRIM', KEYS[3], 'MAXLEN', '=', 1 + tonumber(folded) + since)
return 'OK'
"""


class RedisPublisher:
    """See `ndoo.publish.publisher.Publisher`."""

    def __init__(self, url: RedisUrl, prefix: str = PREFIX) -> None:
        self._url = url
        self._keys = Keys.of(prefix)
        self._feed = RedisFeed(url, prefix)
        self._client = connect(url, ANSWER_S_MAX)
        self._append = self._client.register_script(_APPEND)
        self._replace_snapshot = self._client.register_script(_SNAPSHOT)

    @property
    def name(self) -> str:
        return self._url.name

    def append(self, changes: Sequence[Change]) -> Revision:
        arguments = [_arguments(change) for change in changes]
        self._connect()
        revision = self._append_block(arguments[:CHANGES_PER_SCRIPT_MAX], 0)
        for done in range(CHANGES_PER_SCRIPT_MAX, len(changes), CHANGES_PER_SCRIPT_MAX):
            revision = self._append_block(arguments[done : done + CHANGES_PER_SCRIPT_MAX], done)
        return revision

    def load(self, keys: BitMap, *, accept_shrink: bool = False) -> Revision:
        revision = Revision(new_generation(), 0)
        self._connect()
        with (
            self._errors("whether the register was loaded"),
            self._client.pipeline(transaction=True) as pipeline,
        ):
            for _ in range(_LOAD_TRIES_MAX):
                # What is in place decides about the new register, and must not change meanwhile.
                pipeline.watch(self._keys.head)  # type: ignore[no-untyped-call]
                snapshot = first_snapshot(
                    self._feed, keys, revision, START, accept_shrink=accept_shrink
                )
                if self._switch(pipeline, snapshots.pack(snapshot), revision):
                    return revision
        raise FeedUnavailable(
            f"{self.name} was written to all the while; nothing was loaded. Try again when the "
            "other writers rest."
        )

    def _switch(self, pipeline: Pipeline, packed: Packed, revision: Revision) -> bool:
        """Put the new generation in place, unless the head moved since it was watched."""
        pipeline.multi()
        pipeline.delete(self._keys.snapshot, self._keys.changes, self._keys.head)
        pipeline.hset(self._keys.snapshot, mapping=_fields(packed))
        pipeline.hset(
            self._keys.head, mapping={"generation": revision.generation, "seq": revision.seq}
        )
        try:
            pipeline.execute()
        except WatchError:
            return False
        return True

    def snapshot(self) -> Snapshot:
        folded = fold(self._feed)
        snapshot = folded.snapshot()
        outcome = self._put(folded, snapshot)
        if outcome == b"NEWER":  # another writer was faster, and its snapshot holds all of ours
            return self._feed.load()
        if outcome != b"OK":
            raise HistoryChanged(
                "Another register was loaded meanwhile; take the snapshot again.",
                reason="OTHER_GENERATION",
            )
        return snapshot

    def close(self) -> None:
        self._feed.close()
        self._client.close()

    def _append_block(self, block: Sequence[Sequence[str]], done: int) -> Revision:
        before = f" (the {done:,} before them were)" if done else ""
        with self._errors(f"whether {len(block):,} changes were recorded{before}"):
            reply = self._append(
                keys=[self._keys.head, self._keys.changes],
                args=[argument for arguments in block for argument in arguments],
            )
        if reply is None:
            raise nothing_loaded(self.name)
        generation, seq = reply
        return Revision(generation.decode(), int(seq))

    def _put(self, folded: Folded, snapshot: Snapshot) -> bytes:
        packed = snapshots.pack(snapshot)
        revision = snapshot.revision
        self._connect()
        with self._errors("whether the snapshot was taken"):
            outcome: bytes = self._replace_snapshot(
                keys=[self._keys.snapshot, self._keys.head, self._keys.changes],
                args=[
                    *(revision.generation, revision.seq),
                    *_fields(packed).values(),
                    *(snapshot.position, revision.seq - folded.before.revision.seq),
                ],
            )
        return outcome

    def _connect(self) -> None:
        """Find a server that is away before anything is sent, while there is no doubt."""
        try:
            self._client.ping()
        except (RedisError, OSError) as error:
            raise FeedUnavailable(
                f"{self.name} cannot be written: {cause_of(error)}. Nothing was sent."
            ) from None

    @contextlib.contextmanager
    def _errors(self, doubt: str) -> Iterator[None]:
        """Raises FeedUnavailable for every error of the client. Its own text is never shown: it can
        hold the command, and so NHS numbers.
        """
        try:
            yield
        except (RedisError, OSError) as error:
            # A refusal comes before the first write of a script or transaction.
            unknown = "" if isinstance(error, ResponseError) else f" It is unknown {doubt}."
            raise FeedUnavailable(
                f"{self.name} cannot be written: {cause_of(error)}.{unknown}"
            ) from None


def _arguments(change: Change) -> list[str]:
    fields = [text for pair in encode(change).items() for text in pair]
    return [str(len(fields)), *fields]


def _fields(packed: Packed) -> Mapping[Any, bytes]:
    return {"header": packed.header, "register": packed.register, "links": packed.links}
