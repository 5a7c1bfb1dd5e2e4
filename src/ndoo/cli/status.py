"""`ndoo status`: what a service knows, as of when."""

from __future__ import annotations

import datetime as dt
import json

import click

from ndoo.cli.console import FAILED
from ndoo.cli.options import DEFAULT_TARGET, channel_to, checked_target
from ndoo.client import get_register
from ndoo.client.answers import read_revision
from ndoo.v1 import check_pb2

_TIMEOUT_S = 10.0


@click.command()
@click.argument("target", metavar="[HOST:PORT]", default=DEFAULT_TARGET, callback=checked_target)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, target: str, as_json: bool) -> None:
    """Say what the service at HOST:PORT (127.0.0.1:50551) knows, and as of when.

    \b
    ndoo status
    ndoo status checks.internal:50551 --json

    Exit code 0 if it is LIVE, else 1.
    """  # noqa: D301  (\b is for click)
    with channel_to(target) as channel:
        register = get_register(channel, timeout_s=_TIMEOUT_S)
    facts = _facts(register)
    click.echo(json.dumps(facts) if as_json else _lines(facts))
    if register.phase != check_pb2.PHASE_LIVE:
        context.exit(FAILED)


def _facts(register: check_pb2.GetRegisterResponse) -> dict[str, str | int | None]:
    revision = read_revision(register.revision) if register.revision.token else None
    return {
        "phase": _phase(register.phase),
        "opt_outs": register.opt_outs,
        "revision": revision.token if revision else None,
        "as_of": rfc_3339(revision.as_of) if revision else None,
        "numbers_per_message_max": register.limits.numbers_per_message,
        "message_bytes_max": register.limits.bytes_per_message,
        "streams_max": register.limits.streams,
        "version": register.version,
    }


def rfc_3339(moment: dt.datetime) -> str:
    """*moment* (UTC) with milliseconds and Z."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _phase(phase: int) -> str:
    known = phase in check_pb2.Phase.values()
    return check_pb2.Phase.Name(phase).removeprefix("PHASE_") if known else "UNKNOWN"


def _lines(facts: dict[str, str | int | None]) -> str:
    return "\n".join(
        f"{name.replace('_', ' ') + ':':<25}{_shown(value)}" for name, value in facts.items()
    )


def _shown(value: str | int | None) -> str:
    if value is None:
        return "none yet"
    return f"{value:,}" if isinstance(value, int) else value
