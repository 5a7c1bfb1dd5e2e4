"""What `make release` builds is what the tree holds, in the same bytes each time; or nothing."""

from __future__ import annotations

import email
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chart import helm

ROOT = Path(__file__).resolve().parent.parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
WHEEL, SDIST = f"ndoo-{VERSION}-py3-none-any.whl", f"ndoo-{VERSION}.tar.gz"
CHART, BILL = f"ndoo-chart-{VERSION}.tgz", f"ndoo-{VERSION}.cdx.json"
NEEDED = (
    ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "helm", "ops", "proto",
    "pyproject.toml", "requirements-build.lock", "requirements-server.lock", "scripts", "src",
)  # fmt: skip
CHANGED_AT_S = 1_580_601_600
EARLIER_S, LATER_S = 946_684_800, 1_893_456_000  # 2000 and 2030
WRITE_CHART = "import chart; [path.write_text(text) for path, text in chart.generated().items()]"


def copy_of_the_tree(folder: Path) -> Path:
    """All that a release needs, without history, and ready for it whatever the tree waits for."""
    folder.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=_CACHES, symlinks=True)
        else:
            shutil.copy(source, folder)
    (folder / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{VERSION}] - 2026-01-01\n")
    scripts = {**os.environ, "PYTHONPATH": str(folder / "scripts")}
    subprocess.run([sys.executable, "-c", WRITE_CHART], check=True, env=scripts)
    return folder


_CACHES, _HISTORY = shutil.ignore_patterns("__pycache__"), shutil.ignore_patterns(".git")


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "A change")


def git(tree: Path, *arguments: str) -> None:
    config = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(["git", "-C", tree, *config, *arguments], check=True, capture_output=True)


def make_release(
    tree: Path, out: Path, umask: int = 0o022, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, tree / "scripts" / "release.py", "--out", out],
        check=False, capture_output=True, text=True, umask=umask, env={**os.environ, **environment},
    )  # fmt: skip


def files_in(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix() for path in found if "__pycache__" not in path.parts
    }


