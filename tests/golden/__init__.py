"""What released versions wrote, one folder a version, to be read by every later one.

`PYTHONPATH=tests python -m golden` writes the folder of the version in pyproject.toml, and never
over one that is there: what was released stays as it is. Until then, remove the folder and write it
anew. `chart` holds what the chart renders to, which is no format of ours.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"


def version() -> str:
    """The version of this tree."""
    project = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text("utf-8"))
    return project["project"]["version"]


def _order(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, folder.name.split(".")))


VERSIONS = sorted((folder for folder in HERE.glob("[0-9]*.*.*") if folder.is_dir()), key=_order)
"""The folders, oldest first."""
