"""What replicas say of themselves, and what is wrong with it: one by one, and side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ndoo.cli.options import Manner, channel_to
from ndoo.client import ClientError, get_register
from ndoo.client import Revision as Told
from ndoo.client.answers import read_revision
from ndoo.client.crew import each_aside
from ndoo.errors import BadToken
from ndoo.revision import Revision
from ndoo.v1 import check_pb2

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one replica said, or *why* it said nothing. *at* is Unix seconds, *read_at* a count of
    seconds that no clock sets back.
    """

    target: str
    at: float
    read_at: float
    register: check_pb2.GetRegisterResponse | None = None
    told: Told | None = None
    why: str = ""

    @property
    def phase(self) -> str:
        """As the service names it, or NO_ANSWER."""
        if self.register is None:
            return "NO_ANSWER"
        phase = self.register.phase
        known = phase in check_pb2.Phase.values()
        return check_pb2.Phase.Name(phase).removeprefix("PHASE_") if known else "UNKNOWN"

    @property
    def revision(self) -> Revision | None:
        """None before a register is loaded, or if its token is not readable here."""
        try:
            return Revision.from_token(self.told.token) if self.told else None
        except BadToken:
            return None

    @property
    def age_s(self) -> float | None:
        """Seconds since the replica knew that it had every change; two clocks."""
        return max(0.0, self.at - self.told.as_of.timestamp()) if self.told else None


@dataclass(frozen=True, slots=True)
class Rates:
    """What a replica did in a second, between two readings."""

    numbers: float
    calls: float
    changes: float


def read(targets: Sequence[str], manner: Manner) -> list[Reading]:
    """One reading of each, all at once. Raises OSError if a certificate cannot be read."""
    return each_aside(partial(_read, manner=manner), targets, threads=len(targets))


def rates(before: Reading | None, after: Reading) -> Rates | None:
    """None if they cannot be told: one reading, no answer, or a restart in between."""
    if before is None or before.register is None or after.register is None:
        return None
    then, now = before.register.activity, after.register.activity
    if not now.HasField("started_at") or then.started_at != now.started_at:
        return None
    elapsed_s = after.read_at - before.read_at
    differences = (now.numbers - then.numbers, now.calls - then.calls, now.changes - then.changes)
    return Rates(*(difference / elapsed_s for difference in differences))


def trouble(before: Sequence[Reading], after: Sequence[Reading]) -> list[list[str]]:
    """What is wrong with each of *after*, a sentence each; *before* are earlier ones, or none."""
    newest = max(after, key=_seq)
    return [[*_of_one(each), *_beside(each, newest, before)] for each in after]


def _read(target: str, manner: Manner) -> Reading:
    try:
        with channel_to(target, manner) as channel:
            register = get_register(channel, timeout_s=TIMEOUT_S)
        told = read_revision(register.revision) if register.revision.token else None
    except ClientError as error:
        return Reading(target, time.time(), time.monotonic(), why=str(error))
    return Reading(target, time.time(), time.monotonic(), register, told)


def _of_one(reading: Reading) -> list[str]:
    if reading.register is None:
        return [reading.why]
    return [] if reading.phase == "LIVE" else [f"It is not LIVE but {reading.phase}."]


def _beside(reading: Reading, newest: Reading, before: Sequence[Reading]) -> list[str]:
    """How *reading* disagrees with the replica that has come furthest."""
    here, there = reading.revision, newest.revision
    if here is None or there is None or reading.register is None or newest.register is None:
        return []
    if here.generation != there.generation:
        return [f"It is of another generation than {newest.target}."]
    if here.seq == there.seq and reading.register.opt_outs != newest.register.opt_outs:
        return [f"It holds other opt-outs than {newest.target} at the same revision."]
    # Where a replica is behind what another already had before, it is not on its way: it lags.
    reached = [r.seq for each in before if (r := each.revision) and r.generation == here.generation]
    behind = max(reached, default=0) - here.seq
    return [f"It is {behind:,} changes behind {newest.target}."] if behind > 0 else []


def _seq(reading: Reading) -> int:
    revision = reading.revision
    return -1 if revision is None else revision.seq
