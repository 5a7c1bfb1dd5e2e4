"""A real Redis server of one's own, which can be killed, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import redis

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_STARTS_MAX = 5


def executable() -> str:
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    assert found, "no Redis server: name one in REDIS_SERVER, or run the tests with 'make test'"
    return found


class RedisServer:
    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, socket_timeout=60)

    def start(self) -> None:
        """Start, or start again on the same port and the same data."""
        for _ in range(_STARTS_MAX):
            port = self.port or _free_port()
            self._process = subprocess.Popen(
                [executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                 "--dir", str(self._directory), *self._options],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if any("eady to accept connections" in line for line in self._process.stdout):
                self.port = port
                return
            self.kill()
        raise RuntimeError("the Redis server does not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
