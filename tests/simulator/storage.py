"""What is common to both kinds of storage of a feed.

A storage tells the truth of every change and every load that it comes to hold, whoever wrote it,
and checks each against what the writers promise: sequence numbers are dense, and a snapshot is the
state at its revision. It is also where harm is done; *damaged* then says what only an operator can
mend.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from ndoo.register.snapshot import Snapshot
from ndoo.revision import Revision
from simulator.oracle import ACTIVE, BACKGROUND
from simulator.schedule import EPOCH_S, Schedule
from simulator.truth import Groups, Node, Truth
from support import people
from support.people import KEYS

LOAD_S_MAX = 10.0
PEOPLE = frozenset(KEYS[:ACTIVE])
ALWAYS_OUT = BitMap(KEYS[ACTIVE + 20 : ACTIVE + 20 + BACKGROUND])


@dataclass(frozen=True)
class Stored:
    """A snapshot as it lies in storage."""

    header: bytes
    register: bytes
    links: bytes

    @property
    def revision(self) -> tuple[str, int]:
        header = json.loads(self.header)
        return header["generation"], header["seq"]

    @property
    def suspended(self) -> bool:
        return json.loads(self.header)["suspended"]

    @property
    def out(self) -> frozenset[int]:
        return frozenset(BitMap.deserialize(self.register)) & PEOPLE

    @property
    def groups(self) -> Groups:
        pairs = np.frombuffer(self.links, "<u4").reshape(-1, 2).tolist()
        firsts = {first for first, _ in pairs}
        groups = [frozenset({first} | {b for a, b in pairs if a == first}) for first in firsts]
        return {key: group for group in groups for key in group}


class Storage(ABC):
    """Where a feed lies. *wrong* collects promises that a writer broke."""

    url: str

    def __init__(
        self, schedule: Schedule, rng: random.Random, truth: Truth, fired: Callable[[str], None]
    ) -> None:
        self.schedule = schedule
        self.rng = rng
        self.truth = truth
        self.fired = fired
        self.damaged = ""
        self.tampered = ""
        self.requests_forgotten = False  # by a fault: what is sent again is recorded again
        self._sound_since = -LOAD_S_MAX  # a load that began before read what was damaged
        self.rest_until = 0.0  # no writer writes before
        self.beyond_damage: set[str] = set()  # changes recorded where no reader gets to
        self.wrong: list[str] = []
        self._last_stored: Stored | None = None
        self._before_tampering: Stored | None = None

    @abstractmethod
    def in_place(self) -> contextlib.AbstractContextManager[None]:
        """The real code meets this storage while in here."""

    @abstractmethod
    def stored(self) -> Stored | None:
        """The snapshot that storage holds."""

    @abstractmethod
    def new_changes(self, begun: bool) -> Iterator[Mapping[str, str]]:
        """The changes after those told before; all of them if a history has just *begun*."""

    @abstractmethod
    def retained_from(self) -> int:
        """The number of the first change that storage still holds."""

    @abstractmethod
    def add_raw(self, fields: Mapping[str, str]) -> None:
        """Add an entry as a foreign writer would."""

    @abstractmethod
    def repair(self) -> None:
        """Have upstream write a snapshot of the truth, from which readers go on."""

    @abstractmethod
    def put_snapshot(self, header: bytes, register: bytes) -> None:
        """Put these parts of the snapshot in place."""

    @abstractmethod
    def keep_copy(self) -> None:
        """Remember all as it is, for a restore or a fail-over to come."""

    def observe(self) -> None:
        """Something was written: tell the truth of it."""
        if self.tampered:
            if self.stored() == self._last_stored:
                self._observe_changes(begun=False)
                return
            self.tampered = ""
        stored, before = self.stored(), None if self.damaged else self.truth.tip
        begun = stored is not None and stored != self._last_stored and self._snapshot(stored)
        self._last_stored = stored
        if stored is not None and self.truth.tip is not None:
            self._observe_changes(begun=begun)
        if begun and before is not None and self.schedule.now > self._sound_since + LOAD_S_MAX:
            self._judge_load(before, self.truth.tip)

    def _judge_load(self, before: Node, after: Node) -> None:
        """The operator's source held all who were opted out when it was drawn, moments before."""
        if before.out - after.out:
            self.wrong.append(f"a load released {len(before.out - after.out)} who had opted out")
        if before.suspended != after.suspended:
            self.wrong.append("a load changed whether answers are suspended")

    def _observe_changes(self, *, begun: bool) -> None:
        for fields in self.new_changes(begun):
            if int(fields["seq"]) == self.truth.tip.seq + 1:
                self.truth.record(fields, self.schedule.now)
            elif self.damaged:  # a writer went on from what a fault had left
                self.beyond_damage.add(fields["src"])
            else:
                self.wrong.append(f"a writer gave {fields['seq']} after {self.truth.tip.seq}")

    def _snapshot(self, stored: Stored) -> bool:
        """Take note of a new snapshot. Returns whether it begins a history."""
        generation, seq = stored.revision
        nodes = self.truth.nodes.get((generation, seq), [])
        if not nodes:
            self.truth.begin(
                *(generation, seq, stored.out, stored.groups, stored.suspended, self.schedule.now)
            )
            self.mended()
            return True
        if not any((n.out, n.suspended) == (stored.out, stored.suspended) for n in nodes):
            self.wrong.append(f"a snapshot at {seq} is not the state at {seq}")
        return False

    def forget_stored(self) -> None:
        """Storage became another, by a fault."""
        self.tampered = ""
        self._last_stored = self.stored()

    def was_repaired(self) -> None:
        """Somebody put right what a fault did. A load that is under way may have read that."""
        self._sound_since = self.schedule.now
        self.mended()

    def mended(self) -> None:
        self.damaged = self.tampered = ""

    def some_change(self, seq: int, tag: str = "") -> dict[str, str]:
        """The fields of a change somebody makes."""
        rng = self.rng
        suspended = self.truth.tip is not None and self.truth.tip.suspended
        ops = ["opt_out"] * 12 + ["opt_in"] * 9 + ["supersede"] * 2
        ops += ["resume"] * 12 if suspended else ["suspend"]
        fields = {"seq": str(seq), "op": rng.choice(ops), "src": tag or f"x{rng.randrange(10**6)}"}
        fields["recorded"] = str(int((EPOCH_S + self.schedule.now) * 1000))
        old, new = rng.sample(range(ACTIVE), 2)
        if fields["op"] in {"opt_out", "opt_in", "supersede"}:
            fields["nhs"] = people.number(old)
        if fields["op"] == "supersede":
            fields["new"] = people.number(new)
        return fields

    def write_some(self, count: int) -> None:
        """A foreign writer adds *count* changes, as it should."""
        for _ in range(count):
            self.add_raw(self.some_change(self.truth.tip.seq + 1))
            self.observe()

    # --- faults of the snapshot -------------------------------------------------------------------

    def wrong_digest(self) -> bool:
        def harm(stored: Stored) -> tuple[bytes, bytes]:
            at = self.rng.randrange(len(stored.register))
            flipped = stored.register[at] ^ (1 << self.rng.randrange(8))
            return stored.header, b"%b%c%b" % (
                stored.register[:at], flipped, stored.register[at + 1 :],
            )  # fmt: skip

        return self._tamper("wrong digest", harm)

    def wrong_count(self) -> bool:
        def harm(stored: Stored) -> tuple[bytes, bytes]:
            header = json.loads(stored.header)
            return _sealed({**header, "count": header["count"] - 1}), stored.register

        return self._tamper("wrong count", harm)

    def empty_snapshot(self) -> bool:
        def harm(stored: Stored) -> tuple[bytes, bytes]:
            register = BitMap().serialize()
            digest = hashlib.sha256(register).hexdigest()
            header = {**json.loads(stored.header), "count": 0, "sha256": digest}
            return _sealed(header), register

        return self._tamper("empty snapshot", harm)

    def _tamper(self, name: str, harm: Callable[[Stored], tuple[bytes, bytes]]) -> bool:
        stored = self.stored()
        if stored is None or self.damaged:
            return False
        self.put_snapshot(*harm(stored))
        self.tampered = self.damaged = name
        self._last_stored = self.stored()
        self._before_tampering = stored
        return True

    def untamper(self) -> None:
        """Whoever did it puts the snapshot back as it was."""
        if self.tampered:
            before = self._before_tampering
            self.put_snapshot(before.header, before.register)
            self._last_stored = before
            self.was_repaired()

    def snapshot_was_read(self) -> None:
        if self.tampered:
            self.fired(self.tampered)


def repaired(node: Node, position: str) -> Snapshot:
    """What upstream knows to be true at *node*, as a snapshot."""
    return Snapshot(
        revision=Revision(node.generation, node.seq),
        position=position,
        created_at="now",
        keys=ALWAYS_OUT | BitMap(node.out),
        links=tuple(sorted({tuple(sorted(group)) for group in node.groups.values()})),
        suspended=node.suspended,
        shrink_accepted=True,
    )


def _sealed(header: Mapping[str, object]) -> bytes:
    """*header* as a writer without a digest of the header itself writes it."""
    fields = {name: value for name, value in header.items() if name != "header_sha256"}
    return json.dumps(fields, separators=(",", ":")).encode()
