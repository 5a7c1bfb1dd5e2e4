"""How commands end: one sentence on stderr, an exit code, and no NHS number in either.

Exit codes: 0 done; 1 not done, not answered or refused; 2 wrong usage; 130 interrupted (Ctrl-C),
143 terminated. Errors of every kind pass through `Commands.main`, which hides whatever looks like
an NHS number: click, the system and people put arguments into messages.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from ndoo.client.errors import ClientError
from ndoo.errors import NdooError

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

_LOOKS_LIKE_A_NUMBER = re.compile(r"\d{9,}|\d{3}([ -])\d{3}\1\d{4}")
_SERVER_PACKAGES = frozenset(
    {"grpc_health", "grpc_reflection", "numba", "prometheus_client", "pyroaring", "redis", "uvloop"}
)


def hide_numbers(text: str) -> str:
    """*text* without what could be an NHS number or a key."""
    return _LOOKS_LIKE_A_NUMBER.sub("[hidden]", text)


def tell(text: str = "") -> None:
    """A line for the person at the terminal, on stderr."""
    click.echo(hide_numbers(text), err=True)


class Commands(click.Group):
    """A group whose commands end as this module says, whatever they raise."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            result = super().main(*args, **kwargs)
            sys.stdout.flush()
        except click.exceptions.Abort:
            _end("Interrupted.", INTERRUPTED)
        except click.UsageError as error:
            _end(_usage(error), WRONG_USAGE)
        except click.ClickException as error:
            _end(error.format_message(), FAILED)
        except (NdooError, ClientError) as error:
            _end(str(error), FAILED)
        except BrokenPipeError:
            # Whoever read the output has gone; the interpreter's last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        except OSError as error:
            _end(
                f"{error.strerror or type(error).__name__}: {error.filename or 'no file'}.", FAILED
            )
        sys.exit(result if isinstance(result, int) else 0)


def end_on_sigterm() -> None:
    """Make SIGTERM unwind like Ctrl-C, so that whatever was begun is taken back."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))


def _end(sentence: str, code: int) -> NoReturn:
    tell(f"Error: {sentence}")
    sys.exit(code)


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "ndoo"
    sentence = error.format_message().rstrip(".")
    return f"{sentence}; see '{command} --help'."


def _missing_package(error: Exception) -> str | None:
    """What to install, if *error* says that a package of the server is not there."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    package = name.partition(".")[0]
    if package not in _SERVER_PACKAGES:
        return None
    return (
        f"This command needs the package {package}, which the base install does not bring; "
        "install it with: pip install 'ndoo[server]'"
    )


def _fault_of_ours(error: Exception) -> str:
    """Kind and place of an error that nobody foresaw; its own words may hold what a user typed."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"This is a fault in ndoo: {type(error).__name__} in {where}; please report it."
