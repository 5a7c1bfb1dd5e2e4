"""What commands say of numbers that are wrong, or stand in the wrong place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from leaks.asking import command
from leaks.canaries import digits, grouped, leaks
from ndoo.config import Settings
from support.places import Place

FILE = digits("file")
BAD_FILES = {
    "rows.dat": f"{FILE}x\n{FILE}0\n{grouped('file', '.')}\n{FILE[:9]}\n",
    "column.csv": f"{FILE},name\n{FILE},{FILE}\n",
    "quotes.csv": f'nhs_number,"{FILE}\n"{FILE}"{FILE}\n',
    "bytes.dat": f"\x00{FILE}\udcff{FILE}\n",
    f"{digits('file name')}.dat": f"{FILE}x\n",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_told_of_by_line(directory_place: Place, name: str) -> None:
    feed = ("--feed", directory_place.url)
    Path(name).write_bytes(BAD_FILES[name].encode(errors="surrogateescape"))
    said = [command("load", name, *feed), command("verify", name, *feed)]
    said.append(command("load", name, "--column", "nhs_number", *feed))
    said.append(command("load", name, "--column", FILE, *feed))
    said.append(command("load", name, "--skip-bad", "--drawn-at", FILE, *feed))
    said.append(command("check", name, f"{digits('file name')}.out", "--target", "127.0.0.1:1"))
    assert leaks(*said) == []
    assert all(said)


@pytest.mark.parametrize("kind", ["opt_out", "opt_in", "supersede"])
def test_what_cannot_be_recorded_is_not_repeated(directory_place: Place, kind: str) -> None:
    directory_place.loaded(1)
    feed, number = ("--feed", directory_place.url), digits("recorded")
    said = [
        command("record", kind, "-", *feed, text=f"{number}x\n{number}0,{number}\n{number}\n"),
        command("record", kind, number, f"{number}1", *feed),
        command("record", kind, "-", *feed, "--src", number, text=f"{number}\n"),
        command("record", kind, "-", *feed, "--at", number, text=f"{number}\n"),
        command("record", kind, "-", *feed, "--request-id", number, text=f"{number}\n"),
        command("record", number, "-", *feed),
        command("record", kind, f"--{number}", *feed),
    ]
    assert leaks(*said) == []
    assert all(said)


URLS = ("redis://u:{0}@127.0.0.1:1/0", "redis://{0}.invalid:1/0", "{0}://x", "redis://h:{0}/{0}",
        "redis://h/0?{0}={0}", "dir:{0}/feed")  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_urls_are_not_repeated(url: str) -> None:
    feed = ("--feed", url.format(digits("url")))
    said = [command("verify", *feed), command("snapshot", *feed)]
    said.append(command("record", "suspend", *feed))
    assert leaks(*said) == []


def test_settings_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    number, said = digits("setting"), []
    for field in dataclasses.fields(Settings):
        if field.type != "str" or field.metadata.get("pattern") or field.metadata.get("is_address"):
            with monkeypatch.context() as patch:
                patch.setenv(field.metadata["env"], f"{number}x")
                said.append(command("verify", "--feed", "dir:nowhere"))
    for name in (f"NDOO_{number}", f"NDOO_LISTEN_{number}"):
        with monkeypatch.context() as patch:
            patch.setenv(name, number)
            said.append(command("verify", "--feed", "dir:nowhere"))
    said.append(command("status", number, f"{number}:50551"))
    said.append(command(number))
    said.append(command("audit", "verify", number))
    assert leaks(*said) == []
    assert all(said)


FAILS = f"""
import logging, threading
from ndoo.cli import main, status

def fail(*_):
    raise ValueError("{digits("raised")}")

class Faulty:
    __del__ = fail

def fail_everywhere(*_):
    threading.Thread(target=fail).start()
    Faulty()
    logging.getLogger("some.library").error("{digits("logged")}")
    fail()

status.read = fail_everywhere
main.main()
"""


def test_faults_of_commands_are_told_by_kind_and_place() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FAILS, "status"], capture_output=True, text=True, check=False
    )
    assert leaks(ran.stdout, ran.stderr) == []
    assert ran.returncode == 1
    told = "Error: This is a fault in ndoo: ValueError in <string>, line 6; please report it."
    assert ran.stderr.splitlines() == [told] * 3
