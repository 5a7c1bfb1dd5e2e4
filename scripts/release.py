"""Build a release into dist, or into DIR: `release.py [--out DIR]`.

    ndoo-X.Y.Z-py3-none-any.whl   what callers and services install
    ndoo-X.Y.Z.tar.gz             what the wheel is built from, and the proto
    ndoo-chart-X.Y.Z.tgz          the Helm chart
    ndoo-X.Y.Z.cdx.json           what a service is made of (CycloneDX)
    SHA256SUMS                    of these four

Nothing in them tells when, where or by whom they were built: one commit gives the same bytes each
time, as long as Python and the lock are the same. Refuses, with a sentence, to build what no commit
holds, or what another release was called. DIR is replaced as a whole at the end, or left alone.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import chart
import supply

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "ndoo"
SUMS = "SHA256SUMS"

CHANGED_AT_S = 1_580_601_600
"""The time that all files bear, 2020-02-02: hatchling's own if it is told none, so that whoever
builds from the sdist gets the same wheel."""

_RELEASED = re.compile(r"^## \[(\d[^]]*)\]", re.MULTILINE)
_OURS = re.compile(rf"{SUMS}|ndoo[-.].*\.(?:whl|tar\.gz|tgz|cdx\.json)")


class Refused(Exception):
    """There is nothing to release; the message says why, and what to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a release.", allow_abbrev=False)
    parser.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out.resolve()
    try:
        check_tree()
        check_target(out)
        replace(out)
    except Refused as refusal:
        sys.exit(str(refusal))
    except OSError as error:
        sys.exit(f"{error}; nothing was released.")
    except KeyboardInterrupt:
        print("Interrupted; nothing was released.", file=sys.stderr)
        sys.exit(130)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:>10,}  {sha256(path)}  {path.name}")


def version() -> str:
    """The one of pyproject.toml, from which all others follow."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def check_tree() -> None:
    """Raises Refused unless the tree is a commit that may be called by its version."""
    released = _RELEASED.search((ROOT / "CHANGELOG.md").read_text("utf-8"))
    if released is None or released[1] != version():
        raise Refused(
            f"CHANGELOG.md does not begin its releases with {version()}, the version that "
            f"pyproject.toml names; head what is new with '## [{version()}] - YYYY-MM-DD'."
        )
    for path, text in chart.generated().items():
        if path.read_text("utf-8") != text:
            raise Refused(f"{path.relative_to(ROOT)} is out of date; run 'make chart'.")
    if (ROOT / ".git").exists():
        check_commit()


def check_commit() -> None:
    status = git("status", "--porcelain", "--untracked-files=no").splitlines()
    changed = [*(line[3:] for line in status), *untracked()]
    if changed:
        raise Refused(
            f"The tree holds what no commit does ({changed[0]}, {len(changed)} in all); commit "
            "or remove it."
        )
    tag = f"v{version()}"
    if git("tag", "--list", tag) and tag not in git("tag", "--points-at", "HEAD").split():
        raise Refused(f"{tag} is another commit; raise the version in pyproject.toml.")


def untracked() -> list[str]:
    """What is new, and not ignored by the tree itself; what this machine ignores would be packed.

    In the chart nothing is ignored, as all of it is packed.
    """
    new = git("ls-files", "--others", "--exclude-per-directory=.gitignore")
    in_chart = git("ls-files", "--others", "--", str(CHART))
    return sorted({*new.splitlines(), *in_chart.splitlines()})


def check_target(out: Path) -> None:
    """Raises Refused if there is anything in *out* that no release has brought there."""
    for path in sorted(out.iterdir()) if out.exists() else []:
        if not path.is_file() or not _OURS.fullmatch(path.name):
            raise Refused(f"{out} would be replaced, and holds {path.name}; name another folder.")


def replace(out: Path) -> None:
    """Put a release in place of *out*, whole. Its last step is finished, or undone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=out.parent) as scratch:
        built, before = Path(scratch) / "built", Path(scratch) / "before"
        built.mkdir()
        build(built)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if out.exists():
            out.rename(before)
        try:
            built.rename(out)
        except OSError:
            if before.exists():
                before.rename(out)
            raise


def build(folder: Path) -> None:
    """Build all files of a release of the tree as it is into *folder*, which is empty."""
    tell("Wheel and sdist")
    build_python(folder)
    tell("Chart")
    build_chart(folder / f"ndoo-chart-{version()}.tgz")
    tell("Bill of materials")
    wheel = folder / f"ndoo-{version()}-py3-none-any.whl"
    bill = supply.sbom(supply.packages(supply.SERVER), version(), sha256(wheel))
    (folder / f"ndoo-{version()}.cdx.json").write_text(bill, "ascii")
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums), "ascii")


def build_python(folder: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(CHANGED_AT_S)}
    hatchling = (sys.executable, "-m", "hatchling", "build", "-d", str(folder))
    run(*hatchling, "-t", "sdist", "-t", "wheel", env=environment)


def build_chart(package: Path) -> None:
    """What `helm package` packs; but that stamps each file with the time of its last change."""
    with (
        package.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=CHANGED_AT_S) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for path in chart_files():
            content = path.read_bytes()
            member = tarfile.TarInfo(f"ndoo/{path.relative_to(CHART).as_posix()}")
            member.size, member.mtime = len(content), CHANGED_AT_S
            archive.addfile(member, io.BytesIO(content))


def chart_files() -> Iterator[Path]:
    return (path for path in sorted(CHART.rglob("*")) if path.is_file())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git(*arguments: str) -> str:
    return run("git", *arguments, env=None)


def run(*command: str, env: Mapping[str, str] | None) -> str:
    """What *command* writes, run in the tree. Raises Refused in its words if it fails."""
    ran = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise Refused(f"{ran.stderr.strip()}\n'{' '.join(command)}' failed; nothing was released.")
    return ran.stdout


def tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr)


if __name__ == "__main__":
    main()
