"""Records of calls: what stands in them, and that none is given up silently."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ndoo import nhs_number
from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.ops.audit import AuditFailed, NoAudit
from ndoo.ops.audit_chain import BEGINNING, CALL, LOST, TORN, Head, seal
from ndoo.ops.audit_file import AuditFile, parts_of
from ndoo.ops.audit_log import HEAD_S, AuditLog, _fields, auditing
from support.auditing import RECORD, Counting, FaultyFile, verified

NOW = 1_770_000_000.0
ROOM_FOR_ALL = 10**9


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def observer() -> Counting:
    return Counting()


@pytest.fixture
def heads(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    caplog.set_level("INFO", "ndoo")
    return _Heads(caplog)


class _Heads:
    """What the log has told of heads, and when."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def told(self) -> list[tuple[str, str]]:
        events = [event for event in self._caplog.records if event.getMessage() == "audit_head"]
        return [(event.fields["when"], event.fields["head"]) for event in events]


def writing(path: Path, observer: Counting, *, required: bool = True, **more) -> AuditLog:
    bytes_max = more.pop("bytes_max", ROOM_FOR_ALL)
    file = more.pop("file", None) or FaultyFile(path, bytes_max)
    return AuditLog(file, observer, required=required, **more)


def end(log: AuditLog) -> None:
    log.close()
    log.run()


def records(path: Path) -> list[dict]:
    raw = b"".join(part.path.read_bytes() for part in parts_of(path))
    return [json.loads(line) for line in raw.splitlines() if line.endswith(b'"}')]


def kinds(path: Path) -> list[str]:
    return [record["kind"] for record in records(path)]


def test_a_record_tells_who_what_for_how_many_and_as_of_when(path, observer) -> None:
    log = writing(path, observer, clock=Clock())
    log.record(RECORD)
    told = records(path)[-1]
    assert told.pop("prev") == records(path)[-2]["hash"]
    assert told.pop("hash") == log.head.digest
    assert told == {
        "n": 3,
        "kind": "call",
        "at": "2026-02-02T02:40:01.500000Z",
        "started_at": "2026-02-02T02:40:00.250000Z",
        "ended_at": "2026-02-02T02:40:01.500000Z",
        "call_id": "call-1",
        "client": "trust-a",
        "peer": "ipv4:192.0.2.1:40000",
        "rpc": "StreamCheck",
        "purpose": "research",
        "reference": "study 7",
        "received": 10,
        "cleared": 7,
        "opted_out": 2,
        "invalid": 1,
        "revision": "token",
        "status": "OK",
        "reason": "",
        "marks": ["sequential"],
    }
    assert set(told) >= {each.name for each in dataclasses.fields(RECORD)}
    assert observer.records == 1
    end(log)


def test_whatever_a_text_holds_a_record_is_one_line_of_ascii(path, observer) -> None:
    log = writing(path, observer)
    nasty = 'é"}\n{"n":9,"prev":"' + "a" * 64 + '","kind":"call"}\u2028\ud800\x00,"hash":"'
    log.record(dataclasses.replace(RECORD, reference=nasty, purpose=nasty))
    log.record(RECORD)
    end(log)
    assert path.read_bytes().isascii()
    assert records(path)[-2]["reference"] == nasty
    assert len(path.read_bytes().splitlines()) == 4
    assert verified(path).broken is None


def test_a_file_is_for_its_owner_alone_and_is_only_appended_to(path, observer) -> None:
    log = writing(path, observer)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    flags = Path(f"/proc/self/fdinfo/{log._sink._file}").read_text("ascii")
    assert int(re.search(r"flags:\s*(\d+)", flags)[1], 8) & os.O_APPEND
    end(log)


def test_hashes_hold_no_run_of_digits_that_could_be_a_number() -> None:
    head = BEGINNING
    for _ in range(200):
        line, head = seal(head, CALL, NOW, {"received": 1})
        assert not nhs_number.may_be_in(line.decode())
        assert Head.parse(str(head)) == head
    late = Head(9_990_000_026, head.digest)
    assert Head.parse(str(late)) == late
    assert not re.search(r"\d{4}", str(late))


