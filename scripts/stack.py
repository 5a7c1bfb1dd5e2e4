"""A whole service on loopback, to look at: Redis, `ndoo serve`, Prometheus with its rules, traffic.

The people in its register are made up. Ctrl-C, or SIGTERM, ends all of it and leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import traffic

from ndoo.publish.open import open_publisher

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "ops" / "prometheus"
_ANY_PORT = "127.0.0.1:0"
_START_S_MAX = 60.0
_END_S_MAX = 40.0
_LOOK_S = 0.2
_LISTENING = re.compile(r'msg="?Listening on"? address=(\S+)')

stop = threading.Event()


class Failed(Exception):
    """The stack cannot go on; the message says why."""


class Child:
    """A program of the stack. What it writes goes to the file *log*, and line by line to *ready*,
    which makes of it what there was to wait for.
    """

    def __init__(
        self, command: Sequence[str], log: Path, ready: Callable[[str], str | None]
    ) -> None:
        self.name = log.stem
        self._log = log
        self._found: queue.SimpleQueue[str] = queue.SimpleQueue()
        # In a session of its own: Ctrl-C at a terminal reaches us alone, and we end all in order.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(ready,))
        self._reader.start()

    def wait(self) -> str:
        """What *ready* found. Raises Failed if the program ends, or is too slow, or we are to."""
        for _ in range(round(_START_S_MAX / _LOOK_S)):
            with contextlib.suppress(queue.Empty):
                return self._found.get(timeout=_LOOK_S)
            self.refuse_ended()
            if stop.is_set():
                raise Failed("Ended before everything had started.")
        raise self._failed("does not get ready")

    def refuse_ended(self) -> None:
        if self._process.poll() is not None:
            raise self._failed("has ended")

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _failed(self, what: str) -> Failed:
        last = self._log.read_text("utf-8").splitlines()[-5:]
        return Failed("\n".join([f"{self.name} {what}. Its last words:", *last]))

    def _read(self, ready: Callable[[str], str | None]) -> None:
        with self._process.stdout as lines, self._log.open("w", encoding="utf-8") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if found := ready(line):
                    self._found.put(found)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with contextlib.ExitStack() as ending:
            children = start(ending)
            while not stop.wait(_LOOK_S):
                for child in children:
                    child.refuse_ended()
            print("Ending ...", flush=True)
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


def start(ending: contextlib.ExitStack) -> list[Child]:
    """Start everything, in order; *ending* ends it the other way round."""
    path = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="ndoo-stack-")))
    children: list[Child] = []

    def run(name: str, command: Sequence[str], ready: Callable[[str], str | None]) -> str:
        child = Child(command, path / f"{name}.log", ready)
        ending.callback(child.end)
        children.append(child)
        return child.wait()

    port = free_port()
    run("redis", redis(port, path), lambda line: line if "eady to accept" in line else None)
    feed = f"redis://127.0.0.1:{port}/0"
    with contextlib.closing(open_publisher(feed)) as publisher:
        traffic.load(publisher)
    grpc, http = run("ndoo", serve(feed, path), listening).split()
    prometheus = run("prometheus", prometheus_for(http, path), listening_prometheus)
    run("traffic", asking(grpc, feed), lambda line: line)
    tell(grpc, http, feed, prometheus, path)
    return children


def redis(port: int, path: Path) -> list[str]:
    program = os.environ.get("REDIS_SERVER") or printed("redis-server")
    return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(path)]


def serve(feed: str, path: Path) -> list[str]:
    return [
        sys.executable, "-m", "ndoo", "serve", "--feed", feed, "--listen", _ANY_PORT,
        "--http-listen", _ANY_PORT, "--state-dir", str(path / "state"),
        "--audit", str(path / "audit.log"),
    ]  # fmt: skip


def listening(line: str) -> str | None:
    """Both addresses of the service, from the event that names them."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if event.get("event") == "listening":
            return f"{event['grpc']} {event['http']}"
    return None


def prometheus_for(http: str, path: Path) -> list[str]:
    """The example configuration, with the address of this service and scraped each second."""
    config = (RULES / "prometheus.yaml").read_text("utf-8")
    for old, new in (
        ("127.0.0.1:50552", http), ("15s", "1s"),
        ("- recording.yaml", f"- {RULES}/recording.yaml"),
        ("- alerts.yaml", f"- {RULES}/alerts.yaml"),
    ):  # fmt: skip
        if old not in config:
            raise Failed(f"{RULES}/prometheus.yaml does not hold {old} any more.")
        config = config.replace(old, new)
    (path / "prometheus.yaml").write_text(config, "utf-8")
    program = Path(os.environ.get("PROMETHEUS_BIN") or printed("prometheus")) / "prometheus"
    return [
        str(program), f"--config.file={path}/prometheus.yaml",
        f"--storage.tsdb.path={path}/prometheus", f"--web.listen-address={_ANY_PORT}",
    ]  # fmt: skip


def listening_prometheus(line: str) -> str | None:
    match = _LISTENING.search(line)
    return match[1] if match else None


def asking(grpc: str, feed: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "traffic.py"), grpc, feed]


def tell(grpc: str, http: str, feed: str, prometheus: str, path: Path) -> None:
    lines = [
        f"The service      {grpc}        .venv/bin/ndoo status {grpc}",
        f"Its feed         {feed}",
        f"Its metrics      http://{http}/metrics",
        f"Prometheus       http://{prometheus}/alerts       all inactive while all is well",
        f"                 http://{prometheus}/graph?g0.expr=ndoo_as_of_age_seconds",
        f"Its logs         {path}",
        f"Stop all answers .venv/bin/ndoo record suspend --feed {feed}   and NdooSuspended fires",
    ]
    if shutil.which("grafana-server"):
        lines.append(
            f"Grafana          add the data source http://{prometheus}, and import "
            "ops/grafana/ndoo.json"
        )
    print("\n".join([*lines, "Ctrl-C ends everything."]), flush=True)


def printed(script: str) -> str:
    """What one of our scripts that look for a program prints."""
    found = subprocess.run(
        [ROOT / "scripts" / script], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode:
        raise Failed(f"scripts/{script} found no program.")
    return found.stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
