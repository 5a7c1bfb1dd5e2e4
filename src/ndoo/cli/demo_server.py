"""The real server in a process of its own, for as long as the demo needs it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

import click
import grpc

from ndoo.cli.console import signals_held, tell
from ndoo.client import get_register, open_channel
from ndoo.v1 import check_pb2

_START_S_MAX = 60.0
_STOP_S_MAX = 30.0
_POLL_S = 0.002
_ANY_PORT = "127.0.0.1:0"


@dataclass(slots=True)
class RunningServer:
    """A server that answers. *ready_s* is from the start of its process to LIVE."""

    target: str
    ready_s: float
    _process: subprocess.Popen[str] = field(repr=False)

    def rss_mb(self) -> float | None:
        """Resident memory now, in megabytes of 10^6 bytes; None where the system does not tell."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text("utf-8").splitlines():
                if line.startswith("VmRSS:"):
                    return round(int(line.split()[1]) * 1024 / 1e6, 1)
        return None


@contextlib.contextmanager
def running_server(feed: str) -> Iterator[RunningServer]:
    """`ndoo serve` on *feed*, LIVE; ended with SIGTERM and waited for, whatever happens."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "ndoo", "serve"]
    command += ["--listen", _ANY_PORT, "--http-listen", _ANY_PORT]
    with contextlib.ExitStack() as ending:
        with signals_held():
            process = subprocess.Popen(  # noqa: S603  (our own program)
                command,
                env=_environment(feed),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            log = _Log(process)
            ending.callback(log.close)
            ending.callback(_stop, process)
        target = log.address(started + _START_S_MAX)
        with open_channel(target) as channel:
            _wait_until_live(channel, log, started + _START_S_MAX)
        yield RunningServer(target, time.perf_counter() - started, process)


def _environment(feed: str) -> dict[str, str]:
    """Ours, with the feed in it: an argument could be read in the list of processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NDOO_")}
    prefix = os.environ.get("NDOO_PREFIX")
    return kept | {"NDOO_FEED": feed} | ({"NDOO_PREFIX": prefix} if prefix else {})


class _Log:
    """What the server writes: read by a thread, so that the server never waits for a reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines = cast("TextIO", process.stdout)
        self._last: deque[str] = deque(maxlen=20)
        self._address: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._thread.start()

    def address(self, deadline: float) -> str:
        """Where the server listens. Raises ClickException if it does not come to that."""
        with contextlib.suppress(queue.Empty):
            address = self._address.get(timeout=max(0.0, deadline - time.perf_counter()))
            if address:
                return address
        raise self.failure()

    def failure(self) -> click.ClickException:
        """The last lines of the log on stderr, and a sentence to raise."""
        for line in self._last:
            tell(line)
        return click.ClickException("The server did not get ready; its last words are above.")

    def close(self) -> None:
        self._thread.join()
        self._lines.close()

    def _read(self) -> None:
        for line in self._lines:
            self._last.append(line.rstrip("\n"))
            with contextlib.suppress(ValueError, AttributeError):
                event = json.loads(line)
                if event.get("event") == "listening":
                    self._address.put(event.get("grpc"))
        self._address.put(None)


def _wait_until_live(channel: grpc.Channel, log: _Log, deadline: float) -> None:
    while get_register(channel, timeout_s=_START_S_MAX).phase != check_pb2.PHASE_LIVE:
        if time.perf_counter() > deadline:
            raise log.failure()
        time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
