"""Faults of every kind, in every thread, whose words hold numbers: no word of theirs is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leaks.asking import ask_everything
from leaks.canaries import digits, leaks
from leaks.told import Told
from support.places import Place

Serve = Callable[..., Told]
RAISED, LOGGED = digits("raised"), digits("logged")

# Whatever answers a question fails, and so does all that nobody waits for.
EVERYTHING_FAILS = """
import asyncio, logging, threading, warnings
from ndoo.cli.main import main
from ndoo.ops.audit_log import AuditLog
from ndoo.register.view import View
from ndoo.server.server import Server

class Faulty:
    def __del__(self):
        raise ValueError("RAISED")

def fail(*_args, **_named):
    number = "RAISED"
    raise ValueError(f"about {number}")

async def fail_later():
    fail()

start = Server.start

async def start_with(server):
    loop = asyncio.get_running_loop()
    loop.call_soon(fail)
    server.forgotten = [asyncio.create_task(fail_later())]
    loop.call_soon(server.forgotten.clear)
    threading.Thread(target=fail, name="failing").start()
    Faulty()
    warnings.warn("about LOGGED")
    for name in ("grpc._cython.cygrpc", "asyncio", "redis", "numba", "some.library"):
        try:
            fail()
        except ValueError:
            logging.getLogger(name).exception("about %s", "LOGGED")
            logging.getLogger(name).error("about LOGGED")
    return await start(server)

Server.start = start_with
PATCHED = fail
main()
""".replace("RAISED", RAISED).replace("LOGGED", LOGGED)


@pytest.mark.parametrize("patch", ["View.check_many", "AuditLog.record"])
def test_a_fault_is_told_by_kind_and_place_alone(
    loaded: Place,
    serve: Serve,
    patch: str,
) -> None:
    program = EVERYTHING_FAILS.replace("PATCHED", patch)
    told = serve("--feed", loaded.url, program=program).listening()
    said = ask_everything(told.grpc)
    events = told.end()
    assert leaks(*said, events) == []
    assert '"thread": "failing"' in events
    assert '"thread": "loop"' in events
    assert "Faulty.__del__" in events
    assert '"logger": "some.library"' in events
    assert "Traceback" not in events


def test_no_crash_leaves_the_register_behind(loaded: Place, serve: Serve) -> None:
    told = serve("--feed", loaded.url).listening()
    limits = Path(f"/proc/{told.process.pid}/limits").read_text()
    soft, hard = next(x for x in limits.splitlines() if x.startswith("Max core")).split()[4:6]
    assert int(soft) <= 1
    assert int(hard) <= 1
