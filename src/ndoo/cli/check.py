"""`ndoo check`: the rows of files that may be disclosed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ndoo.cli.block import BadRows
from ndoo.cli.checking import Checking
from ndoo.cli.console import hide_numbers, signals_held, tell
from ndoo.cli.options import Manner, channel_to, manner_options, target_option
from ndoo.cli.output import Made, Spool, WholeFile, spool, whole_file, whole_folder
from ndoo.cli.places import STANDARD, Inputs, refuse_clash
from ndoo.cli.progress import progress
from ndoo.cli.sources import DEFAULT_COLUMN
from ndoo.cli.status import rfc_3339
from ndoo.client import Client, Summary
from ndoo.client.channel import reach
from ndoo.errors import InputError

SOME_INVALID = 3
TIMEOUT_S = 30.0
"""How long a question may take with all its tries; between them the service may restart."""


@click.command()
@click.argument("given", metavar="IN")
@click.argument("output", metavar="OUT", required=False)
@target_option
@click.option(
    "--column",
    metavar="NAME",
    help=f"The column of the NHS numbers. CSV needs it; else it is {DEFAULT_COLUMN}.",
)
@click.option("--report", metavar="FILE", help="Where a report goes: counts, revision, bad rows.")
@click.option("--at-least-as-fresh", metavar="TOKEN", default="", help="Wait for this revision.")
@click.option("--dry-run", is_flag=True, help="Count, and write no rows; OUT may be left out.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@manner_options
@click.pass_context
def check(context: click.Context, /, given: str, output: str | None, **options: Any) -> None:
    """Write those rows of IN into OUT whose people have not opted out.

    \b
    ndoo check cohort.dat cleared.dat
    ndoo check cohort.csv cleared.csv --column nhs_number --report cohort.json
    ndoo check cohort.parquet cleared.parquet
    ndoo check cohort/ cleared/                   a folder, or a pattern in quotes
    ndoo check - - < cohort.dat | ...

    IN is Parquet, an Arrow file or stream, CSV (with --column), or holds one NHS number a row (a
    trailing comma is fine). OUT has the same format, with all cleared rows as they stood. Of a
    folder or a pattern such as 'cohort/*.csv', OUT is a new folder with files of the same names.

    A row without a valid number is told by place and reason, is never cleared, and does not sink
    the others. OUT appears when every row has been answered, from one revision of the register, and
    all counts add up; else there is none.

    Exit codes: 0 if so; 3 if so, and some rows were without a valid number; 1 if not answered.
    """  # noqa: D301  (\b is for click)
    job = _Job.planned(given, output, **options)
    summary = job.run()
    job.tell(summary)
    if summary.invalid:
        context.exit(SOME_INVALID)


@dataclass(slots=True)
class _Job:
    """One run of the command. *output* is None for standard output, or where none is written."""

    inputs: Inputs
    target: str
    manner: Manner
    column: str | None
    output: Path | None
    report: Path | None
    at_least_as_fresh: str
    dry_run: bool
    force: bool
    bad: BadRows = field(default_factory=BadRows)
    parts: list[tuple[str, Summary]] = field(default_factory=list)

    @classmethod
    def planned(
        cls, given: str, output: str | None, *, report: str | None, dry_run: bool, **options: Any
    ) -> _Job:
        """What is to be done. Raises InputError if a file is in the way."""
        if output is None and not dry_run:
            raise click.UsageError("Say where cleared rows go, as in: ndoo check IN OUT")
        if not given or output == "":
            raise InputError("A name is empty; name a file, a folder, or '-'.")
        inputs = Inputs.found(given)
        if inputs.are_many and output == STANDARD:
            raise InputError("Several files do not go to standard output; name a new folder.")
        path = None if dry_run or output in {None, STANDARD} else Path(str(output))
        job = cls(inputs, output=path, report=Path(report) if report else None,
                  dry_run=dry_run, **options)  # fmt: skip
        refuse_clash(given, inputs, job.output, job.report, force=job.force)
        return job

    def run(self) -> Summary:
        """Ask about all rows, and let output and report appear. Raises what the service does."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._open_output())
            report = stack.enter_context(self._open_report())
            summary = self._answer(output)
            finished = [made for made in (output, report) if made is not None]
            if report is not None:
                report.file.write(self._report_of(summary).encode())
            for made in finished:
                made.settle()
            is_piped = isinstance(output, Spool)  # Ctrl-C must end what waits for a reader
            with contextlib.nullcontext() if is_piped else signals_held():
                for made in finished:
                    made.publish()
        return summary

    def _open_output(self) -> contextlib.AbstractContextManager[Made | None]:
        if self.dry_run:
            return contextlib.nullcontext()
        if self.output is None:
            return spool(sys.stdout.buffer)
        if self.inputs.are_many:
            return whole_folder(self.output)
        return whole_file(self.output, force=self.force)

    def _open_report(self) -> contextlib.AbstractContextManager[WholeFile | None]:
        if self.report is None:
            return contextlib.nullcontext()
        return whole_file(self.report, force=self.force)

    def _answer(self, output: Made | None) -> Summary:
        """All rows of all files, at the revision that is the newest when it begins."""
        manner = self.manner
        with (
            channel_to(self.target, manner) as channel,
            Client(
                self.target, tls=manner.tls, timeout_s=TIMEOUT_S, **manner.introduction
            ) as client,
            progress(self.inputs.size()) as seen,
        ):
            freshness = self.at_least_as_fresh
            first = reach(channel, at_least_as_fresh=freshness, timeout_s=TIMEOUT_S)
            checking = Checking(client, first.revision, self.column, output, seen, self.bad)
            for path, name in zip(self.inputs.paths, self.inputs.names or (None,)):
                self.parts.append((str(name or path), checking.file(path, name)))
        return Summary.of([part for _, part in self.parts])

    def _report_of(self, summary: Summary) -> str:
        facts = _counts(summary) | {
            "revision": summary.revision.token,
            "as_of": rfc_3339(summary.revision.as_of),
            "files": [{"file": hide_numbers(name)} | _counts(part) for name, part in self.parts],
            "bad_rows_total": self.bad.total,
            "bad_rows": [row.told() for row in self.bad.kept],
        }
        return json.dumps(facts, indent=2) + "\n"

    def tell(self, summary: Summary) -> None:
        """What came of it, for people."""
        self.bad.tell()
        is_piped = self.output is None and not self.dry_run
        say: Callable[[str], None] = tell if is_piped else click.echo
        say(
            f"{summary.received:,} rows: {summary.cleared:,} cleared, {summary.opted_out:,} opted "
            f"out, {summary.invalid:,} invalid, as of {rfc_3339(summary.revision.as_of)}."
        )
        say(f"Revision: {summary.revision.token}")
        if self.dry_run:
            say("Nothing was written.")
        elif self.output is not None:
            say(f"Cleared rows: {hide_numbers(click.format_filename(self.output))}")


def _counts(summary: Summary) -> dict[str, Any]:
    return {
        "received": summary.received,
        "cleared": summary.cleared,
        "opted_out": summary.opted_out,
        "invalid": summary.invalid,
    }
