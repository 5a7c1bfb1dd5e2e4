"""How commands end: a sentence, an exit code, and never an NHS number."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest

from ndoo.cli.console import hide_numbers

CANARY = "9990000026"
GROUPED = ("999 000 0026", "999-000-0026")
KEY = CANARY[:9]


def assert_hidden(*texts: str) -> None:
    for text in texts:
        assert not any(canary in text for canary in (CANARY, KEY, *GROUPED)), text


@pytest.mark.parametrize(
    "arguments",
    [
        (CANARY,),
        ("record", CANARY),
        ("record", "opt_out"),
        ("record", "opt_out", "99900000261", "--feed", "dir:f"),
        ("record", "opt_out", CANARY, "--feed", f"dir:{CANARY}"),
        ("record", "opt_out", CANARY, "--feed", CANARY),
        ("record", "opt_out", CANARY, "--feed", f"redis://:{CANARY}@127.0.0.1:1/0"),
        ("record", "opt_out", CANARY, f"--{CANARY}"),
        ("record", "opt_out", CANARY, "--at", CANARY, "--feed", "dir:f"),
        ("record", "opt_out", CANARY, "--src", CANARY, "--feed", "dir:f"),
        ("record", "supersede", CANARY, "--feed", "dir:f"),
        ("record", "suspend", CANARY, "--feed", "dir:f"),
        ("snapshot", CANARY),
        ("snapshot", "--feed", f"dir:{CANARY}"),
        ("load", CANARY, "--feed", "dir:f"),
        ("load", "rows.dat", "--feed", "dir:f"),
        ("load", "rows.dat", "--feed", "dir:f", "--column", CANARY),
        ("load", "rows.csv", "--feed", "dir:f", "--column", "x"),
        ("load", "quotes.csv", "--feed", "dir:f", "--column", "nhs"),
        ("load", "packed.gz", "--feed", "dir:f"),
        ("load", "utf16.txt", "--feed", "dir:f"),
        ("load", "zeros.bin", "--feed", "dir:f"),
        ("load", "nothing.dat", "--feed", "dir:f"),
        ("load", ".", "--feed", "dir:f"),
        ("check", CANARY),
        ("check", CANARY, "out"),
        ("check", ".", "out"),
        ("check", ".", CANARY, "--target", "127.0.0.1:1"),
        ("check", "", "out"),
        ("check", "rows.dat", ""),
        ("check", "circle", "out"),
        ("check", "*.nothing", "out"),
        ("check", f"{CANARY}*", "out"),
        ("check", "rows.dat", "out", "--target", CANARY),
        ("check", "rows.dat", "out", "--target", "127.0.0.1:1"),
        ("check", "rows.dat", f"{CANARY}/x"),
        ("check", "rows.dat", "out", "--report", f"{CANARY}/x"),
        ("check", "rows.csv", "out", "--column", "x", "--target", "127.0.0.1:1"),
        ("check", "rows.dat", "out", CANARY),
        ("status", CANARY),
        ("status", "127.0.0.1:1"),
        ("serve", "--listen", CANARY, "--feed", "dir:f"),
        ("serve", CANARY),
        ("demo", "--opt-outs", CANARY),
        ("demo", "--numbers", CANARY),
        ("demo", "--feed", CANARY),
    ],
)
def test_errors_never_show_a_number_and_are_one_sentence(run, tmp_path, arguments):
    rows = f"{CANARY},x\n{CANARY}1\n{GROUPED[0]} {GROUPED[1]}\n9990000027\n"
    (tmp_path / "rows.dat").write_text(rows)
    (tmp_path / "rows.csv").write_text(f"{CANARY},{GROUPED[0]}\n1,2\n")
    (tmp_path / "quotes.csv").write_text(f'nhs\n"{CANARY}\n')
    (tmp_path / "packed.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "utf16.txt").write_text(rows, encoding="utf-16")
    (tmp_path / "zeros.bin").write_bytes(b"\0" + rows.encode())
    (tmp_path / "nothing.dat").write_bytes(b"")
    (tmp_path / "circle").symlink_to("circle")
    result = run(*arguments)
    assert result.exit_code in {1, 2}
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert last[-1] in ".'"
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert "This is a fault in ndoo" not in result.stderr
    assert_hidden(result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"no {CANARY} here", "no [hidden] here"),
        (f"{GROUPED[0]}|{GROUPED[1]}", "[hidden]|[hidden]"),
        (f"key {KEY}.", "key [hidden]."),
        (f"x{CANARY}123", "x[hidden]"),
        ("8HQ50OT001-030620-0001.dat", "8HQ50OT001-030620-0001.dat"),
        ("127.0.0.1:50551 3,619,104", "127.0.0.1:50551 3,619,104"),
    ],
)
def test_what_looks_like_a_number_is_hidden(text, hidden):
    assert hide_numbers(text) == hidden


def test_an_error_nobody_foresaw_says_where_but_not_what(run, monkeypatch, tmp_path):
    def broken(*_arguments):
        raise ValueError(f"cannot read {CANARY}")

    (tmp_path / "rows.dat").write_text(CANARY)
    monkeypatch.setattr("ndoo.cli.load.read_rows", broken)
    result = run("load", "rows.dat", "--feed", "dir:f")
    assert result.exit_code == 1
    assert "ValueError in test_console.py, line" in result.stderr
    assert_hidden(result.stderr)


@pytest.mark.parametrize(
    "command",
    [(), *((name,) for name in ("serve", "check", "load", "record", "snapshot", "status", "demo"))],
)
def test_help_teaches_with_an_example(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "ndoo " in result.stdout.split("Options:")[0].split("\n", 1)[1]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_defaults_are_told_in_words_that_are_taken(run):
    told = " ".join(run("serve", "--help").stdout.split())
    assert "Default: false. [NDOO_AUDIT_REQUIRED]" in told
    assert "Default: 64. [NDOO_STREAMS_MAX]" in told


def test_no_command_shows_the_help(run):
    result = run()
    assert result.exit_code == 2
    assert "ndoo demo" in result.stdout + result.stderr


BASE_INSTALL = """
import sys
for name in ("pyroaring", "redis", "numba", "prometheus_client", "grpc_health", "grpc_reflection",
             "uvloop", "hiredis", "pyarrow", "pandas", "polars"):
    sys.modules[name] = None
