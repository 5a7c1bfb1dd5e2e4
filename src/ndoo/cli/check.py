"""`ndoo check`: the rows of a file that may be disclosed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click
import grpc
import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.cli.block import BadRows, Block, Rows
from ndoo.cli.console import tell
from ndoo.cli.options import channel_to, column_option, target_option
from ndoo.cli.output import Spool, WholeFile, refuse_existing, spool, whole_file
from ndoo.cli.rows import open_list, read_rows
from ndoo.cli.status import rfc_3339
from ndoo.client import (
    NUMBERS_PER_CHUNK_MAX,
    ChunkAnswer,
    IncompleteAnswer,
    Summary,
    check_stream,
    get_register,
)
from ndoo.errors import InputError
from ndoo.nhs_number import Numbers

_CONNECT_S = 10.0
_MESSAGE_OVERHEAD_BYTES = 1024
_NUMBER_BYTES = 8


@click.command()
@click.argument("file", metavar="FILE")
@target_option
@column_option
@click.option("--output", metavar="FILE", help='Where the cleared rows go; "-" is standard output.')
@click.option("--report", metavar="FILE", help="Where a report goes: counts, revision, bad rows.")
@click.option("--at-least-as-fresh", metavar="TOKEN", default="", help="Wait for this revision.")
@click.option("--force", is_flag=True, help="Replace existing files.")
def check(file: str, **options: Any) -> None:
    """Write the rows of FILE ("-" is standard input) whose people have not opted out.

    \b
    ndoo check cohort.dat                                      writes cohort.cleared.dat
    ndoo check cohort.csv --column nhs_number --report cohort.json
    ndoo check - --output - < cohort.dat | ...

    FILE holds one NHS number a row (a trailing comma is fine), or is CSV with --column. Cleared
    rows are written as they stood. A row without a valid number is told by line and reason, is
    never cleared, and does not sink the others.

    The output appears when every row has been answered, from one revision of the register, and all
    counts add up; else there is none. Exit code 0 then, also with bad rows; 1 if not answered.
    """  # noqa: D301  (\b is for click)
    job = _Job.planned(file, **options)
    with open_list(file) as source:
        rows = read_rows(source, job.column)
        with contextlib.ExitStack() as files:
            output = files.enter_context(job.open_output())
            report = files.enter_context(job.open_report())
            output.file.write(rows.header)
            summary = job.run(source, rows, output.file)
            finished = [output]
            if report is not None:
                report.file.write(job.report_of(summary).encode())
                finished.append(report)
            for made in finished:
                made.settle()
            for made in finished:
                made.publish()
    job.tell(summary)


@dataclass(slots=True)
class _Job:
    """One run of the command."""

    target: str
    column: str | None
    output: Path | None
    report: Path | None
    at_least_as_fresh: str
    force: bool
    bad: BadRows = field(default_factory=BadRows)

    @classmethod
    def planned(
        cls, file: str, *, output: str | None, report: str | None, force: bool, **options: Any
    ) -> _Job:
        """What is to be done. Raises InputError if a file is in the way."""
        given = Path(file)
        if not given.name:
            raise InputError("FILE is a folder; name a file in it.")
        default = "-" if file == "-" else given.with_name(f"{given.stem}.cleared{given.suffix}")
        path = None if (output or default) == "-" else Path(output or default)
        job = cls(output=path, report=Path(report) if report else None, force=force, **options)
        targets = [target for target in (job.output, job.report) if target is not None]
        for target in targets:
            refuse_existing(target, force=force)
        if len({os.path.realpath(path) for path in (given, *targets)}) <= len(targets):
            raise InputError("The file, its output and its report must be different files.")
        return job

    def open_output(self) -> contextlib.AbstractContextManager[WholeFile | Spool]:
        if self.output is None:
            return spool(sys.stdout.buffer)
        return whole_file(self.output, force=self.force)

    def open_report(self) -> contextlib.AbstractContextManager[WholeFile | None]:
        if self.report is None:
            return contextlib.nullcontext()
        return whole_file(self.report, force=self.force)

    def run(self, source: BinaryIO, rows: Rows, sink: BinaryIO) -> Summary:
        """Stream all rows, and write the cleared ones into *sink*."""
        pending: deque[Block] = deque()
        with channel_to(self.target) as channel, _progress(source) as advance:
            chunks = _numbers(rows, _rows_max(channel), pending)
            freshness = self.at_least_as_fresh
            with check_stream(channel, chunks, at_least_as_fresh=freshness) as stream:
                for answer in stream:
                    block = pending.popleft()
                    sink.write(block.select(_cleared(block, answer)))
                    self.bad.note(block, answer.invalid_mask())
                    advance()
            return stream.summary

    def report_of(self, summary: Summary) -> str:
        facts = {
            "received": summary.received,
            "cleared": summary.cleared,
            "opted_out": summary.opted_out,
            "invalid": summary.invalid,
            "revision": summary.revision.token,
            "as_of": rfc_3339(summary.revision.as_of),
            "bad_rows_total": self.bad.total,
            "bad_rows": [{"line": line, "reason": reason} for line, reason in self.bad.kept],
        }
        return json.dumps(facts, indent=2) + "\n"

    def tell(self, summary: Summary) -> None:
        self.bad.tell()
        say: Callable[[str], None] = tell if self.output is None else click.echo
        say(
            f"{summary.received:,} rows: {summary.cleared:,} cleared, {summary.opted_out:,} opted "
            f"out, {summary.invalid:,} invalid, as of {rfc_3339(summary.revision.as_of)}."
        )
        say(f"Revision: {summary.revision.token}")
        if self.output is not None:
            say(f"Cleared rows: {click.format_filename(self.output)}")


def _numbers(rows: Rows, rows_max: int, pending: deque[Block]) -> Iterator[Numbers]:
    """The numbers of all rows, block by block; *pending* holds the blocks not answered yet."""
    for block in rows.blocks(rows_max):
        pending.append(block)
        yield block.numbers


def _cleared(block: Block, answer: ChunkAnswer) -> npt.NDArray[np.bool_]:
    """Which rows of *block* may be disclosed: cleared, and by our own reading valid as well."""
    cleared = answer.cleared_mask()
    if np.any(cleared & ~nhs_number.valid(block.numbers)):
        raise IncompleteAnswer("The service cleared a row without a valid number: do not trust it.")
    return cleared


def _rows_max(channel: grpc.Channel) -> int:
    """How many numbers go into one message: what the service takes, and at most a chunk."""
    limits = get_register(channel, timeout_s=_CONNECT_S).limits
    fitting = (limits.bytes_per_message - _MESSAGE_OVERHEAD_BYTES) // _NUMBER_BYTES
    told = [limit for limit in (limits.numbers_per_message, fitting) if limit > 0]
    return min(NUMBERS_PER_CHUNK_MAX, *told)


@contextlib.contextmanager
def _progress(source: BinaryIO) -> Iterator[Callable[[], None]]:
    """A bar on stderr by bytes read, if somebody watches; yields what moves it."""
    if not (sys.stderr.isatty() and source.seekable()):
        yield lambda: None
        return
    at = source.tell()
    size = source.seek(0, 2)
    source.seek(at)
    with click.progressbar(length=size, label="Checking", file=sys.stderr) as bar:
        yield lambda: bar.update(source.tell() - bar.pos)
