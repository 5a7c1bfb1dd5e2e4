"""Judges every state that a replica publishes and every answer it gives, against the truth.

Wrong is, in the order of what it would do to people:

1. cleared, though opted out at the revision that the answer names;
2. any other answer that differs from the state at that revision;
3. a revision that goes on from a history other than the one this replica published before;
4. `as_of` at a moment at which storage held what the revision lacks;
5. an answer while suspended at that revision, or from a state older than the limit;
6. an earlier revision of the same history that is not what it was, or its `as_of`.

Where storage forgot changes and gave their numbers to others, one revision has two states. A
replica that published of the one may never go on to the other (3). Which of them a replica follows
that knew neither, nobody can tell who does not see the sequence of servers from outside, and the
truth follows storage: `as_of` is held to what storage held at that moment and has not lost since:
what was asked of one server, another may have answered. Nor can a replica tell whose last change
was trimmed before it looked again, or stands there with the same number, content and id (recorded
again in the same millisecond of a slower clock) after others than before, or that finds storage
back at a generation which it never saw: nothing that is left speaks of it. Such cases are counted,
as beyond proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ndoo import nhs_number
from ndoo.errors import NotAnswering, RevisionGone
from ndoo.register.replica import CLOCK_BACK_S_MAX, Replica, State
from ndoo.register.view import Verdict, View
from ndoo.revision import Revision
from simulator.clocks import Clock
from simulator.truth import Node, Truth
from support.people import KEYS

ACTIVE = 30
"""So many people choose; the next BACKGROUND are opted out throughout."""

BACKGROUND = 300
AGE_S_MAX = 8.0
ASKED_EVERY_S_MAX = 1.0
PAST_ASKED_EVERY = 5
PAST_CHANGES_MAX = 30
NUMBERS = nhs_number.numbers_of(KEYS[: ACTIVE + 20]).astype(np.uint64)


@dataclass
class Oracle:
    """Keeps what one replica published since it last lost its memory."""

    name: str
    truth: Truth
    clock: Clock
    retained_from: Callable[[], int]  # the number of the first change that storage still holds
    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    answered_past: int = 0
    refused: int = 0
    beyond_proof: int = 0
    shown: list[Node] = field(default_factory=list)  # what the view in use may be
    known: list[Node] = field(default_factory=list)  # what was reached, by earlier processes too
    restored: bool = False  # only by earlier processes so far
    _before: list[Node] = field(default_factory=list)  # what the process before knew
    _left: list[Node] = field(default_factory=list)  # and went on from without proof
    since: float = 0.0  # it follows what storage holds; an `as_of` from before is of a lost history
    eras: set[int] = field(default_factory=set)  # the generations it saw
    _judged: tuple[View | None, float] = (None, 0.0)

    def forget(self) -> None:
        """The replica's memory is gone."""
        self._before, self.known, self.shown, self.eras = self.known, [], [], set()
        self.restored = False
        self._judged = (None, 0.0)

    def remember(self, reached: Revision) -> None:
        """It kept a state in which it had published *reached*."""
        nodes = self.truth.nodes.get((reached.generation, reached.seq), [])
        own = [node for node in nodes if any(each.includes(node) for each in self._before)]
        self.known = own or nodes
        self.eras = {node.era for node in self.known}
        self.restored = True

    def on_state(self, state: State) -> None:
        """Judge a publication. Raises nothing: who tells of it would not pass it on."""
        try:
            self._judge(state)
        except Exception as error:  # noqa: BLE001  (a fault of the oracle or worse)
            self.wrong.append(f"{self.name}: judging raised {error!r}")

    def _judge(self, state: State) -> None:
        view = state.view
        if view is None or (view, state.as_of) == self._judged:
            return
        if view is not self._judged[0]:
            self._judge_view(view)
        self._judged = (view, state.as_of)
        if not self.shown:
            return
        asked_at = self.clock.real(state.as_of)
        tip = self._held_since(asked_at)
        if tip is not None and not any(node.includes(tip) for node in self.shown):
            self._is_wrong(f"as_of {asked_at:.3f} at which storage had come to {_told(tip)}", view)

    def _held_since(self, moment: float) -> Node | None:
        """What storage had come to at *moment*, unless it has lost that again: what was asked of
        one server, another may have answered.
        """
        tip, now = self.truth.tip_at(moment), self.truth.tip
        if moment < self.since or tip is None or now is None:
            return None
        return tip if now.includes(tip) else None

    def ask(self, replica: Replica) -> None:
        """Ask *replica* about everybody, as a call does, and judge the answers."""
        now = self.clock()
        try:
            state = replica.answering_state(now)
        except NotAnswering:
            self.refused += 1
            return
        self.answered += 1
        self._judge_view(state.verified, continues=False)
        followed = self._followed()
        if followed and all(node.suspended for node in followed):
            self._is_wrong("answered while suspended", state.verified)
        if self.answered % PAST_ASKED_EVERY == 0 and self.shown and state.history:
            self._ask_of_the_past(state, self.shown[0])
        as_of = self.clock.real(state.as_of)
        age = self.clock.schedule.now - as_of
        # A clock that is set back a little, each time, makes a state look so much younger.
        unseen = self.clock.set_back_since(as_of, CLOCK_BACK_S_MAX + ASKED_EVERY_S_MAX)
        # Nor does `as_of` go back with the clock: who confirms what is newest by a clock that is
        # slow now keeps the moment that it knew before.
        tip = self.truth.tip
        is_newest = tip is not None and any(node.includes(tip) for node in self.shown)
        if age > AGE_S_MAX + unseen and not is_newest:
            self._is_wrong(f"answered {age:.1f} s after as_of", state.verified)

    def _ask_of_the_past(self, state: State, node: Node) -> None:
        """Ask for an earlier revision of the history that is followed."""
        for _ in range(self.answered % PAST_CHANGES_MAX):
            node = node.parent or node
        try:
            view = state.history.view_at(node.seq, state.verified)
            as_of = self.clock.real_or_recorded(state.history.as_of(node.seq))
        except RevisionGone:
            return
        self.answered_past += 1
        if not any(_opted_out(view) == each.out for each in self._lines(node.seq)):
            self._is_wrong("an earlier revision differs from what it was", view)
        tip = self._held_since(as_of)
        if tip is not None and not any(each.includes(tip) for each in self._lines(node.seq)):
            self._is_wrong(f"as_of {as_of:.3f} of an earlier revision, not of {_told(tip)}", view)

    def _followed(self) -> list[Node]:
        """What the view in use may be, less what does not go on from what was known."""
        return [node for node in self.shown if node in self.known] or self.shown

    def _lines(self, seq: int) -> list[Node]:
        """The states after change *seq* of the histories that this replica may be following."""
        return [each for node in self.shown for each in node.line() if each.seq == seq]

    def _judge_view(self, view: View, *, continues: bool = True) -> None:
        revision = view.revision
        nodes = self.truth.nodes.get((revision.generation, revision.seq), [])
        out = _opted_out(view)
        right = [node for node in nodes if node.out == out]
        if not right:
            self._is_wrong(_difference(out, nodes), view)
        elif view.opt_outs != len(out) + BACKGROUND:
            self._is_wrong(f"{view.opt_outs} opt-outs", view)
        if continues:
            self.shown = right
            self._judge_course(right, view)

    def _judge_course(self, right: list[Node], view: View) -> None:
        """Whether the states that *view* may be go on from what this replica knows."""
        known_once = self.known + self._left
        followed = [n for n in right if any(n.includes(before) for before in self.known)]
        kept = any(known.includes(node) for node in right for known in known_once)
        if self.restored and kept and not followed:
            return  # what it kept, which may be older than what it knows
        self.restored = False
        if self.known and right:
            if not followed and self._is_beyond_proof(right):
                self.beyond_proof += 1
                self._left += self.known
                self.since = self.clock.schedule.now
            elif not followed:
                self._is_wrong(f"does not go on from {_told(self.known[0])}", view)
            right = followed or right
        self.known = right
        self.eras |= {node.era for node in right}

    def _is_beyond_proof(self, right: list[Node]) -> bool:
        """Whether nothing that this replica knows and nothing in storage tells the two apart."""
        return all(self._looks_alike(node, before) for node in right for before in self.known)

    def _looks_alike(self, node: Node, before: Node) -> bool:
        """Whether whoever knows *before* finds nothing amiss in *node*: storage is back at a
        generation that this replica never saw; or it has trimmed the change that was read last,
        and all before it; or has the same one in that very place, after others than before.
        """
        if node.era != before.era:
            return node.era not in self.eras
        if before.seq < self.retained_from():
            return True
        same = (before.seq, before.place, before.tag)
        return any((each.seq, each.place, each.tag) == same for each in node.line())

    def _is_wrong(self, what: str, view: View) -> None:
        seq, generation = view.revision.seq, view.revision.generation
        self.wrong.append(f"{self.name} at {generation[:6]}:{seq}: {what}")


def _told(node: Node) -> str:
    return f"{node.generation[:6]}:{node.seq}"


def _difference(out: frozenset[int], nodes: list[Node]) -> str:
    if not nodes:
        return "a revision that never was"
    cleared, kept = len(nodes[0].out - out), len(out - nodes[0].out)
    return f"{cleared} wrongly cleared, {kept} wrongly opted out"


def _opted_out(view: View) -> frozenset[int]:
    """Who of the active is opted out, asked both ways, which have to agree."""
    answers = view.check_many(NUMBERS)
    cleared = np.unpackbits(np.frombuffer(answers.cleared, np.uint8), bitorder="little")
    for person in (0, ACTIVE - 1):
        single = view.check(int(NUMBERS[person])) is Verdict.CLEARED
        if single != bool(cleared[person]):
            return frozenset({-1})  # equal to no state
    return frozenset(KEYS[p] for p in range(ACTIVE) if not cleared[p])
