"""What becomes of faults that nobody foresaw: an event with kind and place, and no core.

The words of an exception, and the memory of the process, may hold what a caller or a feed sent.
"""

from __future__ import annotations

import asyncio
import faulthandler
import resource
import sys
import threading
from typing import Any

from ndoo.ops.logs import log_event, place

_NO_CORE = 1
"""Bytes. At 0, Linux hands a core to the program that /proc/sys/kernel/core_pattern names, if it
names one, all the same; at 1 it does not, and a file of so few bytes is never begun.
"""


def leave_no_core() -> None:
    """Have a crash leave no core, which would hold the register; only where functions stood."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if hard == 0 else _NO_CORE
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    faulthandler.enable()


def log_faults(loop: asyncio.AbstractEventLoop) -> None:
    """From now on log what is raised and caught by nobody, in *loop*, in threads and elsewhere."""
    threading.excepthook = _in_thread
    sys.unraisablehook = _in_passing
    loop.set_exception_handler(_in_loop)


def _in_thread(args: threading.ExceptHookArgs) -> None:
    _tell(args.exc_value, args.thread.name if args.thread else "")


def _in_passing(args: sys.UnraisableHookArgs) -> None:
    _tell(args.exc_value, "")


def _in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _tell(context.get("exception"), "loop")


def _tell(error: BaseException | None, thread: str) -> None:
    if isinstance(error, SystemExit):
        return
    kind, where = (type(error).__name__, place(error)) if error else ("", "")
    log_event("error", "unforeseen", thread=thread, error=kind, where=where)
