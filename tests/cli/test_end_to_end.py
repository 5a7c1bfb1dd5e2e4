"""From a list of opt-outs to cleared rows, through the real server in its own process."""

from __future__ import annotations

import json

import pytest

from client.people import valid_numbers
from ndoo.cli.demo_server import running_server

NUMBERS = [f"{number:010d}" for number in valid_numbers(3000).tolist()]


@pytest.fixture
def server(run, tmp_path):
    """A server on a feed in which every third number is opted out."""
    (tmp_path / "list.dat").write_text("".join(f"{number},\n" for number in NUMBERS[::3]))
    assert run("load", "list.dat", "--feed", "dir:feed").exit_code == 0
    with running_server("dir:feed") as server:
        yield server


def test_a_cohort_is_cleared_and_follows_changes(run, server, tmp_path):
    (tmp_path / "cohort.dat").write_text("".join(f"{n}\r\n" for n in NUMBERS) + "none\r\n")
    result = run(
        "check", "cohort.dat", "out.dat", "--target", server.target, "--report", "report.json"
    )
    assert result.exit_code == 3, result.stderr
    expected = [number for place, number in enumerate(NUMBERS) if place % 3]
    assert (tmp_path / "out.dat").read_text().split() == expected
    report = json.loads((tmp_path / "report.json").read_text())
    counts = [report[name] for name in ("received", "cleared", "opted_out", "invalid")]
    assert counts == [3001, 2000, 1000, 1]

    recorded = run("record", "opt_out", NUMBERS[1], "--feed", "dir:feed")
    token = recorded.stdout.rsplit(" ", 1)[1].strip()
    options = ("--target", server.target, "--force", "--at-least-as-fresh", token)
    result = run("check", "cohort.dat", "out.dat", *options)
    assert result.exit_code == 3, result.stderr
    assert (tmp_path / "out.dat").read_text().split() == expected[1:]
    assert token in result.stdout


def test_suspension_stops_the_command(run, server, tmp_path):
    (tmp_path / "cohort.dat").write_text("".join(f"{number}\n" for number in NUMBERS))
    recorded = run("record", "suspend", "--feed", "dir:feed")
    token = recorded.stdout.rsplit(" ", 1)[1].strip()
    options = ("--target", server.target, "--at-least-as-fresh", token)
    result = run("check", "cohort.dat", "out.dat", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert not (tmp_path / "out.dat").exists()


def test_status_of_the_real_server(run, server):
    result = run("status", server.target, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["opt_outs"] == 1000


def test_a_token_of_another_history_is_one_sentence(run, server, tmp_path):
    (tmp_path / "cohort.dat").write_text(NUMBERS[1])
    options = ("--target", server.target, "--at-least-as-fresh", "nonsense")
    result = run("check", "cohort.dat", "out.dat", *options)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "token" in result.stderr