@pytest.mark.parametrize(
    "text", ["", "1", "0:" + "a" * 64, "1:" + "z" * 64, "1_0:" + "a" * 64, "x:" + "a" * 64]
)
def test_a_head_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="NUMBER:HASH"):
        Head.parse(text)


def test_a_second_process_is_told_in_one_sentence(path, observer) -> None:
    log = writing(path, observer, bytes_max=1)
    log.record(RECORD)  # and the lock outlives the file
    with pytest.raises(InputError, match=r"Another process writes audit records to .*NDOO_AUDIT"):
        AuditFile(path, ROOM_FOR_ALL)
    end(log)
    AuditFile(path, ROOM_FOR_ALL).close()


@pytest.mark.parametrize("kind", ["another file", "directory", "pipe", "no directory"])
def test_a_place_that_is_none_is_told_in_one_sentence(tmp_path, kind: str) -> None:
    path = tmp_path / "place"
    if kind == "another file":
        path.write_text("[settings]\n")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = path / "audit"
    with pytest.raises(InputError, match="name another"):
        AuditFile(path, ROOM_FOR_ALL)
    assert kind != "another file" or path.read_text() == "[settings]\n"


def test_a_rotated_file_is_named_by_its_first_record_and_nothing_is_removed(path, observer, heads):
    log = writing(path, observer, bytes_max=1000)
    before = []
    for _ in range(8):
        log.record(RECORD)
        before.append(log.head)
    end(log)
    parts = parts_of(path)
    assert len(parts) > 2
    for part in parts[:-1]:
        first = json.loads(part.path.read_bytes().splitlines()[0])
        assert part.path.name == f"audit.jsonl.{first['n']:015_d}"
        assert first["kind"] == "file"
    assert verified(path, *before).broken is None
    rotated = [Head.parse(head) for when, head in heads.told() if when == "rotated"]
    assert len(rotated) == len(parts) - 1
    assert verified(path, *rotated).broken is None


def test_a_file_of_that_name_is_not_overwritten(path, observer) -> None:
    log = writing(path, observer, bytes_max=500)
    stranger = path.with_name("audit.jsonl.000_000_000_001")
    stranger.write_text("older records")
    log.record(RECORD)
    with pytest.raises(AuditFailed):
        log.record(RECORD)
    assert stranger.read_text() == "older records"
    stranger.rename(path.with_name("moved"))
    log.keep()
    log.record(RECORD)
    end(log)
    assert verified(path).broken is None


def test_older_files_may_be_moved_away(path, observer) -> None:
    log = writing(path, observer, bytes_max=1000)
    for _ in range(9):
        log.record(RECORD)
    end(log)
    first, second, *_ = parts_of(path)
    first.path.unlink()
    findings = verified(path)
    assert findings.broken is None
    assert findings.first.number == second.first
    before = Head(second.first - 1, json.loads(second.path.read_bytes().splitlines()[0])["prev"])
    assert verified(path, before, log.head).broken is None
    assert verified(path, Head(before.number, "a" * 64)).broken.line == 1
    assert "is not in these files" in verified(path, Head(1, "a" * 64)).broken.why


def test_the_log_tells_the_head_at_start_now_and_then_and_at_the_end(path, observer, heads):
    clock = Clock()
    log = writing(path, observer, clock=clock)
    started = log.head
    clock.now += HEAD_S
    log.keep()  # nothing new
    log.record(RECORD)
    log.keep()
    clock.now += HEAD_S
    log.keep()
    end(log)
    assert heads.told() == [
        ("started", str(started)),
        ("running", str(log.head)),
        ("stopped", str(log.head)),
    ]


def test_what_was_cut_off_at_the_end_shows_by_a_head(path, observer) -> None:
    log = writing(path, observer)
    for _ in range(3):
        log.record(RECORD)
    end(log)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert verified(path).broken is None
    assert "records after 4 are missing" in verified(path, log.head).broken.why
    again = writing(path, observer)  # which goes on as if nothing had been
    again.record(RECORD)
    again.record(RECORD)
    end(again)
    assert verified(path).broken is None
    assert "head given for record 5 is that of another" in verified(path, log.head).broken.why


