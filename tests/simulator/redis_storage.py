"""A simulated Redis as storage of a feed: what it holds, and how it goes wrong."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from ndoo.register import snapshot as snapshots
from simulator.network import Server, wired
from simulator.redis_model import RedisModel, Stream, id_text
from simulator.schedule import EPOCH_S, Schedule
from simulator.storage import Storage, Stored, repaired
from simulator.truth import PLACE, Truth, unreadable

CHANGES, SNAPSHOT, HEAD = b"{ndoo}:changes", b"{ndoo}:snapshot", b"{ndoo}:head"
COPIES_KEPT = 6
REST_S = 2.0


class RedisStorage(Storage):
    """See `Storage`."""

    url = "redis://simulated:6379/0"

    def __init__(
        self, schedule: Schedule, rng: random.Random, truth: Truth, fired: Callable[[str], None]
    ) -> None:
        super().__init__(schedule, rng, truth, fired)
        self._clock_offset_s = 0.0
        self.model = RedisModel(lambda: int((EPOCH_S + schedule.now + self._clock_offset_s) * 1000))
        self.server = Server(schedule, rng, self.model)
        self.server.on_write = self.observe
        self.server.on_snapshot_read = self.snapshot_was_read
        self._seen = (0, 0)  # the last entry that the truth knows of
        self._copies: deque[tuple[object, object, object]] = deque(maxlen=COPIES_KEPT)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with wired(self.server):
            yield

    def stored(self) -> Stored | None:
        fields = self.model.keys.get(SNAPSHOT)
        if not fields or HEAD not in self.model.keys:
            return None
        return Stored(fields[b"header"], fields[b"register"], fields.get(b"links", b""))

    def new_changes(self, begun: bool) -> Iterator[Mapping[str, str]]:
        if begun:
            self._seen = (0, 0)
        for entry_id, flat in self._stream.entries:
            if entry_id > self._seen:
                self._seen = entry_id
                texts = [word.decode() for word in flat]
                yield dict(zip(texts[::2], texts[1::2])) | {PLACE: id_text(entry_id).decode()}

    def retained_from(self) -> int:
        for _, flat in self._stream.entries:
            return int(flat[flat.index(b"seq") + 1])
        return self.truth.tip.seq + 1 if self.truth.tip else 0

    @property
    def _stream(self) -> Stream:
        return self.model.keys.get(CHANGES) or Stream()

    def call(self, *words: object) -> object:
        """What somebody with rights of his own does to the server."""
        args = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return self.server.execute_unobserved(args)

    def keep_copy(self) -> None:
        if self.damaged:
            return
        self._copies.append((self.model.copy_data(), self._seen, self.truth.tip))

    def add_raw(self, fields: Mapping[str, str], *, moves_head: bool = True) -> None:
        self.call("XADD", CHANGES, "*", *[text for pair in fields.items() for text in pair])
        if moves_head:
            self.call("HINCRBY", HEAD, "seq", 1)

    def repair(self) -> None:
        """Upstream writes a snapshot of what it knows to be true, at the end of the stream."""
        last = self._stream.last_id
        packed = snapshots.pack(repaired(self.truth.tip, id_text(last).decode()))
        self.call("DEL", SNAPSHOT)
        self.call(
            *("HSET", SNAPSHOT, "header", packed.header),
            *("register", packed.register, "links", packed.links),
        )
        self.was_repaired()

    def put_snapshot(self, header: bytes, register: bytes) -> None:
        self.call("HSET", SNAPSHOT, "header", header, "register", register)

    # --- faults: each does its harm and tells whether it could ----------------------------------

    def trim_past_the_cursor(self) -> bool:
        self.write_some(3)
        self._repair_or_damage()
        self.call("XTRIM", CHANGES, "MAXLEN", "=", 1)
        return True

    def delete_and_recreate_the_stream(self) -> bool:
        self.call("DEL", CHANGES)
        self._seen = (0, 0)
        self.write_some(1)
        self._repair_or_damage()
        return True

    def delete_an_entry(self) -> bool:
        self.write_some(2)
        at_the_end = self.rng.random() < 0.5
        entry_id, _ = self._stream.entries[-1 if at_the_end else -2]
        self.call("XDEL", CHANGES, id_text(entry_id))
        if at_the_end:  # no snapshot could name it as its position
            self.damaged = "changes lost"
            self.rest_until = self.schedule.now + REST_S  # nothing that comes after it tells of it
        else:
            self._repair_or_damage()
        return True

    def duplicate_an_entry(self) -> bool:
        if not self._stream.entries:
            return False
        _, fields = self._stream.entries[-1]
        self.call("XADD", CHANGES, "*", *fields)
        self._seen = self._stream.last_id
        self.damaged = "duplicate entry"
        return True

    def reorder_entries(self) -> bool:
        seq = self.truth.tip.seq
        first, second = self.some_change(seq + 1), self.some_change(seq + 2)
        for fields in (second, first):
            self.add_raw(fields)
        self._seen = self._stream.last_id
        for fields in (first, second):
            self.truth.record(fields, self.schedule.now)
        self.damaged = "reordered entries"
        return True

    def write_unreadable(self) -> bool:
        self.add_raw(unreadable(self.some_change(self.truth.tip.seq + 1)))
        self.observe()
        self.damaged = "undecodable change"
        return True

    def fail_over(self) -> bool:
        """To a server that lacks the last changes, and may have a slower clock."""
        copies = [copy for copy in self._copies if copy[2] is not self.truth.tip and copy[2]]
        if not copies or self.damaged:
            return False
        data, self._seen, tip = self.rng.choice(copies)
        self._copies.clear()
        self._become(data, tip)
        self._clock_offset_s -= self.rng.choice((0.0, self.rng.uniform(0.0, 20.0)))
        self.write_some(self.rng.randrange(4))
        return True

    def restart_empty(self) -> bool:
        self._become(({}, {}), None)
        self._copies.clear()
        self._seen = (0, 0)
        self.damaged = "redis restarted empty"
        return True

    def go_away(self) -> bool:
        self.server.up = False
        self.server.drop_all()
        self.schedule.later(self.rng.uniform(1.0, 12.0), self.come_back)
        return True

    def come_back(self) -> None:
        self.server.up = True

    def _become(self, data: object, tip: object) -> None:
        self.server.drop_all()
        self.model.put_data(data)
        self.truth.go_back_to(tip, self.schedule.now)
        self.forget_stored()

    def _repair_or_damage(self) -> None:
        if self.rng.random() < 0.6:
            self.repair()
        else:
            self.damaged = "changes lost"
