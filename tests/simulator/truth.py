"""What really happened, in plain sets: every history that was ever recorded, and when.

It looks at what a feed's storage holds, with a few lines of its own that read entries; nothing of
the register's code is used. Where a fault makes storage forget and go on differently, one revision
has two states, and both are kept.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PLACE = "place"
"""What storage adds to the fields of a change."""

_OTHER_KIND = "unreadable "
_LATER_FORM = {"v": "2"}

Groups = Mapping[int, frozenset[int]]


@dataclass(frozen=True, eq=False)
class Node:
    """One state: after change *seq* of *generation*. *era* counts the generations."""

    generation: str
    era: int
    seq: int
    out: frozenset[int]
    groups: Groups
    suspended: bool
    recorded_at: float
    parent: Node | None = None
    tag: str = ""  # `src` of the change, which names it
    readable: bool = True
    place: str = ""  # where storage has it, by which readers know it again

    def includes(self, other: Node) -> bool:
        """Whether whoever has this state has, or has left behind, all that made *other*."""
        if self.era != other.era:
            return self.era > other.era
        node: Node | None = self
        while node is not None and node.seq > other.seq:
            node = node.parent
        return node is other

    def line(self) -> list[Node]:
        """This state and those before it, of the same generation."""
        found, node = [], self
        while node is not None:
            found.append(node)
            node = node.parent
        return found


@dataclass
class Truth:
    """All histories, and the one that storage holds now: *tip* is its newest state."""

    tip: Node | None = None
    nodes: dict[tuple[str, int], list[Node]] = field(default_factory=dict)
    _moments: list[float] = field(default_factory=list)
    _tips: list[Node] = field(default_factory=list)
    _eras: int = 0

    def begin(
        self,
        generation: str,
        seq: int,
        out: Iterable[int],
        groups: Groups,
        suspended: bool,
        now: float,
    ) -> Node:
        """A load: storage holds a new history."""
        self._eras += 1
        node = Node(
            generation, self._eras, seq, frozenset(out), dict(groups), suspended, now
        )  # fmt: skip
        return self._add(node, now)

    def record(self, fields: Mapping[str, str], now: float) -> Node:
        """A change was recorded after the newest."""
        before = self.tip
        out, groups, suspended, readable = _after(before, fields)
        node = Node(
            *(before.generation, before.era, before.seq + 1, out, groups, suspended, now, before),
            tag=fields.get("src", ""),
            readable=readable,
            place=fields.get(PLACE, ""),
        )
        return self._add(node, now)

    def go_back(self, seq: int, now: float) -> None:
        """Storage lost what came after *seq* of its newest history."""
        node = self.tip
        while node.seq > seq:
            node = node.parent
        self._note(node, now)

    def go_back_to(self, node: Node | None, now: float) -> None:
        """Storage is what it was when *node* was the newest state."""
        self._note(node, now)

    def tip_at(self, moment: float) -> Node | None:
        """The newest state that storage held at *moment*."""
        at = bisect.bisect_right(self._moments, moment)
        return self._tips[at - 1] if at else None

    def _add(self, node: Node, now: float) -> Node:
        self.nodes.setdefault((node.generation, node.seq), []).append(node)
        self._note(node, now)
        return node

    def _note(self, node: Node | None, now: float) -> None:
        self.tip = node
        self._moments.append(now)
        self._tips.append(node)


def unreadable(fields: Mapping[str, str]) -> dict[str, str]:
    """The change of *fields* as no reader understands it: of another kind, or of a later form."""
    if int(fields["seq"]) % 2:
        return {**fields, **_LATER_FORM}
    return {**fields, "op": _OTHER_KIND + fields["op"]}


def key(number: str) -> int:
    return int(number[:9])


def _after(before: Node, fields: Mapping[str, str]) -> tuple[frozenset[int], Groups, bool, bool]:
    """What *fields* make of the state *before*. What cannot be read is told as what was meant."""
    out, groups, op = before.out, before.groups, fields["op"]
    readable = not op.startswith(_OTHER_KIND) and "v" not in fields
    match op.removeprefix(_OTHER_KIND):
        case "suspend":
            return out, groups, True, readable
        case "resume":
            return out, groups, False, readable
        case "opt_out":
            return out | _group(groups, key(fields["nhs"])), groups, before.suspended, readable
        case "opt_in":
            return out - _group(groups, key(fields["nhs"])), groups, before.suspended, readable
    person = _group(groups, key(fields["nhs"])) | _group(groups, key(fields["new"]))
    groups = {**groups, **dict.fromkeys(person, person)}
    return (out | person if person & out else out), groups, before.suspended, readable


def _group(groups: Groups, key: int) -> frozenset[int]:
    return groups.get(key, frozenset({key}))