from ndoo.cli.main import main
sys.argv[0] = "ndoo"
main()
"""


def base_install(*arguments: str) -> subprocess.CompletedProcess:
    """A command as the base install has it: without the packages of the server."""
    command = [sys.executable, "-c", BASE_INSTALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_base_install_checks_and_tells_status(target, tmp_path):
    (tmp_path / "rows.dat").write_text(CANARY)
    assert base_install("status", target).returncode == 0
    checked = base_install("check", "rows.dat", "out.dat", "--target", target)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert (tmp_path / "out.dat").read_text() == f"{CANARY}\n"


def test_grpc_adds_nothing_to_the_one_sentence(target):
    """It logs a handshake that fails, unless it is told not to before it is imported."""
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    command = [sys.executable, "-m", "ndoo", "status", target, "--tls"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environ
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "rows.dat", "--feed", "dir:f"),
        ("record", "opt_out", CANARY, "--feed", "dir:f"),
        ("snapshot", "--feed", "dir:f"),
        ("serve", "--feed", "dir:f"),
        ("demo", "--numbers", "10", "--opt-outs", "10"),
    ],
)
def test_the_base_install_says_which_extra_is_missing(tmp_path, arguments):
    (tmp_path / "rows.dat").write_text(CANARY)
    result = base_install(*arguments)
    assert result.returncode == 1
    assert "pip install 'ndoo[server]'" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_ctrl_c_while_it_is_imported_ends_it_without_a_word(tmp_path):
    (tmp_path / "click.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "ndoo", "--version"], capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_refused_in_one_sentence(tmp_path, closed):
    command = f'exec "$0" -m ndoo check - - {closed}'
    ran = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "is closed; use /dev/null" in ran.stderr
