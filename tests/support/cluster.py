"""What a cluster makes of a pod, as far as one process needs it: its files and its addresses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.chart import Manifests, Pod
from support.redis_server import free_port

Secrets = Mapping[str, Mapping[str, bytes]]
"""The files of each Secret and ConfigMap that is there already, by its name."""

_PORT = re.compile(r"^(?:0\.0\.0\.0|\[::\]):(\d+)$")
_GOES_ON_S_MAX = 60


class Started:
    """The one container of *pod*, as a process on this machine.

    What is mounted lies below *root* instead of /; what listens at all addresses does so on
    loopback, at a free port; *hosts* says where other names lead, HOST:PORT to HOST:PORT.
    """

    def __init__(
        self, manifests: Manifests, pod: Pod, root: Path, secrets: Secrets, hosts: Mapping[str, str]
    ) -> None:
        self.ports: dict[int, int] = {}
        (self._container,) = pod.containers
        for path, (_, volume) in pod.mounts().items():
            folder = root / path.lstrip("/")
            folder.mkdir(parents=True)
            for name, content in _files(volume, secrets):
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o440)
        given = manifests.environment(pod)
        paths = re.compile("|".join(sorted(map(re.escape, pod.mounts()), reverse=True)))
        self._environment = {
            name: self._here(paths.sub(lambda found: f"{root}{found[0]}", text), hosts)
            for name, text in given.items()
        }
        self._arguments = [
            paths.sub(lambda found: f"{root}{found[0]}", each) for each in self._container["args"]
        ]

    def _here(self, text: str, hosts: Mapping[str, str]) -> str:
        if listens := _PORT.fullmatch(text):
            port = self.ports.setdefault(int(listens[1]), free_port())
            return f"127.0.0.1:{port}"
        for there, here in hosts.items():
            text = text.replace(f"@{there}", f"@{here}")
        return text

    def run(self) -> str:
        """To its end, which must be a good one; what it wrote."""
        return subprocess.run(
            self._command(), env=self._whole_environment(), check=True, text=True,
            stdout=subprocess.PIPE, timeout=_GOES_ON_S_MAX,
        ).stdout  # fmt: skip

    def start(self) -> None:
        """Returns once there is a register to answer from."""
        self._process = subprocess.Popen(
            self._command(), env=self._whole_environment(), stdout=subprocess.PIPE, text=True
        )
        if not any('"phase": "LIVE"' in line for line in self._process.stdout):
            raise AssertionError("it ended before it was live")

    def stop(self) -> None:
        """As the kubelet does it."""
        with self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=_GOES_ON_S_MAX)
        assert self._process.returncode == 0

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "ndoo", *self._arguments]

    def _whole_environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **self._environment}


def _files(volume: Mapping[str, Any], secrets: Secrets) -> Iterator[tuple[str, bytes]]:
    """The files that a volume shows: those of its items, or all there are."""
    for source in (volume, *volume.get("projected", {}).get("sources", ())):
        for kind in ("secret", "configMap"):
            if kind in source:
                shown = source[kind]
                files = secrets[shown.get("secretName") or shown["name"]]
                items = shown.get("items") or [{"key": key, "path": key} for key in files]
                yield from ((item["path"], files[item["key"]]) for item in items)
