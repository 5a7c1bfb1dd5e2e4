"""Where and with what a result was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "grpcio", "numba", "numpy", "protobuf", "pyroaring", "redis", "hiredis", "uvloop",
    "polars", "duckdb", "hdrhistogram",
)  # fmt: skip


def machine() -> dict[str, object]:
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is measured; "+" says that files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results")
    return head + ("+" if changed else "") if head else "unknown"


def load_average() -> list[float]:
    return [round(load, 2) for load in os.getloadavg()]


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False, text=True)
    return ran.stdout.strip()


def _memory_gb() -> float | None:
    total = _field(Path("/proc/meminfo"), "MemTotal")
    return round(int(total.split()[0]) * 1024 / 1e9, 1) if total else None


def _field(path: Path, name: str) -> str:
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
