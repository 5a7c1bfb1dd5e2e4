"""The command `ndoo`. Everything a command needs beyond the base install is imported inside it."""

from __future__ import annotations

from importlib.metadata import version

import click

from ndoo.cli.audit import audit
from ndoo.cli.check import check
from ndoo.cli.console import Commands, end_on_sigterm, hush_libraries, refuse_closed_streams
from ndoo.cli.demo import demo
from ndoo.cli.load import load
from ndoo.cli.record import record
from ndoo.cli.serve import serve
from ndoo.cli.snapshot import snapshot
from ndoo.cli.status import status
from ndoo.cli.verify import verify


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ndoo"), message="%(version)s")
def commands() -> None:
    """Check who has opted out of disclosure: the National Data Opt-Out at memory speed.

    \b
    Try it, with nothing else set up:
      ndoo demo
    \b
    Run a service from a list of opted-out NHS numbers:
      ndoo load opted-out.dat --feed dir:./feed
      ndoo serve --feed dir:./feed
    \b
    Use it, and keep it up to date:
      ndoo check cohort.dat cleared.dat
      ndoo record opt_out - --feed dir:./feed
      ndoo status
      ndoo verify --feed dir:./feed --target 127.0.0.1:50551

    A number that is not cleared must not be disclosed, for whatever reason it is not.

    Exit codes: 0 done, 1 not done or not answered, 2 wrong usage, 130 interrupted; 'check' and
    'verify' have one more.
    """  # noqa: D301  (\b is for click)


for _command in (audit, check, demo, load, record, serve, snapshot, status, verify):
    commands.add_command(_command)


def main() -> None:
    """Run the command of this process."""
    refuse_closed_streams()
    hush_libraries()
    end_on_sigterm()
    commands.main(prog_name="ndoo")