def members(archive: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as opened:
        return {each.name: (each, opened.extractfile(each).read()) for each in opened}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit that may be released. Copy it before you change it."""
    tree = copy_of_the_tree(tmp_path_factory.mktemp("pristine") / "tree")
    git(tree, "init", "--quiet")
    commit(tree)
    return tree


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tree", symlinks=True))


def test_it_holds_these_files_and_their_sums_hold(release: Path) -> None:
    assert files_in(release) == {WHEEL, SDIST, CHART, BILL, "SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, check=True)
    summed = re.findall(r"^[0-9a-f]{64}  (.+)$", (release / "SHA256SUMS").read_text(), re.MULTILINE)
    assert summed == sorted({WHEEL, SDIST, CHART, BILL})


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    """Whoever builds it, and wherever, whenever and however often it was worked in before."""
    other = Path(shutil.copytree(tree, tmp_path / "an other place", ignore=_HISTORY, symlinks=True))
    worked_in(other)
    built = {}
    for source, umask, environment in (
        (tree, 0o022, {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
        (
            other, 0o077,
            {"TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2",
             "SOURCE_DATE_EPOCH": str(LATER_S), "HOME": "/nonexistent"},
        ),
    ):  # fmt: skip
        out = tmp_path / f"out-{umask}"
        for _ in range(2):  # the second in place of the first
            ran = make_release(source, out, umask, **environment)
            assert ran.returncode == 0, ran.stderr
        built[source] = (out / "SHA256SUMS").read_text()
        assert built[source].splitlines()[0].split()[0] in ran.stdout
    assert built[tree] == built[other]
    assert files_in(tmp_path / "out-18") == files_in(tmp_path / "out-63")


def worked_in(tree: Path) -> None:
    """Leave behind in *tree* what compilers, tests and the clock leave behind."""
    cache = tree / "src" / "ndoo" / "register" / "__pycache__"
    cache.mkdir()
    for name in (
        "kernel.cpython-311.pyc",
        "kernel.check-1.py311.nbi",
        "kernel.check-1.py311.1.nbc",
    ):
        (cache / name).write_bytes(b"machine code")
    for number, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
            os.utime(path, (EARLIER_S + number, EARLIER_S + number))


def test_nothing_in_it_tells_when_and_by_whom_it_was_built(release: Path) -> None:
    for archive in (SDIST, CHART):
        header = (release / archive).read_bytes()[:10]
        assert int.from_bytes(header[4:8], "little") == CHANGED_AT_S
        assert not header[3] & 0b11000  # neither a name nor a comment
        for member, _ in members(release / archive).values():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert (member.mtime, member.mode, member.isreg()) == (CHANGED_AT_S, 0o644, True)
    with zipfile.ZipFile(release / WHEEL) as wheel:
        assert {each.date_time for each in wheel.infolist()} == {(2020, 2, 2, 0, 0, 0)}
        assert {each.external_attr >> 16 & 0o777 for each in wheel.infolist()} == {0o644}
    texts = [gzip.decompress((release / each).read_bytes()) for each in (SDIST, CHART)]
    texts.append((release / BILL).read_bytes())
    assert not [text for text in texts if str(ROOT).encode() in text]


def test_the_wheel_holds_the_package_and_nothing_else(release: Path) -> None:
    about = f"ndoo-{VERSION}.dist-info/"
    with zipfile.ZipFile(release / WHEEL) as wheel:
        found = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(about + "METADATA"))
        licence = wheel.read(about + "licenses/LICENSE")
    assert {each for each in found if not each.startswith(about)} == files_in(ROOT / "src")
    assert {"ndoo/py.typed", "ndoo/v1/check_pb2.pyi"} <= found
    assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "MIT")
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_the_sdist_holds_what_it_takes_and_no_more(release: Path) -> None:
    top = f"ndoo-{VERSION}/"
    expected = {f"src/{each}" for each in files_in(ROOT / "src")} | {
        ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md",
        "proto/ndoo/v1/check.proto", "pyproject.toml", "requirements-build.lock",
        "requirements-server.lock",
    }  # fmt: skip
    assert {each.removeprefix(top) for each in members(release / SDIST)} == expected


def test_the_sdist_builds_the_same_wheel(release: Path, tmp_path: Path) -> None:
    with tarfile.open(release / SDIST) as sdist:
        sdist.extractall(tmp_path, filter="data")
    environment = {name: text for name, text in os.environ.items() if "EPOCH" not in name}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=tmp_path / f"ndoo-{VERSION}", env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / WHEEL).read_bytes() == (release / WHEEL).read_bytes()


def test_the_chart_holds_what_helm_would_pack(release: Path, tmp_path: Path) -> None:
    helm("package", ROOT / "helm" / "ndoo", "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    theirs, ours = ({n: text for n, (_, text) in members(each).items()}
                    for each in (package, release / CHART))  # fmt: skip
    assert len(ours) > 10
    written_anew = "ndoo/Chart.yaml"
    assert {**ours, written_anew: b""} == {**theirs, written_anew: b""}
    assert helm("show", "chart", package) == helm("show", "chart", release / CHART)


def test_helm_takes_the_chart(release: Path) -> None:
    told = helm("show", "chart", release / CHART)
    assert {f"version: {VERSION}", f"appVersion: {VERSION}", "name: ndoo"} <= set(
        told.replace('"', "").splitlines()
    )


def test_only_one_file_states_the_version() -> None:
    """The chart's is written from it; lists of changes tell of it, and of those before."""
    stated = re.compile(rf"(?<![\d.])(?<!==){re.escape(VERSION)}(?![\w.]*\d)")
    places = ("src", "helm", "ops", "scripts", "docs", "proto")
    found = [path for place in places for path in (ROOT / place).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".lock"]
    stating = {
        path.relative_to(ROOT).as_posix()
        for path in found
        if "__pycache__" not in path.parts and stated.search(path.read_text("utf-8"))
    }
    assert "pyproject.toml" in stating
    assert stating <= {
        "pyproject.toml", "helm/ndoo/Chart.yaml", "CHANGELOG.md", "docs/upgrades.md",
    }  # fmt: skip


def uncommitted(tree: Path) -> None:
    with (tree / "src" / "ndoo" / "errors.py").open("a") as file:
        file.write("\n# One more.\n")


def untracked(tree: Path) -> None:
    (tree / "src" / "ndoo" / "notes.txt").touch()


def ignored_on_this_machine(tree: Path) -> None:
    (tree / ".git" / "info" / "exclude").write_text("*.local\n")
    (tree / "src" / "ndoo" / "notes.local").touch()


def ignored_in_the_chart(tree: Path) -> None:
    cache = tree / "helm" / "ndoo" / "files" / "__pycache__"
    cache.mkdir()
    (cache / "x").touch()


def tagged_before(tree: Path) -> None:
    git(tree, "tag", f"v{VERSION}")
    commit(tree)


def not_in_the_changelog(tree: Path) -> None:
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace(VERSION, "0.0.1"))
    commit(tree)