def test_a_record_made_anew_does_not_fit_the_next_or_the_head(path, observer) -> None:
    log = writing(path, observer)
    for _ in range(3):
        log.record(RECORD)
    end(log)
    lines = path.read_bytes().splitlines(keepends=True)
    for at, line in enumerate(lines):
        told = json.loads(line)
        number, previous, kind, _, _ = (
            told.pop(key) for key in ("n", "prev", "kind", "at", "hash")
        )
        forged, _ = seal(Head(number - 1, previous), kind, NOW, told | {"received": 0})
        path.write_bytes(b"".join([*lines[:at], forged, *lines[at + 1 :]]))
        if at + 1 < len(lines):
            assert verified(path).broken.line == at + 2
        assert verified(path, log.head).broken is not None


def test_a_record_cut_short_by_a_crash_is_closed_by_one_that_says_so(path, observer) -> None:
    log = writing(path, observer)
    log.record(RECORD)
    log._sink.close()
    path.write_bytes(path.read_bytes()[:-30])
    findings = verified(path)
    assert (findings.broken.line, findings.kinds[TORN]) == (3, 0)
    assert "cut short" in findings.broken.why
    end(writing(path, observer))
    findings = verified(path)
    assert (findings.broken, findings.kinds[TORN]) == (None, 1)
    assert kinds(path) == ["file", "started", "torn", "started"]
    cut = path.read_bytes().splitlines()[2]
    path.write_bytes(path.read_bytes().replace(cut, cut[1:]))
    assert verified(path).broken.line == 3


def test_a_last_record_that_was_changed_is_not_told_as_cut_short(path, observer) -> None:
    log = writing(path, observer)
    log.record(RECORD)
    end(log)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(RECORD.rpc.encode(), b"AnotherRpc"))
    findings = verified(path)
    assert (findings.broken.line, "changed" in findings.broken.why) == (3, True)


@pytest.mark.parametrize("part", [0, 1, 100, -1])
def test_a_full_disk_takes_nothing_unrecorded_and_then_goes_on(path, observer, part) -> None:
    """There is room for a *part* of the record; -1: for all but the end of its line."""
    log = writing(path, observer, clock=Clock())
    log.refuse_if_failing()
    line, _ = seal(log.head, CALL, RECORD.ended_at, _fields(RECORD))
    log._sink.room = part % len(line)
    with pytest.raises(AuditFailed):
        log.record(RECORD)
    with pytest.raises(AuditFailed):
        log.refuse_if_failing()
    size = path.stat().st_size
    with pytest.raises(AuditFailed):
        log.record(RECORD)
    assert path.stat().st_size == size, "it is tried anew once a second, not with each call"
    log.keep()
    assert observer.failing == [True]
    log._sink.room = None
    log.keep()
    assert observer.failing == [True, False]
    log.refuse_if_failing()
    log.record(RECORD)
    end(log)
    findings = verified(path)
    assert (findings.broken, findings.lost, findings.kinds[CALL]) == (None, 2, 1)
    lost = next(record for record in records(path) if record["kind"] == "lost")
    assert lost["error"] == "ENOSPC"
    assert lost["since"] == "2026-02-02T02:40:00.000000Z"
    assert (lost["records"], lost["numbers"]) == (2, 20)


def test_where_records_are_not_required_answers_go_on_and_the_gap_shows(path, observer, caplog):
    log = writing(path, observer, required=False)
    log._sink.room = 0
    for _ in range(5):
        log.refuse_if_failing()
        log.record(RECORD)
    log._sink.room = None
    log.keep()
    log.record(RECORD)
    end(log)
    assert (verified(path).lost, observer.records, observer.failing) == (5, 1, [True, False])
    assert [event.getMessage() for event in caplog.records].count("audit_failing") == 1


