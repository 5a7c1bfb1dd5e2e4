"""The contract is well made, and breaks nobody who was written for an earlier one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUF = Path(sys.executable).with_name("buf")
PROTO = Path("ndoo", "v1", "check.proto")


BROKEN = 100  # buf's exit code for what it found; any other is a failure of its own


def buf(*words: object, at: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *words], cwd=at, capture_output=True, check=False, text=True)


def test_the_contract_keeps_the_rules_of_good_ones() -> None:
    linted = buf("lint")
    assert not linted.returncode, linted.stdout + linted.stderr


def test_the_contract_breaks_no_released_one(folder: Path) -> None:
    compared = buf("breaking", "--against", folder / "proto")
    assert not compared.returncode, compared.stdout + compared.stderr


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("VERDICT_CLEARED = 1;", "VERDICT_CLEARED = 9;"),
        ("bytes invalid = 2;", "bytes invalid = 9;"),
        ("repeated fixed64 nhs_numbers = 1;", "repeated uint64 nhs_numbers = 1;"),
        ("string exactly_at = 3;", ""),
    ],
)
def test_what_would_break_them_is_seen(
    folder: Path, tmp_path: Path, was: str, becomes: str
) -> None:
    shutil.copytree(folder / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    path = tmp_path / "proto" / PROTO
    released = path.read_text("utf-8")
    assert was in released
    path.write_text(released.replace(was, becomes), "utf-8")
    assert buf("breaking", "--against", folder / "proto", at=tmp_path).returncode == BROKEN
