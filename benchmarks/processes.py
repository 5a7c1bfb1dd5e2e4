"""The processes that benchmarks start. None outlives the block that it is started for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.machine import ROOT

START_S_MAX = 120.0
_PROCESS_CLOCK = 2  # how Linux numbers the processor clock of a process, with its id above it
_ANY_PORT = "127.0.0.1:0"


# Signals reach the main thread only. What another one starts is on the list of the living before
# anything can interrupt it, wherever in a block Ctrl-C strikes.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="spawner")
_LIVING: set[subprocess.Popen[bytes]] = set()


class DidNotStart(Exception):
    """A process ended, or stayed silent, before it was of use."""


class Child:
    """A process, the lines it writes with the moment each arrived, and what it uses."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str] | None = None, stdin: bytes = b""
    ) -> None:
        self.started = time.perf_counter()
        self._process = _SPAWNER.submit(_spawn, command, _environment() | (env or {})).result()
        self.lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError):  # it died; whoever waits for it says so
            self._process.stdin.write(stdin)
            self._process.stdin.close()

    def wait_for(self, wanted: Callable[[str], bool]) -> tuple[float, str]:
        """The first line that is *wanted*, and when it came. Raises DidNotStart."""
        deadline = time.perf_counter() + START_S_MAX
        with self._news:
            seen = 0
            while True:
                for moment, line in self.lines[seen:]:
                    if wanted(line):
                        return moment, line
                seen = len(self.lines)
                if self._ended or time.perf_counter() > deadline:
                    last = "\n".join(line for _, line in self.lines[-10:])
                    raise DidNotStart(f"a process ended or stayed silent; it said last:\n{last}")
                self._news.wait(1.0)

    def cpu_s(self) -> float:
        """Processor time used so far, by all its threads."""
        return time.clock_gettime(_PROCESS_CLOCK | ~self._process.pid << 3)

    def memory_mb(self) -> dict[str, float]:
        """Resident memory now and at its highest, in units of 10^6 bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("utf-8")
        kib = {
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in status.splitlines())
            if name in {"VmRSS", "VmHWM"}
        }
        return {
            "rss_mb": round(kib["VmRSS"] * 1024 / 1e6, 1),
            "peak_mb": round(kib["VmHWM"] * 1024 / 1e6, 1),
        }

    def kill(self) -> None:
        _end(self._process)
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        for raw in self._process.stdout:
            with self._news:
                self.lines.append((time.perf_counter(), raw.decode(errors="replace").rstrip()))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Served(Child):
    """`ndoo serve`."""

    target = ""

    def phase(self, name: str) -> float:
        """When the service first was in that phase."""
        return self.wait_for(lambda line: _event(line).get("phase") == name)[0]

    def become_ready(self) -> None:
        _, line = self.wait_for(lambda line: _event(line).get("event") == "listening")
        self.target = _event(line)["grpc"]
        self.phase("LIVE")


@contextlib.contextmanager
def service(feed: str) -> Iterator[Served]:
    """The real service on *feed*, LIVE."""
    command = [sys.executable, "-m", "ndoo", "serve"]
    command += ["--listen", _ANY_PORT, "--http-listen", _ANY_PORT]
    served = Served(command, {"NDOO_FEED": feed})
    with contextlib.closing(_Killed(served)):
        served.become_ready()
        yield served


@contextlib.contextmanager
def child(module: str, *arguments: str, stdin: bytes = b"") -> Iterator[tuple[Child, str]]:
    """`python -m benchmarks.MODULE`, and the first word it said."""
    process = Child([sys.executable, "-m", f"benchmarks.{module}", *arguments], stdin=stdin)
    with contextlib.closing(_Killed(process)):
        _, line = process.wait_for(lambda line: line.startswith("ready "))
        yield process, line.removeprefix("ready ")


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[Child, int]]:
    """A Redis server of our own, which keeps nothing, and its port."""
    path = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if path is None:
        raise DidNotStart("no Redis server: name one in REDIS_SERVER, or run 'make bench'")
    port = _free_port()
    command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = Child(command)
    with contextlib.closing(_Killed(process)):
        process.wait_for(lambda line: "eady to accept connections" in line)
        yield process, port


def end_all() -> None:
    """End what an interruption between a start and its block left running."""
    _SPAWNER.submit(lambda: None).result()
    for process in tuple(_LIVING):
        _end(process)


def _spawn(command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    _LIVING.add(process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _LIVING.discard(process)


class _Killed:
    """Nothing here is worth a graceful end, and Ctrl-C must not wait for one."""

    def __init__(self, process: Child) -> None:
        self.close = process.kill


def _event(line: str) -> dict[str, str]:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NDOO_")}
    return kept | {"PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
