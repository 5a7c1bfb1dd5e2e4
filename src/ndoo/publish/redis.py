"""The writing side of a Redis feed. Every write is one atomic step on the server, as
`ndoo.publish.scripts` has them, so that writers, snapshots and loads may run at once and be killed
anywhere.

Nothing is retried after it was sent: whether it was recorded is then unknown. The caller is told,
and may send it again if it gave it an id.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pyroaring import BitMap
from redis.exceptions import RedisError, ResponseError

from ndoo.errors import FeedUnavailable
from ndoo.feed.connection import cause_of
from ndoo.feed.feed import HistoryChanged, nothing_loaded
from ndoo.feed.master import Master
from ndoo.feed.redis import START, Entry, Keys, RedisFeed
from ndoo.feed.url import PREFIX, RedisUrl
from ndoo.publish import scripts
from ndoo.publish.fold import Folded, first_snapshot, fold, fold_readable
from ndoo.publish.publisher import CHANGES_PER_STEP_MAX, HeadMoved, Unconfirmed, refuse_long_step
from ndoo.publish.request import KEPT_S, check_request_id, refuse_changed, refuse_other
from ndoo.publish.seal import UNSIGNED, Seal
from ndoo.publish.source import PLAIN, Terms
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, encode, encode_numbered, encode_recorded
from ndoo.register.snapshot import Packed, Snapshot
from ndoo.revision import Revision, new_generation

ANSWER_S_MAX = 30.0
CARRIED_MAX = 2000
"""So many changes that came while a load was prepared are carried over in its one step; were there
more it looks again, and carries twice as many the next time, so that it ends however busy the
writers are.
"""

_LOAD_ROUNDS_MAX = 8
_STAGED_S = 3600


@dataclass(frozen=True, slots=True)
class _Tip:
    """Where a history was when it was looked at, as the server tells it; empty if there is none.
    *last* is the change there, if it was read.
    """

    generation: str
    seq: str
    position: str
    last: Change | None = None


class RedisPublisher:
    """See `ndoo.publish.publisher.Publisher`."""

    def __init__(self, url: RedisUrl, prefix: str = PREFIX, seal: Seal = UNSIGNED) -> None:
        self._url = url
        self._keys = Keys.of(prefix)
        self._requests = f"{{{prefix}}}:request:"
        self._sign = seal.sign
        self._feed = RedisFeed(url, prefix, seal.verify)
        self._master = Master(url, prefix)
        self._client = self._master.connect(ANSWER_S_MAX)
        self._append = self._client.register_script(scripts.APPEND)
        self._replace_snapshot = self._client.register_script(scripts.SNAPSHOT)
        self._replace_all = self._client.register_script(scripts.LOAD)

    @property
    def name(self) -> str:
        return self._url.name

    def append(
        self, changes: Sequence[Change], *, request_id: str = "", after: Revision | None = None
    ) -> Revision:
        check_request_id(request_id)
        refuse_long_step(changes, after)
        encoded = [encode(change) for change in changes]
        self._connect()
        revision = self._append_block(encoded, 0, request_id, after)
        for done in range(CHANGES_PER_STEP_MAX, len(changes), CHANGES_PER_STEP_MAX):
            revision = self._append_block(encoded, done, request_id, None)
        return revision

    def load(self, keys: BitMap, terms: Terms = PLAIN) -> Revision:
        self._connect()
        found: Folded | None = None
        for tries in range(_LOAD_ROUNDS_MAX):
            revision = Revision(new_generation(), 0)
            tip = self._tip()
            found = fold_readable(self._feed, found)
            if found is not None and found.whole:
                old = found.register.revision
                tip = _Tip(old.generation, str(old.seq), found.position, found.register.last)
            with contextlib.suppress(HistoryChanged):  # somebody else loaded meanwhile
                snapshot, first = first_snapshot(self._feed, found, keys, revision, START, terms)
                if self._switch(snapshot, first, tip, CARRIED_MAX << tries):
                    return Revision(revision.generation, len(first))
        raise FeedUnavailable(
            f"{self.name} is written to faster than it can be read; nothing was loaded. Try again "
            "when the other writers rest."
        )

    def snapshot(self) -> Snapshot:
        folded = fold(self._feed)
        snapshot = folded.snapshot()
        outcome = self._put(folded, snapshot)
        if outcome == b"NEWER":  # another writer was faster, and its snapshot holds all of ours
            return self._feed.load()
        if outcome == b"REWRITTEN":
            raise HistoryChanged("The feed's history was rewritten.", reason="REWRITTEN")
        if outcome != b"OK":
            raise HistoryChanged(
                "Another register was loaded meanwhile; take the snapshot again.",
                reason="OTHER_GENERATION",
            )
        return snapshot

    def close(self) -> None:
        self._feed.close()
        self._client.close()
        self._master.close()

    def _append_block(
        self,
        encoded: Sequence[Mapping[str, str]],
        done: int,
        request_id: str,
        after: Revision | None,
    ) -> Revision:
        """Append the block that begins with number *done*, unless it was, in one step."""
        block = encoded[done : done + CHANGES_PER_STEP_MAX]
        keys = [self._keys.head, self._keys.changes]
        if request_id:
            keys.append(f"{self._requests}{request_id}/{done // CHANGES_PER_STEP_MAX}")
        head = f"{after.generation} {after.seq}" if after else ""
        texts = [text for change in block for text in _arguments(change)]
        try:
            outcome, *told = self._append(keys=keys, args=[head, len(encoded), KEPT_S, *texts])
        except (RedisError, OSError) as error:
            raise self._failed_append(error, len(block), done) from None
        if outcome == b"EMPTY":
            raise nothing_loaded(self.name)
        if outcome == b"MOVED":
            raise HeadMoved("Something else was recorded first, so nothing was.")
        generation, _, last, count, first_id = told[0].decode().split(" ")
        if outcome == b"KNOWN":
            refuse_other(
                request_id,
                count=len(encoded),
                known_count=int(count),
                same_generation=generation == self._tip().generation,
            )
            self._refuse_changed(request_id, first_id, block)
        return Revision(generation, int(last))

    def _refuse_changed(
        self, request_id: str, first_id: str, block: Sequence[Mapping[str, str]]
    ) -> None:
        """Raise RequestRefused if the entries from *first_id* on, where they are still held, are
        not those of *block*.
        """
        with self._errors():
            found = self._client.xrange(self._keys.changes, min=first_id, count=len(block) or 1)
        entries = cast("Sequence[Entry]", found)
        if entries and entries[0][0] == first_id.encode():
            for (_, flat), now in zip(entries, block):
                known = dict(zip(map(_text, flat[::2]), map(_text, flat[1::2])))
                refuse_changed(request_id, known, now)

    def _tip(self) -> _Tip:
        with self._errors():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hmget(self._keys.head, ["generation", "seq"])
            pipeline.xrevrange(self._keys.changes, count=1)
            (generation, seq), newest = pipeline.execute()
        position = newest[0][0].decode() if newest else START
        return _Tip(_text(generation), _text(seq), position)

    def _switch(
        self, snapshot: Snapshot, changes: Sequence[Change], tip: _Tip, carried_max: int
    ) -> bool:
        """Put the generation that begins with *snapshot* and *changes* in place of the one that was
        looked at up to *tip*, with what came after it; or nothing, if that is too much.
        """
        packed = snapshots.pack(snapshot, self._sign)
        generation = snapshot.revision.generation
        keys = [self._keys.snapshot, self._keys.head, self._keys.changes]
        staged = [f"{key}:{generation}" for key in (self._keys.snapshot, self._keys.changes)]
        self._stage(staged[1], changes)
        new: list[Any] = [generation, *_fields(packed).values(), len(changes)]
        old: list[Any] = [tip.generation, tip.seq, tip.position, _json(tip.last), carried_max]
        with self._errors(" It is unknown whether the register was loaded."):
            outcome = self._replace_all(keys=[*keys, *staged], args=[*new, *old, _STAGED_S])
        return bool(outcome == b"OK")

    def _stage(self, key: str, changes: Sequence[Change]) -> None:
        """Lay *changes* ready under *key*, which goes away by itself if nobody takes it."""
        for done in range(0, len(changes), CHANGES_PER_STEP_MAX):
            with self._errors(), self._client.pipeline(transaction=True) as pipeline:
                for seq, change in enumerate(changes[done : done + CHANGES_PER_STEP_MAX], done + 1):
                    pipeline.xadd(key, dict[Any, Any]({"seq": str(seq), **encode_recorded(change)}))
                pipeline.expire(key, _STAGED_S)
                pipeline.execute()

    def _put(self, folded: Folded, snapshot: Snapshot) -> bytes:
        packed = snapshots.pack(snapshot, self._sign)
        revision = snapshot.revision
        self._connect()
        with self._errors(" It is unknown whether the snapshot was taken."):
            outcome: bytes = self._replace_snapshot(
                keys=[self._keys.snapshot, self._keys.head, self._keys.changes],
                args=[
                    *(revision.generation, revision.seq),
                    *_fields(packed).values(),
                    *(snapshot.position, _json(snapshot.last)),
                    revision.seq - folded.before.revision.seq,
                ],
            )
        return outcome

    def _connect(self) -> None:
        """Find a server that is away before anything is sent, while there is no doubt."""
        try:
            self._client.ping()
        except (RedisError, OSError) as error:
            raise FeedUnavailable(f"{self._sentence(error)} Nothing was sent.") from None

    @contextlib.contextmanager
    def _errors(self, doubt: str = "") -> Iterator[None]:
        """Raises FeedUnavailable for every error of the client."""
        try:
            yield
        except (RedisError, OSError) as error:
            unknown = "" if isinstance(error, ResponseError) else doubt
            raise FeedUnavailable(self._sentence(error) + unknown) from None

    def _failed_append(self, error: Exception, count: int, done: int) -> FeedUnavailable:
        """What to raise when *error* came of the step with *count* changes after *done* others."""
        before = f" (the {done:,} before them were)" if done else ""
        if not isinstance(error, ResponseError):
            doubt = f" It is unknown whether {count:,} changes were recorded{before}."
            return Unconfirmed(self._sentence(error) + doubt)
        # A refusal comes before the first write of a step.
        if done:
            return Unconfirmed(
                f"{self._sentence(error)} {count:,} changes were not recorded{before}."
            )
        return FeedUnavailable(self._sentence(error))

    def _sentence(self, error: Exception) -> str:
        """Never the error's own words: they can hold the command, and so NHS numbers."""
        return f"{self.name} cannot be written: {cause_of(error)}."


def _arguments(encoded: Mapping[str, str]) -> list[str]:
    fields = [text for pair in encoded.items() for text in pair]
    return [str(len(fields)), *fields]


def _json(change: Change | None) -> str:
    return json.dumps(encode_numbered(change) if change is not None else {})


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "surrogateescape")


def _fields(packed: Packed) -> Mapping[Any, bytes]:
    return {"header": packed.header, "register": packed.register, "links": packed.links}
