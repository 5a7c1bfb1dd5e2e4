"""A writer that kills itself at a chosen step of what it does.

The operations of the directory publisher on the file system, and whatever is sent to Redis, are
wrapped here, in the test's own process, so that the software needs no hooks. Steps are counted from
1: before the first call, after each, and in the middle of whatever takes bytes.

Each line of standard input names an operation and a step. A fork of this warm process does it, and
the answer is "killed" or "finished".
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ndoo.publish import publisher as publishers
from ndoo.publish import redis
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from support.people import opt_in, opt_out, supersede
from support.places import bitmap

REQUEST = "crashing"
RECORDED = (opt_out(7), supersede(1, 8), opt_in(0), opt_out(1), opt_in(7))
BLOCK = 2

OPERATIONS: dict[str, Callable[[Publisher], object]] = {
    "record": lambda publisher: publisher.append(RECORDED[:1], request_id=REQUEST),
    "record several": lambda publisher: publisher.append(RECORDED, request_id=REQUEST),
    "load": lambda publisher: publisher.load(bitmap(0, 20, 21), Terms(accept_jump=True)),
    "snapshot": lambda publisher: publisher.snapshot(),
}

_CALLS = ("open", "ftruncate", "fsync", "rename", "unlink", "mkdir", "lseek")


class _Steps:
    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def reached(self) -> bool:
        """Count a step, and say whether it is the fatal one."""
        self._left -= 1
        return self._left == 0

    def take(self) -> None:
        if self.reached():
            self.die()

    def die(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            done = real(*args, **named)
            self.take()
            return done

        return call

    def around_bytes(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(to: Any, raw: bytes, *rest: Any) -> Any:
            for part in sorted({len(raw) // 2, len(raw) - 1} - {0, -1}):
                if self.reached():
                    real(to, raw[:part], *rest)
                    self.die()
            done = real(to, raw, *rest)
            self.take()
            return done

        return call


def _wrap(steps: _Steps) -> None:
    for name in _CALLS:
        setattr(os, name, steps.around(getattr(os, name)))
    os.write = steps.around_bytes(os.write)
    socket.socket.sendall = steps.around_bytes(socket.socket.sendall)  # type: ignore[method-assign]


def _do(url: str, name: str, step: int) -> NoReturn:
    steps = _Steps(step)
    _wrap(steps)
    steps.take()
    OPERATIONS[name](open_publisher(url))
    os._exit(0)


def _fork(url: str, name: str, step: int) -> str:
    child = os.fork()
    if child == 0:
        _do(url, name, step)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "finished" if status == 0 else "failed"


def main() -> None:
    for module in (publishers, redis):
        module.CHANGES_PER_STEP_MAX = BLOCK  # several steps, for few changes
    for line in sys.stdin:
        name, step = line.rstrip("\n").rsplit(" ", 1)
        sys.stdout.write(_fork(sys.argv[1], name, int(step)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
