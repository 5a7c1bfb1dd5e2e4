"""`ndoo verify`: whether source, feed and replicas hold the same opt-outs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from ndoo.cli.comparison import show
from ndoo.cli.console import FAILED, tell
from ndoo.cli.load import drawn_at_option, feed_to_read, read_source, skip_bad_option
from ndoo.cli.options import (
    Manner,
    channel_to,
    checked_target,
    column_option,
    feed_option,
    manner_options,
)
from ndoo.client import CallFailed, get_register
from ndoo.client.crew import each_aside
from ndoo.client.errors import ClientError
from ndoo.errors import NdooError

if TYPE_CHECKING:
    from pyroaring import BitMap

    from ndoo.feed.feed import Feed
    from ndoo.publish.source import Settled
    from ndoo.revision import Revision
    from ndoo.v1 import check_pb2

SAME, DIFFERS, NOT_ASKED = "same", "differs", "not asked"
UNASKED = 3

_WAIT_S = 30.0
_PAUSE_S = 0.2
_ELSEWHERE = frozenset({"OTHER_GENERATION", "REVISION_NOT_REACHED"})
"""Refusals that say that a replica is not where the feed is. Any other says nothing about it."""

_PASSING = frozenset({"OTHER_GENERATION", "NOT_LOADED"})
"""Refusals of a replica that has still to move over to the feed's register."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one of those compared stands to the feed, in a word and in a sentence."""

    who: str
    outcome: str
    opt_outs: int | None = None
    why: str = ""


def checked_targets(
    context: click.Context, parameter: click.Parameter, targets: tuple[str, ...]
) -> tuple[str, ...]:
    """*targets* if each reads HOST:PORT. Raises BadParameter."""
    return tuple(checked_target(context, parameter, target) for target in targets)


@click.command()
@click.argument("file", metavar="[FILE]", required=False)
@feed_option
@click.option(
    "--target",
    "targets",
    metavar="HOST:PORT",
    multiple=True,
    callback=checked_targets,
    help="A replica to compare; may be given several times.",
)
@column_option
@drawn_at_option
@skip_bad_option
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=_WAIT_S,
    show_default=True,
    help="How long replicas may take to reach the feed's revision.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@manner_options
@click.pass_context
def verify(
    context: click.Context,
    file: str | None,
    feed: str | None,
    targets: tuple[str, ...],
    column: str | None,
    drawn_at: int | None,
    skip_bad: bool,
    wait_s: float,
    as_json: bool,
    manner: Manner,
) -> None:
    """Compare the source FILE, a feed as it is now, and replicas, by revision, count and digest.

    \b
    ndoo verify --feed dir:./feed --target 10.0.0.1:50551 --target 10.0.0.2:50551
    ndoo verify opted-out.dat --drawn-at 2026-03-01T09:30:00Z --feed dir:./feed

    Replicas are asked at the feed's revision, from the tables that answer checks. FILE is the same
    as the feed if loading it would change nobody: choices recorded after --drawn-at are no
    difference.

    Exit codes: 0 all the same, 1 something differs, 2 wrong usage, 3 something could not be asked.
    """  # noqa: D301  (\b is for click)
    try:
        with feed_to_read(feed) as reading:
            source = read_source(file, column, skip_bad=skip_bad)[0] if file else None
            ask = partial(_of_replica, manner=manner, wait_s=wait_s)
            findings, settled = _verify(reading, source, targets, drawn_at, ask)
    except (NdooError, ClientError, OSError) as error:
        tell(f"Error: {error}")
        context.exit(UNASKED)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        click.echo(_lines(findings))
        if settled:
            show(settled)
    outcomes = {finding.outcome for finding in findings}
    if DIFFERS in outcomes:
        context.exit(FAILED)
    if NOT_ASKED in outcomes:
        context.exit(UNASKED)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What every replica of the feed has to hold."""

    revision: Revision
    opt_outs: int
    digest: bytes


def _verify(
    feed: Feed,
    source: BitMap | None,
    targets: Sequence[str],
    drawn_at_ms: int | None,
    ask: Callable[[str, _Expected], Finding],
) -> tuple[list[Finding], Settled | None]:
    """All findings, the feed's first, and the source beside the register if there is one."""
    from ndoo.publish.fold import fold, settle_with  # noqa: PLC0415  (the base install has none)
    from ndoo.publish.source import Terms  # noqa: PLC0415
    from ndoo.register.digest import digest_of  # noqa: PLC0415

    found = fold(feed)
    register = found.register
    expected = _Expected(register.revision, len(register), digest_of(register.keys()))
    findings = [Finding("feed", SAME, expected.opt_outs)]
    settled = None
    if source is not None:
        settled, _ = settle_with(feed, found, source, Terms(drawn_at_ms, jump_max=math.inf))
        findings.append(_of_source(settled, len(source)))
    findings += each_aside(lambda each: ask(each, expected), targets, threads=len(targets))
    return findings, settled


def _of_source(settled: Settled, count: int) -> Finding:
    if not settled.added and not settled.released:
        return Finding("source", SAME, count)
    why = f"loading it would opt out {len(settled.added):,} and release {len(settled.released):,}"
    return Finding("source", DIFFERS, count, f"{why}.")


def _of_replica(target: str, expected: _Expected, *, manner: Manner, wait_s: float) -> Finding:
    deadline = time.monotonic() + wait_s
    while True:
        left_s = deadline - time.monotonic()
        try:
            return _of_answer(target, _ask(target, manner, expected, left_s), expected)
        except CallFailed as error:
            if error.reason not in _PASSING or left_s <= _PAUSE_S:
                outcome = DIFFERS if error.reason in _ELSEWHERE else NOT_ASKED
                return Finding(target, outcome, why=str(error))
        except ClientError as error:
            return Finding(target, NOT_ASKED, why=str(error))
        time.sleep(_PAUSE_S)


def _ask(
    target: str, manner: Manner, expected: _Expected, timeout_s: float
) -> check_pb2.GetRegisterResponse:
    token = expected.revision.token
    with channel_to(target, manner) as channel:
        return get_register(channel, exactly_at=token, with_digest=True, timeout_s=timeout_s)


def _of_answer(target: str, told: check_pb2.GetRegisterResponse, expected: _Expected) -> Finding:
    if not told.digest:
        return Finding(target, NOT_ASKED, why="It tells no digest; it is of an older version.")
    count = told.opt_outs
    if told.revision.token != expected.revision.token:
        return Finding(target, DIFFERS, count, "It answers at another revision than it was asked.")
    if count != expected.opt_outs:
        why = f"It holds {count:,} opt-outs, and the feed {expected.opt_outs:,}."
        return Finding(target, DIFFERS, count, why)
    if told.digest != expected.digest:
        return Finding(target, DIFFERS, count, "It holds as many opt-outs, but of other people.")
    return Finding(target, SAME, count)


def _lines(findings: Sequence[Finding]) -> str:
    width = max(len(finding.who) for finding in findings)
    return "\n".join(
        f"{finding.who:<{width}}  {_count(finding.opt_outs):>14}  {finding.outcome:<9}  "
        f"{finding.why}".rstrip()
        for finding in findings
    )


def _count(opt_outs: int | None) -> str:
    return "" if opt_outs is None else f"{opt_outs:,}"
