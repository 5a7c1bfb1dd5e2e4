"""A service as a process, and all that it says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAIN = "from ndoo.cli.main import main; main()"


class Told:
    """`ndoo serve`, begun by the *program*, in the directory *where*."""

    def __init__(self, where: Path, flags: list[str], *, program: str = MAIN) -> None:
        self.where = where
        self.audit = where / "audit"
        self._lines: list[str] = []
        self._stderr = where / "stderr"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", program, "serve", "--listen", "127.0.0.1:0",
                    "--http-listen", "127.0.0.1:0", "--log-level", "debug",
                    "--audit", str(self.audit), *flags,
                ],
                stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=where,
            )  # fmt: skip
        self.grpc = self.http = ""

    def listening(self) -> Told:
        event = self.until("listening")
        self.grpc, self.http = event["grpc"], event["http"]
        return self

    def until(self, name: str, **fields: object) -> dict[str, Any]:
        """The next event of this *name* and with these *fields*."""
        for event in self._events():
            if event["event"] == name and fields.items() <= event.items():
                return event
        raise AssertionError(f"it ended before {name}: {self._stderr.read_text()}")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as response:
            return response.read().decode()

    def end(self, how: signal.Signals = signal.SIGTERM) -> str:
        """All that it ever said, once it has ended."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> str:
        self._lines += self.process.stdout
        self.process.wait(60)
        audit = [path.read_text() for path in self.where.glob("audit*")]
        return "".join([*self._lines, self._stderr.read_text(), *audit])

    def close(self) -> None:
        with self.process:
            self.process.kill()

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.process.stdout:
            self._lines.append(line)
            yield json.loads(line)
