"""`ndoo status`: what replicas know, as of when, what they do, and whether they agree."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ndoo.cli.console import FAILED
from ndoo.cli.options import DEFAULT_TARGET, Manner, checked_target, manner_options
from ndoo.cli.reading import Reading, rates, read, trouble
from ndoo.client import ClientError

PAUSE_S = 1.0
"""Between the two readings that rates, and a replica that lags, are told from."""

_CLEAR = "\x1b[H\x1b[2J"
_NONE = "-"


def checked_targets(
    context: click.Context, parameter: click.Parameter, targets: tuple[str, ...]
) -> tuple[str, ...]:
    """*targets*, or the usual one, if each reads HOST:PORT. Raises BadParameter."""
    given = targets or (DEFAULT_TARGET,)
    return tuple(checked_target(context, parameter, target) for target in given)


@click.command()
@click.argument("targets", metavar="[HOST:PORT]...", nargs=-1, callback=checked_targets)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each replica.")
@click.option("--watch", "is_watched", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="With --watch, how often to look.",
)
@manner_options
@click.pass_context
def status(
    context: click.Context,
    targets: tuple[str, ...],
    as_json: bool,
    is_watched: bool,
    every_s: float,
    manner: Manner,
) -> None:
    """Say what the service at each HOST:PORT (127.0.0.1:50551) knows, as of when, and what it does.

    \b
    ndoo status
    ndoo status 10.0.0.1:50551 10.0.0.2:50551 --watch
    ndoo status checks.internal:50551 --json

    Takes two readings, a second apart. With --watch a terminal shows the newest table, and anything
    else gets one line a reading. --json prints one object, or an array of them for several
    replicas; what is wrong with each is its "trouble".

    Exit code 0 if all are LIVE and agree, else 1; with --watch, as of the last reading.
    """  # noqa: D301  (\b is for click)
    is_fine = True
    show = _as_json if as_json else _as_line if is_watched and not _is_terminal() else _as_table
    with contextlib.suppress(KeyboardInterrupt) if is_watched else contextlib.nullcontext():
        for before, after in _pairs(targets, manner, every_s if is_watched else PAUSE_S):
            facts = _facts(before, after)
            is_fine = not any(each["trouble"] for each in facts)
            if show is _as_table and not is_watched and all(each.why for each in after):
                raise ClientError(" ".join(each.why for each in after))
            redraw = _CLEAR if show is _as_table and is_watched else ""
            click.echo(redraw + show(facts))
            if not is_watched:
                break
    if not is_fine:
        context.exit(FAILED)


def _pairs(
    targets: Sequence[str], manner: Manner, pause_s: float
) -> Iterator[tuple[list[Reading], list[Reading]]]:
    """Each reading with the one before it, so many seconds apart."""
    before = read(targets, manner)
    while True:
        time.sleep(pause_s)
        after = read(targets, manner)
        yield before, after
        before = after


def _facts(before: Sequence[Reading], after: Sequence[Reading]) -> list[dict[str, Any]]:
    """What there is to say of each replica, its names as in JSON."""
    found = trouble(before, after)
    return [_of(*each) for each in zip(before, after, found, strict=True)]


def _of(before: Reading, after: Reading, found: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"target": after.target, "phase": after.phase, "trouble": found}
    register = after.register
    if register is None:
        return facts
    activity, done = register.activity, rates(before, after)
    has_activity = activity.HasField("started_at")
    return facts | {
        "opt_outs": register.opt_outs,
        "revision": after.told.token if after.told else None,
        "seq": after.revision.seq if after.revision else None,
        "as_of": rfc_3339(after.told.as_of) if after.told else None,
        "age_s": None if after.age_s is None else round(after.age_s, 3),
        "numbers_per_s": round(done.numbers, 1) if done else None,
        "calls_per_s": round(done.calls, 1) if done else None,
        "changes_per_s": round(done.changes, 1) if done else None,
        "streams": activity.streams if has_activity else None,
        "streams_max": register.limits.streams,
        "numbers_per_message_max": register.limits.numbers_per_message,
        "message_bytes_max": register.limits.bytes_per_message,
        "started_at": rfc_3339(activity.started_at.ToDatetime(dt.UTC)) if has_activity else None,
        "version": register.version,
    }


def rfc_3339(moment: dt.datetime) -> str:
    """*moment* (UTC) with milliseconds and Z."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _as_json(facts: Sequence[dict[str, Any]]) -> str:
    return json.dumps(facts[0] if len(facts) == 1 else facts)


def _as_line(facts: Sequence[dict[str, Any]]) -> str:
    now = rfc_3339(dt.datetime.now(dt.UTC))
    return "  ".join([now, *(f"{each['target']} {_in_short(each)}" for each in facts)])


def _in_short(facts: dict[str, Any]) -> str:
    wrong = " ".join(facts["trouble"])
    shown = ("seq", "opt_outs", "age_s", "numbers_per_s", "calls_per_s", "streams")
    told = [f"{name}={_shown(facts[name])}" for name in shown if name in facts]
    return " ".join([facts["phase"], *told, *([f"({wrong})"] if wrong else [])])


def _as_table(facts: Sequence[dict[str, Any]]) -> str:
    """A column for each replica, and below what is wrong."""
    names = list(dict.fromkeys(name for each in facts for name in each if name != "trouble"))
    columns = [[_shown(each.get(name)) for name in names] for each in facts]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join([f"{name.replace('_', ' '):<24}", *map(str.ljust, row, widths)]).rstrip()
        for name, *row in zip(names, *columns, strict=True)
    ]
    wrong = [f"{each['target']}: {sentence}" for each in facts for sentence in each["trouble"]]
    return "\n".join([*lines, *([""] if wrong else []), *wrong])


def _shown(value: float | str | None) -> str:
    if value is None:
        return _NONE
    return value if isinstance(value, str) else f"{value:,}"
