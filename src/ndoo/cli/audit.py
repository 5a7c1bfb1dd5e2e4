"""`ndoo audit`: whether the records of calls are all there, as they were written."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from ndoo.cli.console import FAILED, tell
from ndoo.cli.progress import progress
from ndoo.errors import InputError
from ndoo.ops.audit_chain import CALL, STARTED, TORN, Head
from ndoo.ops.audit_file import Part, parts_of
from ndoo.ops.audit_verify import Findings
from ndoo.ops.audit_verify import verify as verify_parts


@click.group()
def audit() -> None:
    """Look into the records of calls."""


def _checked_heads(
    _context: click.Context, _parameter: click.Parameter, heads: tuple[str, ...]
) -> tuple[Head, ...]:
    """*heads* if each reads NUMBER:HASH. Raises BadParameter."""
    try:
        return tuple(map(Head.parse, heads))
    except InputError as refused:
        raise click.BadParameter(str(refused)) from None


@audit.command()
@click.argument("path", metavar="[PATH]", required=False)
@click.option(
    "--head",
    "heads",
    metavar="NUMBER:HASH",
    multiple=True,
    callback=_checked_heads,
    help="A head that the service's log tells (the event audit_head), or that this command printed "
    "for the files before; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    context: click.Context, path: str | None, heads: tuple[Head, ...], as_json: bool
) -> None:
    """Prove that no record at PATH (NDOO_AUDIT) was removed, changed, moved or put in.

    \b
    ndoo audit verify /var/lib/ndoo/audit.jsonl
    ndoo audit verify audit.jsonl --head 48_213:abhc…

    All files of PATH are read, those it was rotated to first. That the last records were cut off
    shows only by a head that the service's log tells of later ones: give it with --head.

    Exit code 0 if the records are whole, else 1.
    """  # noqa: D301  (\b is for click)
    parts = _parts(path or os.environ.get("NDOO_AUDIT", ""))
    with progress(sum(part.path.stat().st_size for part in parts)) as show:
        findings = verify_parts(parts, heads, show)
    if as_json:
        click.echo(json.dumps(_facts(findings)))
    else:
        _tell(findings)
    if findings.broken:
        context.exit(FAILED)


def _parts(path: str) -> list[Part]:
    if not path:
        raise InputError("No audit is named; give its PATH, or set NDOO_AUDIT.")
    parts = parts_of(Path(path))
    if not parts:
        raise InputError(f"There are no audit records at {path}; name another file.")
    return parts


def _facts(findings: Findings) -> dict[str, object]:
    broken = findings.broken
    return {
        "whole": broken is None,
        "files": findings.files,
        "first": findings.first.number if findings.first else None,
        "first_at": findings.first_at or None,
        "last_at": findings.last_at or None,
        "calls": findings.kinds[CALL],
        "starts": findings.kinds[STARTED],
        "torn": findings.kinds[TORN],
        "lost": findings.lost,
        "head": str(findings.last) if findings.last else None,
        "broken": asdict(broken) | {"file": str(broken.file)} if broken else None,
    }


def _tell(findings: Findings) -> None:
    if findings.first and findings.last:
        click.echo(
            f"Records {findings.first.number:,} to {findings.last.number:,} fit together, "
            f"from {findings.first_at} to {findings.last_at}:"
        )
        click.echo(
            f"{findings.kinds[CALL]:,} calls, {findings.kinds[STARTED]:,} starts, "
            f"{findings.kinds[TORN]:,} records cut short, {findings.lost:,} not kept."
        )
        click.echo(f"The last is {findings.last}.")
    if findings.broken:
        tell(f"{findings.broken.file}, line {findings.broken.line:,}: {findings.broken.why}.")
