"""`ndoo load`, `record` and `snapshot`, into a feed in a folder."""

from __future__ import annotations

import subprocess

import pytest

from client.people import valid_numbers
from ndoo.feed.url import open_feed
from ndoo.register.register import Register
from ndoo.revision import Revision

A, B, C, D = (f"{number:010d}" for number in valid_numbers(4).tolist())
FEED = "dir:feed"


def register() -> Register:
    """The register as a service would read it now."""
    feed = open_feed(FEED)
    try:
        snapshot = feed.load()
        made = Register(snapshot)
        made.apply(feed.read(snapshot.revision, snapshot.position, 0).changes)
        return made
    finally:
        feed.close()


def holds(*numbers: str) -> bool:
    return sorted(register().keys().tolist()) == sorted(int(number) // 10 for number in numbers)


def token_of(stdout: str) -> str:
    return stdout.rsplit("Revision: ", 1)[1].strip()


@pytest.fixture
def loaded(run, tmp_path):
    (tmp_path / "list.dat").write_text(f"{A},\r\n{B},\r\n{A}\n")
    result = run("load", "list.dat", "--feed", FEED)
    assert result.exit_code == 0, result.stderr
    return result


def test_load_prints_count_and_revision(loaded):
    assert loaded.stdout.startswith("Loaded 2 opt-outs (1 repeated).\n")
    assert Revision.from_token(token_of(loaded.stdout)).seq == 0
    assert holds(A, B)


def test_load_reads_a_column(run, tmp_path):
    (tmp_path / "list.csv").write_text(f"id,nhs\n1,{C}\n2,{D}\n")
    assert run("load", "list.csv", "--column", "nhs", "--feed", FEED).exit_code == 0
    assert holds(C, D)


def test_the_feed_may_come_from_the_environment(run, monkeypatch, tmp_path):
    monkeypatch.setenv("NDOO_FEED", FEED)
    (tmp_path / "list.dat").write_text(A)
    assert run("load", "list.dat").exit_code == 0
    assert holds(A)


def test_a_bad_row_may_be_an_opt_out_so_nothing_is_loaded(run, loaded, tmp_path):
    (tmp_path / "bad.dat").write_text(f"{A}\n{B}\n{C}\n9990000027\n")
    result = run("load", "bad.dat", "--feed", FEED)
    assert result.exit_code == 1
    assert "line 4: its check digit is wrong" in result.stderr
    assert "--skip-bad" in result.stderr
    assert holds(A, B)
    assert run("load", "bad.dat", "--feed", FEED, "--skip-bad").exit_code == 0
    assert holds(A, B, C)


def test_bad_rows_are_told_up_to_twenty(run, tmp_path):
    (tmp_path / "bad.dat").write_text("x\n" * 1500)
    result = run("load", "bad.dat", "--feed", FEED)
    assert result.stderr.count("line ") == 20
    assert "1,480 more" in result.stderr


@pytest.mark.parametrize("content", ["\n", "\r\n"])
def test_an_empty_register_is_refused(run, loaded, tmp_path, content):
    (tmp_path / "empty.dat").write_text(content)
    result = run("load", "empty.dat", "--feed", FEED, "--accept-jump")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert holds(A, B)


def test_a_far_smaller_register_needs_a_word(run, tmp_path):
    (tmp_path / "many.dat").write_text("".join(f"{n}\n" for n in valid_numbers(5000).tolist()))
    (tmp_path / "few.dat").write_text(A)
    assert run("load", "many.dat", "--feed", FEED).exit_code == 0
    assert run("load", "few.dat", "--feed", FEED).exit_code == 1
    assert len(register()) == 5000
    assert run("load", "few.dat", "--feed", FEED, "--accept-jump").exit_code == 0
    assert holds(A)


def test_record_changes_the_register(run, loaded):
    result = run("record", "opt_out", C, "999 000 0042", "--feed", FEED)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Recorded 2 changes.")
    assert Revision.from_token(token_of(result.stdout)).seq == 2
    assert holds(A, B, C, D)
    assert run("record", "opt_in", A, "--feed", FEED).exit_code == 0
    assert holds(B, C, D)


def test_record_supersede_links_two_numbers(run, loaded):
    assert run("record", "supersede", A, C, "--feed", FEED).exit_code == 0
    assert holds(A, B, C)


def test_record_suspend_and_resume(run, loaded):
    assert run("record", "suspend", "--feed", FEED).exit_code == 0
    assert register().suspended
    assert run("record", "resume", "--feed", FEED).exit_code == 0
    assert not register().suspended


@pytest.mark.parametrize(
    ("kind", "stdin", "expected"),
    [
        ("opt_out", f"{C},\r\n{D}\n", (A, B, C, D)),
        ("opt_in", f"{B}\n", (A,)),
        ("supersede", f"{A},{C}\r\n{B}, {D}\n", (A, B, C, D)),
        ("supersede", f"\ufeff{A},{C}\n", (A, B, C)),
    ],
)
def test_numbers_come_from_standard_input(start, loaded, kind, stdin, expected):
    process = start("record", kind, "-", "--feed", FEED, stdin=subprocess.PIPE)
    _, stderr = process.communicate(stdin.encode(), timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    assert holds(*expected)


@pytest.mark.parametrize(
    ("kind", "stdin"),
    [
        ("opt_out", f"{C}\n9990000027\n"),
        ("opt_in", f"{A}\n\n{B}\n"),
        ("supersede", f"{A},{C}\n{B}\n"),
        ("supersede", f"{A},9990000027\n"),
        ("supersede", ""),
        ("opt_out", ""),
    ],
)
def test_one_wrong_number_and_nothing_is_recorded(start, loaded, kind, stdin):
    process = start("record", kind, "-", "--feed", FEED, stdin=subprocess.PIPE)
    _, stderr = process.communicate(stdin.encode(), timeout=60)
    assert process.returncode == 1
    assert stderr.decode().splitlines()[-1].startswith("Error: ")
    assert b"999000" not in stderr
    assert (register().revision.seq, holds(A, B)) == (0, True)


def test_a_wrong_pair_is_told_by_its_line(start, loaded):
    process = start("record", "supersede", "-", "--feed", FEED, stdin=subprocess.PIPE)
    _, stderr = process.communicate(f"{A},{C}\n{B},9990000027\n".encode(), timeout=60)
    assert b"line 2: its check digit is wrong\n" in stderr


@pytest.mark.parametrize(
    ("at", "stored"),
    [
        ("2026-03-01T09:30:00Z", "2026-03-01T09:30:00Z"),
        ("2026-03-01T09:30:00.5+01:00", "2026-03-01T08:30:00.500000Z"),
    ],
)
def test_times_are_kept_in_utc(run, loaded, at, stored):
    result = run("record", "opt_out", C, "--feed", FEED, "--at", at, "--src", "nhs-app")
    assert result.exit_code == 0
    feed = open_feed(FEED)
    snapshot = feed.load()
    (change,) = feed.read(snapshot.revision, snapshot.position, 0).changes
    feed.close()
    assert (change.at, change.src) == (stored, "nhs-app")


@pytest.mark.parametrize(
    "options",
    [
        ("--at", "2026-03-01"),
        ("--at", "2026-03-01T09:30:00"),
        ("--at", "2026-03-01 09:30:00Z"),
        ("--at", "2026-13-01T09:30:00Z"),
        ("--at", "0001-01-01T00:00:00+23:59"),
        ("--at", "2026-03-01T09:30:00Z\n"),
        ("--at", "9990000026"),
        ("--src", "9990000026"),
        ("--src", "a b"),
        ("--src", "x" * 33),
    ],
)
def test_bad_options_are_wrong_usage_and_record_nothing(run, loaded, options):
    result = run("record", "opt_out", C, "--feed", FEED, *options)
    assert result.exit_code == 2
    assert "999000" not in result.stderr
    assert holds(A, B)


@pytest.mark.parametrize("numbers", [(A,), (A, B, C), ()])
def test_supersede_takes_two_numbers(run, loaded, numbers):
    assert run("record", "supersede", *numbers, "--feed", FEED).exit_code == 2


def test_snapshot_keeps_everything(run, loaded):
    run("record", "opt_out", C, "--feed", FEED)
    result = run("snapshot", "--feed", FEED)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Snapshot of 3 opt-outs.")
    assert Revision.from_token(token_of(result.stdout)).seq == 1
    assert holds(A, B, C)


@pytest.mark.parametrize(
    "arguments",
    [("load", "list.dat"), ("record", "opt_out", A), ("record", "suspend"), ("snapshot",)],
)
def test_without_a_feed_the_sentence_names_the_mend(run, tmp_path, arguments):
    (tmp_path / "list.dat").write_text(A)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "--feed" in result.stderr


@pytest.mark.parametrize("arguments", [("record", "opt_out", A), ("snapshot",)])
def test_a_feed_that_holds_nothing_takes_no_changes(run, arguments):
    result = run(*arguments, "--feed", FEED)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
