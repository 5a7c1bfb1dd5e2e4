"""A real Redis server of one's own, which can be killed, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import redis

from support.certificates import Authority, Certificate

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_READY = ("eady to accept connections", "+monitor")
_STARTS_MAX = 5


def executable() -> str:
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    assert found, "no Redis server: name one in REDIS_SERVER, or run the tests with 'make test'"
    return found


class RedisServer:
    """Without TLS, unless *tls* is given: then with that alone, and callers may show a certificate
    of the *authority*.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        tls: Certificate | None = None,
        authority: Authority | None = None,
    ) -> None:
        self._directory = directory
        self._options = options
        self._tls = tls
        self._authority = authority
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
            port = self.port or free_port()
            self._process = subprocess.Popen(
                self._command(port), stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if any(word in line for line in self._process.stdout for word in _READY):
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

    def replicate(self) -> None:
        """Return once a replica has all that was written up to now."""
        with self.client() as client:
            client.set("{ndoo}:replicated", "")  # WAIT waits for what its own caller wrote
            assert client.wait(1, 60_000) == 1
            client.delete("{ndoo}:replicated")

    def _command(self, port: int) -> list[str]:
        return [
            executable(), *self._ports(port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self._directory), *self._options,
        ]  # fmt: skip

    def _ports(self, port: int) -> list[str]:
        if self._tls is None:
            return ["--port", str(port)]
        return [
            *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "optional"),
            *("--tls-cert-file", str(self._tls.cert), "--tls-key-file", str(self._tls.key)),
            *("--tls-ca-cert-file", str(self._authority.cert)),
        ]


class Sentinel(RedisServer):
    """Watches one master under the name `register`, and needs *quorum* to call it dead."""

    NAME = "register"

    def __init__(self, directory: Path, master_port: int, quorum: int) -> None:
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            f"sentinel monitor {self.NAME} 127.0.0.1 {master_port} {quorum}\n"
            f"sentinel down-after-milliseconds {self.NAME} 400\n"
            f"sentinel failover-timeout {self.NAME} 2000\n"
        )
        super().__init__(directory)

    def _command(self, port: int) -> list[str]:
        return [
            executable(), str(self._config), "--sentinel", "--port", str(port),
            "--bind", "127.0.0.1", "--dir", str(self._directory),
        ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
