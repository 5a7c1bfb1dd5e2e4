"""Folders of released versions, and copies to use as their owners would."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from golden import VERSIONS


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    """What each released version wrote."""
    return request.param


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a part of the folder, to be used as its owner would."""

    def copied(name: str) -> Path:
        return shutil.copytree(folder / name, tmp_path / name)

    return copied
