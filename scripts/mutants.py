"""Plant dangerous faults one at a time, and show which test catches each: `mutants.py [NAME...]`.

A mutant is a patch in tests/mutants that changes a line or two of the service in a way that could
clear somebody wrongly or lose a change. The text before its first `---` tells what the fault is
and, in a line that begins with "Tests:", which tests are there to catch it. They are run on copies
of the tree: first as it is, when they must pass, then with the fault, when one of them must fail.
Exits with 1 if a fault is not caught, a patch does not apply, or a test fails without any fault.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests" / "mutants"
_COPIED = (
    "src",
    "tests",
    "proto",
    "docs",
    "ops",
    "scripts",
    "helm",
    "benchmarks",
    "pyproject.toml",
    "requirements.lock",
    "requirements-build.lock",
    "requirements-server.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "SECURITY.md",
    ".gitignore",
)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
_TEST_FAILED = 1  # pytest: some tests failed; other numbers mean that it could not do its work
_TESTS_S_MAX = 300  # for those of one fault: a test that hangs has caught nothing


@dataclass(frozen=True)
class Mutant:
    """A fault, and the tests (files, or single ones as pytest names them) that have to catch it."""

    name: str
    patch: Path
    tests: tuple[str, ...]

    @classmethod
    def read(cls, patch: Path) -> Mutant:
        told = patch.read_text("utf-8").partition("\n--- ")[0]
        lines = [line for line in told.splitlines() if line.startswith("Tests:")]
        if len(lines) != 1:
            sys.exit(f"{patch.name} must have one line that begins with 'Tests:' before its '---'.")
        return cls(patch.stem, patch, tuple(lines[0].removeprefix("Tests:").split()))


def mutants(names: Sequence[str]) -> list[Mutant]:
    """All mutants, or those of *names*."""
    every = [Mutant.read(patch) for patch in sorted(PATCHES.glob("*.patch"))]
    unknown = set(names) - {mutant.name for mutant in every}
    if unknown or not every:
        sys.exit(f"There is no mutant {', '.join(sorted(unknown)) or 'at all'} in {PATCHES}.")
    return [mutant for mutant in every if not names or mutant.name in names]


@contextmanager
def copy_of(tree: Path) -> Iterator[Path]:
    """A copy with its modification times, so that what numba compiled stays good."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in _COPIED:
            source, target = tree / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
        yield Path(folder)


def run(
    tree: Path, tests: Sequence[str], timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run *tests* against the sources in *tree*, to the first failure. Raises TimeoutExpired."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "--tb=no", "-p", "no:cacheprovider", *tests],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
        timeout=timeout_s,
    )  # fmt: skip


def applies(patch: Path, tree: Path, *flags: str) -> bool:
    """Apply *patch* to *tree*, or only see whether it could be ("--check"); say whether it fits."""
    applied = subprocess.run(
        ["git", "apply", *flags, str(patch)], cwd=tree, capture_output=True, check=False,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
    )  # fmt: skip
    return applied.returncode == 0


def verdict_on(mutant: Mutant, whole: Path) -> tuple[bool, str]:
    """Whether *mutant* is caught in a copy of the tree *whole*, and by what."""
    with copy_of(whole) as tree:
        if not applies(mutant.patch, tree):
            return False, "the patch does not apply; renew it"
        try:
            ran = run(tree, mutant.tests, _TESTS_S_MAX)
        except subprocess.TimeoutExpired:
            return False, "the tests did not end"
    failed = _FAILED.search(ran.stdout)
    if ran.returncode == _TEST_FAILED and failed:
        return True, f"caught by {failed[1]}"
    return False, "NOT CAUGHT" if ran.returncode == 0 else "the tests could not be run"


def main(names: Sequence[str]) -> int:
    chosen = mutants(names)
    missed = 0
    with copy_of(ROOT) as tree, ThreadPoolExecutor(os.cpu_count()) as pool:
        ran = run(tree, sorted({test for mutant in chosen for test in mutant.tests}))
        if ran.returncode:
            sys.exit(f"Without any fault, a test fails; mend that first.\n{ran.stdout[-2000:]}")
        verdicts = pool.map(verdict_on, chosen, [tree] * len(chosen))
        for mutant, (caught, how) in zip(chosen, verdicts):
            missed += not caught
            print(f"{'ok  ' if caught else 'FAIL'} {mutant.name:40} {how}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults were caught.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