def test_what_is_not_durable_fails_too(path, observer) -> None:
    log = writing(path, observer)
    log.record(RECORD)
    log._sink.is_broken = True
    log.keep()
    assert observer.failing == [True]
    with pytest.raises(AuditFailed):
        log.refuse_if_failing()
    log.keep()
    assert observer.failing == [True], "a write alone does not mend it"
    log._sink.is_broken = False
    log.keep()
    log.refuse_if_failing()
    end(log)
    assert verified(path).broken is None
    assert {record["error"] for record in records(path) if record["kind"] == "lost"} == {"EIO"}


def test_a_disk_that_is_full_at_the_start_is_waited_for(path, observer) -> None:
    file = FaultyFile(path, ROOM_FOR_ALL)
    file.room = 20
    log = writing(path, observer, file=file)
    with pytest.raises(AuditFailed):
        log.refuse_if_failing()
    file.room = None
    log.keep()
    log.record(RECORD)
    end(log)
    assert kinds(path) == ["torn", "file", "lost", "call"]
    assert verified(path).broken is None


@pytest.mark.parametrize("room", [1, 5, 6])
def test_a_crash_at_the_first_bytes_of_all(path, observer, room) -> None:
    for more in (room, 1):
        file = FaultyFile(path, ROOM_FOR_ALL)
        file.room = more
        writing(path, observer, file=file)
        file.close()
    end(writing(path, observer))
    assert kinds(path) == ["torn", "file", "started"]
    assert verified(path).broken is None


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_file_that_somebody_takes_away_is_no_place_for_records(path, observer, how) -> None:
    log = writing(path, observer)
    log.record(RECORD)
    if how == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("elsewhere"))
    if how == "replaced":
        path.touch()
    log.keep()
    assert observer.failing == [True]
    with pytest.raises(AuditFailed):
        log.refuse_if_failing()
    log.keep()
    log.record(RECORD)
    end(log)
    assert kinds(path) == ["file", "lost", "call"]
    findings = verified(path, log.head)
    assert (findings.broken, findings.first.number) == (None, 4)


def test_what_somebody_put_in_place_of_the_file_is_not_written_to(path, observer) -> None:
    log = writing(path, observer)
    path.unlink()
    path.write_text("mine")
    for _ in range(3):
        log.keep()
    assert (path.read_text(), observer.failing) == ("mine", [True])
    path.unlink()
    log.keep()
    assert observer.failing == [True, False]
    end(log)


def test_nothing_is_written_after_the_end(path, observer) -> None:
    log = writing(path, observer)
    end(log)
    before = path.read_bytes()
    with pytest.raises(AuditFailed):
        log.record(RECORD)
    assert path.read_bytes() == before


def test_settings_say_where_and_whether(path, observer, capfd) -> None:
    feed = {"NDOO_FEED": "dir:unused"}
    with auditing(Settings.from_env(feed), observer) as audit:
        assert isinstance(audit, NoAudit)
    with auditing(Settings.from_env(feed | {"NDOO_AUDIT": str(path)}), observer) as audit:
        audit.record(RECORD)
    assert verified(path).kinds[CALL] == 1
    with auditing(Settings.from_env(feed | {"NDOO_AUDIT": "-"}), observer) as audit:
        audit.record(RECORD)
    printed = path.with_name("printed")
    printed.write_text(capfd.readouterr().out)
    assert kinds(printed) == ["file", "started", "call"]
    assert verified(printed).broken is None


ON_A_FULL_DEVICE = """
from support.auditing import RECORD, Counting
from ndoo.ops.audit import AuditFailed
from ndoo.ops.audit_file import AuditStream
from ndoo.ops.audit_log import AuditLog

log = AuditLog(AuditStream(), Counting(), required=True)
try:
    log.record(RECORD)
except AuditFailed:
    raise SystemExit(7)
"""


def test_standard_output_on_a_full_device() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", ON_A_FULL_DEVICE], stdout=full, check=False, timeout=60,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    assert ran.returncode == 7


def test_the_page_tells_every_field_and_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf-8")
    for name in ("n", "prev", "kind", "at", "hash", *_fields(RECORD), "file", "started", LOST):
        assert f"`{name}`" in page, name
