"""The demo's measurements: streams against the truth, and changes until they show."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING

import click
import grpc
import numpy as np

from ndoo import nhs_number
from ndoo.cli.demo_data import Bits, Questions
from ndoo.client import (
    NUMBERS_PER_CHUNK_MAX,
    Summary,
    Verdict,
    check,
    check_stream,
    get_register,
    open_channel,
)
from ndoo.client.crew import Crew, Outcome
from ndoo.nhs_number import Numbers

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher

_STREAMS = 2
_CALL_S_MAX = 30.0
_BAR_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Streamed:
    """What the streams brought, over all of them, and how many answers were not the truth."""

    streams: int
    received: int
    cleared: int
    opted_out: int
    invalid: int
    wrong: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """One change: what was recorded, the verdict that came of it, and how long that took."""

    change: str
    verdict: str
    visible_ms: float


@dataclass(slots=True)
class _Share:
    """What one stream asks, and the bits that it got so far."""

    channel: grpc.Channel
    numbers: Numbers
    answered: int = 0
    cleared: list[Bits] = field(default_factory=list)
    invalid: list[Bits] = field(default_factory=list)

    def run(self, exactly_at: str) -> Summary:
        size = NUMBERS_PER_CHUNK_MAX
        chunks = (self.numbers[at : at + size] for at in range(0, len(self.numbers), size))
        with check_stream(self.channel, chunks, exactly_at=exactly_at) as stream:
            for answer in stream:
                self.cleared.append(answer.cleared)
                self.invalid.append(answer.invalid)
                self.answered += answer.count
        return stream.summary


def ask_all(target: str, questions: Questions) -> Streamed:
    """Stream *questions* to *target*, all at one revision, and compare every answer.

    Only the streaming is timed. Raises CallFailed or IncompleteAnswer.
    """
    with contextlib.ExitStack() as channels:
        shares = [
            _Share(channels.enter_context(open_channel(target)), numbers)
            for numbers in _shared_out(questions.numbers)
        ]
        tokens = [get_register(share.channel).revision.token for share in shares]  # connects
        started = time.perf_counter()
        summaries = _run_all(shares, tokens[0])
        seconds = time.perf_counter() - started
    return Streamed(
        streams=len(shares),
        received=sum(summary.received for summary in summaries),
        cleared=sum(summary.cleared for summary in summaries),
        opted_out=sum(summary.opted_out for summary in summaries),
        invalid=sum(summary.invalid for summary in summaries),
        wrong=_wrong(shares, questions),
        seconds=seconds,
    )


def show_changes(target: str, publisher: Publisher, key: int) -> list[Shown]:
    """Record an opt-out and an opt-in of *key*, and wait for the verdict to follow each.

    Raises ClickException if it does not.
    """
    from ndoo.register.changes import Change, Kind  # noqa: PLC0415  (the base install cannot)

    number = f"{nhs_number.numbers_of([key])[0]:010d}"
    shown = []
    with open_channel(target) as channel:
        for kind, verdict in ((Kind.OPT_OUT, Verdict.OPTED_OUT), (Kind.OPT_IN, Verdict.CLEARED)):
            publisher.append([Change(kind, key=key)])
            visible_ms = round(_wait_for(channel, number, verdict) * 1000, 2)
            shown.append(Shown(kind.value, verdict.name, visible_ms))
    return shown


def _shared_out(numbers: Numbers) -> Iterator[Numbers]:
    """*numbers* in one part a stream, of whole chunks but for the last."""
    chunks = -(-len(numbers) // NUMBERS_PER_CHUNK_MAX)
    size = -(-chunks // _STREAMS) * NUMBERS_PER_CHUNK_MAX
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _run_all(shares: Sequence[_Share], exactly_at: str) -> list[Summary]:
    crew = Crew(len(shares))
    try:
        runs = [crew.begin(partial(share.run, exactly_at)) for share in shares]
        return _results(runs, shares)
    except BaseException:
        for share in shares:
            share.channel.close()  # ends the other streams, which are waited for
        raise
    finally:
        crew.dismiss()
        crew.wait()


def _results(runs: Sequence[Outcome[Summary]], shares: Sequence[_Share]) -> list[Summary]:
    """What comes of *runs*; a bar on stderr until all are done, if somebody watches."""
    if not sys.stderr.isatty():
        return [run.result() for run in runs]
    length = sum(len(share.numbers) for share in shares)
    summaries: list[Summary] = []
    with click.progressbar(length=length, label="Streaming", file=sys.stderr) as bar:
        while len(summaries) < len(runs):
            with contextlib.suppress(Empty):
                summaries.append(runs[len(summaries)].result(_BAR_STEP_S))
            bar.update(sum(share.answered for share in shares) - bar.pos)
    return summaries


def _wrong(shares: Sequence[_Share], questions: Questions) -> int:
    """How many verdicts are not the truth."""
    cleared = np.concatenate([bits for share in shares for bits in share.cleared])
    invalid = np.concatenate([bits for share in shares for bits in share.invalid])
    differing = (cleared ^ questions.cleared) | (invalid ^ questions.invalid)
    return int(np.bitwise_count(differing).sum(dtype=np.int64))


def _wait_for(channel: grpc.Channel, number: str, verdict: Verdict) -> float:
    """Ask until the answer is *verdict*; seconds from now."""
    started = time.perf_counter()
    while check(channel, number, timeout_s=_CALL_S_MAX).verdict is not verdict:
        if time.perf_counter() - started > _CALL_S_MAX:
            raise click.ClickException("A recorded change has not shown within half a minute.")
    return time.perf_counter() - started
