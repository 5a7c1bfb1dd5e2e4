"""How commands end: one sentence on stderr, an exit code, and no NHS number in either.

Exit codes: 0 done; 1 not done, not answered or refused; 2 wrong usage; 130 interrupted (Ctrl-C),
143 terminated. Errors of every kind pass through `Commands.main`, which hides whatever looks like
an NHS number: click, the system and people put arguments into messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
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
    {"cryptography", "grpc_health", "grpc_reflection", "jwt", "llvmlite", "numba"}
    | {"prometheus_client", "pyroaring", "redis", "uvloop"}
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
        except BrokenPipeError:
            # Whoever read the output has gone; the interpreter's last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        except Exception as error:  # noqa: BLE001  (a traceback may hold what a user typed)
            sentence, code = _ending(error)
            tell(f"Error: {sentence}")
            sys.exit(code)
        sys.exit(result if isinstance(result, int) else 0)


def refuse_closed_streams() -> None:
    """Exit if standard input, output or error is closed: the next file opened would take its place
    and get what is meant for it.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        tell("Error: Standard input, output or error is closed; use /dev/null instead.")
        sys.exit(FAILED)


def end_on_sigterm() -> None:
    """Make SIGTERM unwind like Ctrl-C, so that whatever was begun is taken back."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect right after the block: what it begins is known to be begun."""
    held: list[int] = []
    ending = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _frame: held.append(number)) for n in ending}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        for number in held:
            signal.raise_signal(number)


def hush_libraries() -> None:
    """What nobody catches, or a library logs, is not printed with its words."""
    logging.getLogger().addHandler(logging.NullHandler())
    threading.excepthook = lambda args: _tell_fault(args.exc_value)
    sys.unraisablehook = lambda args: _tell_fault(args.exc_value)


def _tell_fault(error: BaseException | None) -> None:
    if isinstance(error, Exception):
        tell(f"Error: {_fault_of_ours(error)}")


def _ending(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code for *error*."""
    match error:
        case click.exceptions.Abort():
            return "Interrupted.", INTERRUPTED
        case click.UsageError():
            return _usage(error), WRONG_USAGE
        case click.ClickException() | NdooError() | ClientError():
            return str(error), FAILED
        case OSError(strerror=str(what)):
            return f"{what}: {error.filename}." if error.filename else f"{what}.", FAILED
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] in _SERVER_PACKAGES:
            return _missing(name), FAILED
    return _fault_of_ours(error), FAILED


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "ndoo"
    sentence = error.format_message().rstrip(".")
    return f"{sentence}; see '{command} --help'."


def _missing(name: str) -> str:
    return (
        f"This command needs the package {name.partition('.')[0]}, which the base install does not "
        "bring; install it with: pip install 'ndoo[server]'"
    )


def _fault_of_ours(error: Exception) -> str:
    """Kind and place of an error that nobody foresaw; its own words may hold what a user typed."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"This is a fault in ndoo: {type(error).__name__} in {where}; please report it."
