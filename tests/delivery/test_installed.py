"""The wheel of a release in clean environments: as it is locked to serve, bare, and with extras.

Only the extra "spark" is left out: it is half a gigabyte, and the tests of callers run in it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delivery.conftest import ROOT, UV, install
from support.people import number
from support.service import Service

OPTED_OUT, CLEARED, LATER = (number(person) for person in range(3))
COHORT = [OPTED_OUT, CLEARED]
FRAMES = """
import sys
import polars as pl
import pyarrow as pa
from ndoo.client import Client
from ndoo.client.frames import clear

columns = {"nhs_number": sys.argv[2:]}
with Client(sys.argv[1]) as client:
    for frame in (pl.DataFrame(columns), pa.table(columns)):
        print(*clear(frame, client).frame["nhs_number"])
"""


def run(venv: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`ndoo` of *venv*, with nothing of the tree in reach."""
    command, *rest = arguments
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [venv / "bin" / command, *rest], cwd=cwd, env=environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def packages(venv: Path) -> dict[str, str]:
    """Names and versions of all that is installed in *venv*."""
    listed = subprocess.run(
        [UV, "pip", "list", "--format", "json", "--python", venv / "bin" / "python"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    return {each["name"]: each["version"] for each in json.loads(listed)}


@pytest.fixture(scope="module")
def add(release: Path) -> Callable[..., Path]:
    """Adds the wheel with an extra, such as "[server]", and what that needs, as it is locked."""
    (wheel,) = release.glob("*.whl")

    def add(venv: Path, extra: str = "") -> Path:
        install(venv, "--constraint", ROOT / "requirements.lock", f"{wheel}{extra}")
        return venv

    return add


@pytest.fixture(scope="module")
def base(add: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add(tmp_path_factory.mktemp("base") / "venv")


@pytest.fixture(scope="module")
def tables(add: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add(tmp_path_factory.mktemp("tables") / "venv", "[files]")


@pytest.fixture(scope="module")
def server(add: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add(tmp_path_factory.mktemp("server") / "venv", "[server]")


@pytest.fixture(scope="module")
def feed(server: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("feed")
    (folder / "list.dat").write_text(f"{OPTED_OUT}\n")
    loaded = run(server, "ndoo", "load", "list.dat", "--feed", "dir:feed", cwd=folder)
    assert loaded.returncode == 0, loaded.stderr
    return f"dir:{folder}/feed"


@pytest.fixture(scope="module")
def service(server: Path, feed: str) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "python", str(server / "bin" / "python"))
        serving = Service(feed)
    yield serving
    serving.stop()


def test_the_bill_of_materials_lists_what_is_installed(release: Path, installed: Path) -> None:
    bill = json.loads(next(release.glob("*.cdx.json")).read_text())
    listed = [bill["metadata"]["component"], *bill["components"]]
    here = packages(installed).items()
    assert here <= {(each["name"], each["version"]) for each in listed}
    required = {each["name"] for each in bill["components"] if each["scope"] == "required"}
    assert required < {name for name, _ in here}
    wheel = bill["metadata"]["component"]["hashes"][0]["content"]
    assert f"{wheel}  ndoo-" in (release / "SHA256SUMS").read_text()


def test_who_calls_gets_what_calls_need_and_nothing_that_serves(base: Path, tmp_path: Path) -> None:
    assert packages(base).keys() == {
        "click", "googleapis-common-protos", "grpcio", "ndoo", "numpy", "protobuf",
        "typing-extensions",
    }  # fmt: skip
    place = run(base, "python", "-c", "import ndoo.client; print(ndoo.__file__)", cwd=tmp_path)
    assert place.stdout.startswith(str(base)), place.stderr
    told = run(base, "ndoo", "--help", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    shown = run(base, "ndoo", "--version", cwd=tmp_path).stdout.strip()
    assert shown == packages(base)["ndoo"]


@pytest.mark.parametrize("command", ["serve", "load list.dat", f"record opt_out {CLEARED}"])
def test_what_needs_the_server_says_so(base: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "list.dat").write_text(f"{OPTED_OUT}\n")
    ran = run(base, "ndoo", *command.split(), "--feed", "dir:feed", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(
        r"Error: This command needs the package \w+, which the base install does not bring; "
        r"install it with: pip install 'ndoo\[server\]'\n",
        ran.stderr,
    )
    assert not (tmp_path / "feed").exists()


def test_a_cohort_is_checked(base: Path, service: Service, tmp_path: Path) -> None:
    (tmp_path / "in.dat").write_text("".join(f"{each}\n" for each in COHORT))
    ran = run(base, "ndoo", "check", "in.dat", "out.dat", "--target", service.address, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out.dat").read_text().split() == [CLEARED]


def test_tables_need_their_extra(
    base: Path, tables: Path, service: Service, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"nhs_number": COHORT}), tmp_path / "in.parquet")
    check = ("ndoo", "check", "in.parquet", "out.parquet", "--target", service.address)
    refused = run(base, *check, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.endswith("to read it, install: pip install 'ndoo[files]'\n")
    ran = run(tables, *check, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    cleared = pq.read_table(tmp_path / "out.parquet")["nhs_number"].to_pylist()
    assert cleared == [CLEARED]


def test_frames_are_cleared(
    tables: Path, add: Callable[..., Path], service: Service, tmp_path: Path
) -> None:
    add(tables, "[frames]")
    ran = run(tables, "python", "-c", FRAMES, service.address, *COHORT, cwd=tmp_path)
    assert ran.stdout == f"{CLEARED}\n" * 2, ran.stderr


def test_a_change_is_recorded_and_served(
    server: Path, feed: str, service: Service, base: Path, tmp_path: Path
) -> None:
    recorded = run(server, "ndoo", "record", "opt_out", LATER, "--feed", feed, cwd=tmp_path)
    token = recorded.stdout.rsplit(" ", 1)[1].strip()
    (tmp_path / "in.dat").write_text("".join(f"{each}\n" for each in [*COHORT, LATER]))
    check = ("ndoo", "check", "in.dat", "out.dat", "--target", service.address)
    ran = run(base, *check, "--at-least-as-fresh", token, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out.dat").read_text().split() == [CLEARED]


def test_traces_need_their_extra(
    server: Path, add: Callable[..., Path], feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDOO_TRACES", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")  # nobody is there to take them
    monkeypatch.setattr(Service, "python", str(server / "bin" / "python"))
    serve = ("serve", "--feed", feed, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    refused = run(server, "ndoo", *serve, cwd=server)
    assert refused.returncode == 1
    assert refused.stderr.endswith("install it with: pip install 'ndoo[server,otel]'\n")
    add(server, "[server,otel]")
    Service(feed).stop()
