"""`ndoo audit verify`: what it finds, says and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndoo.ops.audit_file import parts_of
from ndoo.ops.audit_log import AuditLog
from support.auditing import RECORD, Counting, FaultyFile


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """Records in several files, with a write cut short and two records lost."""
    path = tmp_path / "audit.jsonl"
    file = FaultyFile(path, 2000)
    log = AuditLog(file, Counting(), required=False)
    for call in range(12):
        file.room = 30 if call in {4, 5} else None
        log.record(RECORD)
        if call == 5:
            file.room = None
            log.keep()
    log.close()
    log.run()
    return path


def facts(run, *arguments: object) -> dict:
    return json.loads(run("audit", "verify", *map(str, arguments), "--json").stdout)


def test_whole_records(run, audit: Path) -> None:
    result = run("audit", "verify", str(audit))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "10 calls, 1 starts, 1 records cut short, 2 not kept." in result.stdout
    told = facts(run, audit)
    assert told["head"] in result.stdout
    assert (told["whole"], told["broken"], told["first"]) == (True, None, 1)
    assert (told["calls"], told["starts"], told["torn"], told["lost"]) == (10, 1, 1, 2)
    assert told["files"] == len(parts_of(audit)) > 2
    assert told["first_at"].endswith("Z")
    assert run("audit", "verify", str(audit), "--head", told["head"]).exit_code == 0


def test_the_first_broken_place_is_named(run, audit: Path) -> None:
    second = parts_of(audit)[1].path
    raw = second.read_bytes()
    second.write_bytes(raw.replace(b'"cleared":7', b'"cleared":8', 1))
    result = run("audit", "verify", str(audit))
    assert result.exit_code == 1
    assert f"{second.name}, line 2: this is not a record as it was written" in result.stderr
    assert facts(run, audit)["broken"]["line"] == 2
    assert facts(run, audit)["files"] == 1


def test_a_file_that_is_missing(run, audit: Path) -> None:
    parts_of(audit)[1].path.unlink()
    result = run("audit", "verify", str(audit))
    assert result.exit_code == 1
    assert "line 1: a record before this one is missing" in result.stderr


def test_a_cut_off_end_shows_by_the_head_that_the_log_told(run, audit: Path) -> None:
    head = facts(run, audit)["head"]
    lines = audit.read_bytes().splitlines(keepends=True)
    audit.write_bytes(b"".join(lines[:-1]))
    assert run("audit", "verify", str(audit)).exit_code == 0
    result = run("audit", "verify", str(audit), "--head", head)
    assert result.exit_code == 1
    assert "records after" in result.stderr


def test_the_setting_names_the_audit(run, audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDOO_AUDIT", str(audit))
    assert run("audit", "verify").exit_code == 0


def test_nothing_to_verify(run, tmp_path: Path) -> None:
    result = run("audit", "verify", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There are no audit records" in result.stderr
    assert "No audit is named" in run("audit", "verify").stderr


def test_an_empty_file_proves_nothing(run, tmp_path: Path) -> None:
    (tmp_path / "audit").touch()
    result = run("audit", "verify", str(tmp_path / "audit"))
    assert result.exit_code == 1
    assert "holds no records" in result.stderr


@pytest.mark.parametrize("head", ["12", "12:xyz"])
def test_a_head_that_is_none_is_wrong_usage(run, audit: Path, head: str) -> None:
    assert run("audit", "verify", str(audit), "--head", head).exit_code == 2
