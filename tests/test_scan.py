"""No number of a person and no secret gets into the repository: the scan, and its hooks."""

from __future__ import annotations

import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ndoo import nhs_number
from support.people import number

ROOT = Path(__file__).resolve().parent.parent
SEED = 20_261_122

scan = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "scan.py")))


def drawn() -> str:
    """A valid number in a range that is issued; it is written nowhere but into folders of tests."""
    rng = random.Random(SEED)
    while True:
        key = rng.choice([rng.randrange(4 * 10**8, 5 * 10**8), rng.randrange(6 * 10**8, 8 * 10**8)])
        if (digit := nhs_number.check_digit(key)) is not None:
            return f"{key}{digit}"


def kinds(path: Path, content: str | bytes) -> list[tuple[int, str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(scan.findings(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", ["", " ", "-", "\u00a0", "  ", "\t", ".", " - "])
def test_a_number_is_found_however_it_is_written(tmp_path: Path, separator: str, encoding: str):
    """The fourth is the space of word processors and web pages at which no line is broken."""
    digits = drawn()
    written = separator.join((digits[:3], digits[3:6], digits[6:]))
    text = f"id;café\n1;{written}\n"
    ((line, kind),) = kinds(tmp_path / "x.csv", text.encode(encoding))
    assert (line, "NHS number" in kind) == (2, True)


@pytest.mark.parametrize("separator", ["\u2009", "\u202f", "\u2011", "\u2013", "_", "/"])
def test_a_number_is_found_with_separators_of_typesetters(tmp_path: Path, separator: str):
    digits = drawn()
    written = separator.join((digits[:3], digits[3:6], digits[6:]))
    assert len(kinds(tmp_path / "x.txt", written)) == 1


def test_what_is_nobodys_passes(tmp_path: Path):
    digits = drawn()
    wrong = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    decimals = f"{digits[:3]}.{digits[3:]}"
    text = f"{number(0)} {wrong} 1{digits} {digits}1 {int(digits):,} {decimals} redis://u:PASSWORD@host"
    assert kinds(tmp_path / "x.txt", text) == []


SECRETS = {
    "private": "-----BEGIN EC PRIVATE " + "KEY-----\nMHc",
    "JWT": "eyJ" + ".".join(["a" * 30] * 3),
    "AWS": "AKIA" + "Q" * 16,
    "Azure": "AccountKey=" + "a" * 86 + "==",
    "GitHub": "ghp_" + "a" * 36,
    "index": "pypi-AgE" + "a" * 60,
    "URL": "rediss://user:correct" + "-horse@host:6379/0",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found(tmp_path: Path, name: str):
    ((line, kind),) = kinds(tmp_path / "x.lock", f"first\n= {SECRETS[name]}\n")
    assert (line, name in kind) == (2, True)


def test_what_is_found_is_told_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    planted = [drawn(), *SECRETS.values()]
    path = tmp_path / "x.txt"
    path.write_text("".join(f"asked = {each} \n" for each in planted))
    assert scan.main([str(path)]) == 1
    told = capsys.readouterr().out
    assert told.count(f"{path}:") == len(planted)
    assert not [each for each in ("asked", *planted) if each.partition("\n")[0] in told]


def test_a_number_in_the_name_of_a_file_is_found_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    digits = drawn()
    path = tmp_path / f"{digits}.txt"
    path.write_text(f"\n{digits}\n")
    assert scan.main([str(path)]) == 1
    told = capsys.readouterr().out
    assert f"{tmp_path}/NUMBER.txt: in its name, a number" in told
    assert f"{tmp_path}/NUMBER.txt:2: a number" in told
    assert digits not in told


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A repository with the hooks as `make hooks` installs them, and all that they run."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    repository = tmp_path / "repository"
    repository.mkdir()

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=False
        )

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments)

    for name in (".pre-commit-config.yaml", ".venv", "pyproject.toml", "proto", "buf.yaml"):
        (repository / name).symlink_to(ROOT / name)
    (repository / "scripts").mkdir()
    (repository / "scripts" / "scan.py").write_bytes((ROOT / "scripts" / "scan.py").read_bytes())
    assert git("init", "--quiet").returncode == 0
    installed = run(Path(sys.executable).with_name("pre-commit"), "install")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return git


def test_a_commit_is_refused_without_a_word_of_what_was_found(git, tmp_path: Path):
    digits, person = drawn(), number(0)
    path = tmp_path / "repository" / "new.py"

    def committed(content: str, message: str) -> tuple[bool, str]:
        path.write_text(content)
        git("add", "new.py")
        ran = git("commit", "--message", message)
        return ran.returncode == 0, ran.stdout + ran.stderr

    planted = f"{digits}  \n{SECRETS['private']}"
    passed, told = committed(f"# {person}\nasked = {planted}", "A number and a key")
    assert (passed, "new.py:2: " in told, "new.py:3: " in told) == (False, True, True), told
    assert digits not in told
    assert "BEGIN" not in told
    assert "asked" not in told, "a later hook showed the line"

    passed, told = committed(f'"""New."""\n\nASKED = {person}\n', f"Ask about {digits}")
    assert (passed, "COMMIT_EDITMSG:1: " in told, digits in told) == (False, True, False), told
    passed, told = committed(f'"""New."""\n\nASKED = {person}  ', "Spaces, and no newline")
    refused = {line.removeprefix("- hook id: ") for line in told.splitlines()}
    assert not passed
    assert {"trailing-space", "final-newline", "ruff-check", "ruff-format"} <= refused, told
    passed, told = committed(f'"""New."""\n\nASKED = {person}\n', f"Ask about {person}")
    assert passed, told


def test_the_tree_itself_can_be_committed(tmp_path: Path):
    """By those hooks that only hooks run: the others are the scan's test, and `make check`."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    others = "scan,ruff-check,ruff-format,buf-lint"
    ran = subprocess.run(
        [Path(sys.executable).with_name("pre-commit"), "run", "--files", *files.split("\0")[:-1]],
        cwd=ROOT, env={**os.environ, "PRE_COMMIT_HOME": str(tmp_path), "SKIP": others},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout.count("Passed")) == (0, 2), ran.stdout + ran.stderr


def test_numbers_are_looked_for_in_what_is_committed_not_in_what_lies_there(git, tmp_path: Path):
    path = tmp_path / "repository" / "new.txt"
    path.write_text(f"{drawn()}\n")
    git("add", "new.txt")
    path.write_text("gone from the folder, not from the commit\n")
    assert git("commit", "--message", "Half of it").returncode == 1
