"""`ndoo check`: the right rows, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import grpc
import pytest

from client.fake_service import AS_OF_S, TOKEN
from client.flaws import FLAWS
from client.people import valid_numbers
from ndoo.v1 import check_pb2

A, B, C, D = (f"{number:010d}" for number in valid_numbers(4).tolist())


@pytest.fixture
def cohort(tmp_path, service):
    """A file with rows of all kinds, in which B is opted out."""
    service.opted_out = {int(B)}
    path = tmp_path / "cohort.dat"
    path.write_bytes(
        b"\xef\xbb\xbf" + f"{A},\r\n{B},\r\n9990000027,\r\n\r\n{C},x\r\n {D}\r\n".encode()
    )
    return path


def test_cleared_rows_and_report(run, target, cohort):
    result = run("check", cohort, "cleared.dat", "--target", target, "--report", "report.json")
    assert (result.exit_code, result.stderr.count("line ")) == (3, 3)
    output = cohort.with_name("cleared.dat")
    assert output.read_bytes() == f"{A},\n {D}\n".encode()
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    report = json.loads(cohort.with_name("report.json").read_text())
    assert [report[name] for name in ("received", "cleared", "opted_out", "invalid")] == [
        6,
        2,
        1,
        3,
    ]
    assert report["revision"] == TOKEN
    assert report["as_of"] == "2026-02-02T02:40:00.000Z"
    assert report["bad_rows_total"] == 3
    assert [row["line"] for row in report["bad_rows"]] == [3, 4, 5]
    assert "6 rows: 2 cleared, 1 opted out, 3 invalid" in result.stdout
    assert AS_OF_S == 1_770_000_000


@pytest.mark.parametrize("output", [f"{B}.dat", "-"])
def test_success_shows_the_revision_and_no_number(run, target, cohort, output):
    named = cohort.rename(cohort.with_name(f"{B}-cohort.dat"))
    result = run("check", named, output, "--target", target, "--report", "report.json")
    told = result.stderr + ("" if output == "-" else result.stdout)
    assert result.exit_code == 3
    assert f"Revision: {TOKEN}" in told
    assert B not in told + cohort.with_name("report.json").read_text()


def test_csv_keeps_header_and_rows(run, target, service, tmp_path):
    service.opted_out = {int(B)}
    (tmp_path / "c.csv").write_text(f'id,nhs,t\n1,{A},"x\ny"\n2,{B},\n3,{C}\n4,{D},z\n')
    result = run("check", "c.csv", "o.csv", "--column", "nhs", "--target", target)
    assert result.exit_code == 3
    assert (tmp_path / "o.csv").read_text() == f'id,nhs,t\n1,{A},"x\ny"\n4,{D},z\n'
    assert "line 5: it has 2 columns" in result.stderr


def test_standard_input_to_standard_output(start, target, cohort):
    process = start("check", "-", "-", "--target", target, stdin=subprocess.PIPE)
    stdout, stderr = process.communicate(cohort.read_bytes(), timeout=60)
    assert (process.returncode, stdout) == (3, f"{A},\n {D}\n".encode())
    assert b"2 cleared" in stderr


def test_messages_keep_to_the_limits_of_the_service(run, target, service, tmp_path):
    service.numbers_per_message = 3
    (tmp_path / "many.dat").write_text("".join(f"{n}\n" for n in valid_numbers(10).tolist()))
    assert run("check", "many.dat", "out.dat", "--target", target).exit_code == 0
    assert [len(request.nhs_numbers) for request in service.requests] == [3, 3, 3, 1]


def test_at_least_as_fresh_is_passed_on(run, target, service, cohort):
    run("check", cohort, "out.dat", "--target", target, "--at-least-as-fresh", "earlier")
    assert service.batches[0].at_least_as_fresh == "earlier"
    assert {request.exactly_at for request in service.requests} == {TOKEN}


def test_existing_files_are_kept_unless_forced(run, target, service, cohort):
    for name in ("cleared.dat", "report.json"):
        path = cohort.with_name(name)
        path.write_text("precious")
        arguments = ("check", cohort, "cleared.dat", "--target", target, "--report", "report.json")
        result = run(*arguments)
        assert (result.exit_code, path.read_text()) == (1, "precious")
        assert "--force" in result.stderr
        assert service.requests == []
        path.unlink()
    cohort.with_name("cleared.dat").write_text("old")
    assert run(*arguments, "--force").exit_code == 3
    assert cohort.with_name("cleared.dat").read_text() == f"{A},\n {D}\n"


def test_an_output_that_appears_meanwhile_is_kept(run, target, service, cohort):
    output = cohort.with_name("cleared.dat")

    def flaw(responses):
        for response in responses:
            output.write_text("precious")
            yield response

    service.flaw = flaw
    result = run("check", cohort, output, "--target", target)
    assert (result.exit_code, output.read_text()) == (1, "precious")


@pytest.mark.parametrize(
    "options",
    [
        ("cohort.dat", "--force"),
        ("linked.dat", "--force"),
        ("out.dat", "--report", "cohort.dat", "--force"),
        ("x", "--report", "./x"),
    ],
)
def test_the_three_files_must_differ(run, target, cohort, options):
    before = cohort.read_bytes()
    cohort.with_name("linked.dat").symlink_to(cohort)
    result = run("check", cohort, "--target", target, *options)
    assert (result.exit_code, cohort.read_bytes()) == (1, before)
    assert "different files" in result.stderr


def test_a_column_named_by_a_number_never_lets_the_first_row_through(run, target, tmp_path):
    (tmp_path / "c.csv").write_text(f"{B},x\n{A},y\n")
    result = run("check", "c.csv", "o.csv", "--column", B, "--target", target)
    assert (result.exit_code, sorted(tmp_path.iterdir())) == (1, [tmp_path / "c.csv"])


def test_a_report_on_a_full_disk_leaves_neither_file(run, target, cohort, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", full)
    result = run("check", cohort, "out.dat", "--target", target, "--report", "report.json")
    assert (result.exit_code, sorted(tmp_path.iterdir())) == (1, [cohort])
    assert result.stderr == "Error: No space left on device.\n"


@pytest.mark.parametrize("option", [(), ("out.dat", "--report")], ids=["output", "report"])
@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link in a circle"])
def test_what_is_no_file_is_never_replaced(run, target, cohort, tmp_path, option, kind):
    place = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("nothing" if kind == "link to nothing" else "place")
    before = place.lstat()
    result = run("check", cohort, *option, "place", "--target", target, "--force")
    assert (result.exit_code, place.lstat()) == (1, before)
    assert (
        result.stderr == "Error: place is not an ordinary file; name one that is, or a new one.\n"
    )


@pytest.mark.parametrize("output", ["nowhere/x", "."])
def test_an_output_that_cannot_be_is_refused_first(run, target, service, cohort, output):
    assert run("check", cohort, output, "--target", target).exit_code == 1
    assert service.requests == []


@pytest.mark.parametrize("output", ["out.dat", "-"])
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_no_output_comes_of_a_broken_answer(
    run, target, service, tmp_path, monkeypatch, flaw, output
):
    service.opted_out = {int(B)}
    service.flaw = flaw
    service.numbers_per_message = 3
    numbers = [*valid_numbers(10).tolist(), "wrong"]
    (tmp_path / "in.dat").write_text("".join(f"{number}\n" for number in numbers))
    monkeypatch.setattr(sys.modules["ndoo.cli.check"], "TIMEOUT_S", 0.05)
    result = run("check", "in.dat", output, "--target", target, "--report", "report.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.dat"]
    assert result.stderr.startswith("Error: ")
    assert "service" in result.stderr


def test_no_output_comes_of_a_service_that_clears_what_is_no_number(run, target, service, cohort):
    def flaw(responses):
        for response in responses:
            if response.HasField("chunk"):
                response.chunk.cleared, response.chunk.invalid = b"\x3f", b""
            else:
                response.summary.counts.CopyFrom(check_pb2.Counts(received=6, cleared=6))
            yield response

    service.flaw = flaw
    result = run("check", cohort, "out.dat", "--target", target)
    assert result.exit_code == 1
    assert "do not trust it" in result.stderr
    assert not cohort.with_name("out.dat").exists()


def test_a_refusal_is_one_sentence(run, target, service, cohort):
    service.refusal = (grpc.StatusCode.UNAVAILABLE, "SUSPENDED", "All answers are suspended.")
    result = run("check", cohort, "out.dat", "--target", target)
    assert (result.exit_code, result.stderr) == (1, "Error: All answers are suspended.\n")
    assert not cohort.with_name("out.dat").exists()


def test_nobody_there_names_the_target(run, cohort):
    result = run("check", cohort, "out.dat", "--target", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_in_the_middle_leaves_no_output(start, target, service, tmp_path, number, code):
    begun = threading.Event()

    def flaw(responses):
        yield next(responses)
        begun.set()
        service.ended.wait(60)

    service.flaw = flaw
    service.numbers_per_message = 2
    (tmp_path / "in.dat").write_text("".join(f"{n}\n" for n in valid_numbers(10).tolist()))
    process = start("check", "in.dat", "o.dat", "--target", target, "--report", "report.json")
    assert begun.wait(60)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, b"")
    assert b"Traceback" not in stderr
    named = [path.name for path in tmp_path.iterdir() if not path.name.endswith(".part")]
    assert named == ["in.dat"]
    if number != signal.SIGKILL:
        assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_that_goes_away_is_no_drama(start, target, tmp_path):
    (tmp_path / "in.dat").write_text("".join(f"{n}\n" for n in valid_numbers(50_000).tolist()))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = start("check", "in.dat", "-", "--target", target, stdout=writer)
    finally:
        os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (1, b"")


def test_progress_is_silent_when_nobody_watches(start, target, cohort):
    process = start("check", cohort, "out.dat", "--target", target, stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=60)
    assert b"%" not in stderr