def chart_of_another_version(tree: Path) -> None:
    chart = tree / "helm" / "ndoo" / "Chart.yaml"
    chart.write_text(chart.read_text().replace(VERSION, "0.0.1"))
    commit(tree)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (uncommitted, "The tree holds what no commit does (src/ndoo/errors.py, 1 in all); "),
        (untracked, "The tree holds what no commit does (src/ndoo/notes.txt, 1 in all); "),
        (
            ignored_on_this_machine,
            "The tree holds what no commit does (src/ndoo/notes.local, 1 in all); ",
        ),
        (
            ignored_in_the_chart,
            "The tree holds what no commit does (helm/ndoo/files/__pycache__/x, 1 in all); ",
        ),
        (tagged_before, f"v{VERSION} is another commit; raise the version"),
        (not_in_the_changelog, f"CHANGELOG.md does not begin its releases with {VERSION}"),
        (chart_of_another_version, "helm/ndoo/Chart.yaml is out of date; run 'make chart'"),
    ],
)
def test_what_may_not_bear_the_version_is_not_built(
    tree: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(tree)
    ran = make_release(tree, tmp_path / "out")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(sentence)
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_commit_of_the_tag_can_be_built_again(tree: Path, tmp_path: Path) -> None:
    git(tree, "tag", f"v{VERSION}")
    assert make_release(tree, tmp_path / "out").returncode == 0


@pytest.mark.parametrize("name", ["thesis.pdf", "ndoo.rdb"])
def test_a_folder_of_others_is_not_replaced(tree: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).touch()
    ran = make_release(tree, out)
    assert ran.returncode == 1
    assert ran.stderr == f"{out} would be replaced, and holds {name}; name another folder.\n"
    assert files_in(out) == {name}


def test_a_link_is_followed_and_stays(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        assert make_release(tree, tmp_path / "out").returncode == 0
        assert (tmp_path / "out").is_symlink()
        assert WHEEL in files_in(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("last", "code"),
    [("os.kill(os.getpid(), 2)", 130), ("raise OSError(28, 'No space left on device')", 1)],
)
def test_what_is_not_finished_is_not_there(tmp_path: Path, last: str, code: int) -> None:
    """Ctrl-C, or a full disk, just before the end."""
    tree, out = copy_of_the_tree(tmp_path / "tree"), tmp_path / "there" / "out"
    out.mkdir(parents=True)
    (out / "SHA256SUMS").write_text("of the last release")
    with (tree / "scripts" / "supply.py").open("a") as file:
        file.write(f"\nimport os\ndef sbom(*_):\n    {last}\n")
    ran = make_release(tree, out)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.endswith("nothing was released.\n")
    assert files_in(out.parent) == {"out/SHA256SUMS"}


AT_THE_RENAME = """
import os, pathlib
rename, begun = pathlib.Path.rename, []

def fail(path, target):
    begun.append(path)
    if len(begun) == {nth}:
        {what}
    return rename(path, target)

pathlib.Path.rename = fail
"""


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(
    ("what", "code"), [("os.kill(os.getpid(), 2)", 0), ("raise OSError(5, 'Broken')", 1)]
)
def test_the_old_or_the_new_is_there(tmp_path: Path, nth: int, what: str, code: int) -> None:
    """Ctrl-C, or a disk that fails, while the new release takes the place of the old one."""
    tree, out = copy_of_the_tree(tmp_path / "tree"), tmp_path / "there" / "out"
    out.mkdir(parents=True)
    (out / "SHA256SUMS").write_text("of the last release")
    with (tree / "scripts" / "supply.py").open("a") as file:
        file.write(AT_THE_RENAME.format(nth=nth, what=what))
    ran = make_release(tree, out)
    assert (ran.returncode, "nothing was released" in ran.stderr) == (code, code != 0), ran.stderr
    there = {"SHA256SUMS"} if code else {WHEEL, SDIST, CHART, BILL, "SHA256SUMS"}
    assert files_in(out) == there
    assert list(out.parent.iterdir()) == [out]
