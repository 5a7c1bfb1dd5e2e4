"""A release, as `make release` builds it, and a clean installation of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.chart import Chart

ROOT = Path(__file__).resolve().parent.parent.parent
UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make release` puts into dist, of the tree as it is, committed or not."""
    folder = tmp_path_factory.mktemp("dist")
    command = "import pathlib, release, sys; release.build(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", command, folder], check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def chart(release: Path) -> Chart:
    """The chart of the release."""
    (package,) = release.glob("ndoo-chart-*.tgz")
    return Chart(package)


@pytest.fixture(scope="session")
def installed(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with what serves, as it is locked, and the wheel; and nothing else.

    For all tests: copy it before you change a file or a mode. Files are links into uv's cache.
    """
    (wheel,) = release.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed") / "venv"
    install(folder, "--require-hashes", "-r", ROOT / "requirements-server.lock")
    install(folder, "--no-deps", wheel)
    return folder


def install(venv: Path, *what: str | Path) -> None:
    """Install into *venv*, which is made if it is not there."""
    if not venv.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", venv / "bin" / "python", *what], check=True
    )
