"""The service as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys


class Service:
    """`ndoo serve` on a port that stays the same: at *address*, or anywhere on 127.0.0.1."""

    python = sys.executable  # the one whose ndoo serves

    def __init__(self, feed: str, *flags: str, address: str = "") -> None:
        self.address = address or f"127.0.0.1:{free_port()}"
        self._command = [
            self.python, "-m", "ndoo", "serve", "--feed", feed, "--listen", self.address,
            "--http-listen", "127.0.0.1:0", *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            if json.loads(line).get("phase") == "LIVE":
                return
        raise AssertionError("the service ended before it was live")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """In order."""
        with self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def kill(self) -> None:
        with self._process:  # which waits, and closes the pipe
            self._process.kill()


def free_port() -> int:
    """One that nobody listens on at 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
