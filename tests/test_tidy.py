"""The rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import ast
import hashlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from ndoo.ops.reasons import FEED_REFUSALS, REFUSALS, RESYNCS, STATE_REFUSALS
from ndoo.ops.watch import Sign
from ndoo.register.replica import Phase

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "ndoo"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400

LEFTOVERS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
REDIS = {
    "budgets/redis.py",
    "feed/connection.py",
    "feed/master.py",
    "feed/redis.py",
    "publish/redis.py",
}

scan = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "scan.py")))


@cache
def files() -> list[Path]:
    """Everything that is, or with the next commit will be, part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def sources() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py") if "v1" not in path.relative_to(SRC).parts)


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        raw = path.read_bytes()
        if scan.may_hold_numbers(path) and b"\0" not in raw:
            yield path, raw.decode("utf-8")


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Each node of each source with where it stands."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            yield f"{path.relative_to(SRC)}:{getattr(node, 'lineno', 0)}", node


def test_there_is_something_to_look_at():
    assert len(sources()) > 15
    assert SRC / "register" / "kernel.py" in sources()
    assert {path.name for path, _ in texts()} >= {"check.proto", "README.md", "test_tidy.py"}


def test_layers():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", ran.stdout)


def test_functions_are_short():
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [
        f"{where} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for where, node in nodes()
        if isinstance(node, functions)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]  # fmt: skip
    assert not long


def test_files_are_short():
    lengths = {str(path.relative_to(SRC)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX}


def test_only_the_command_line_prints():
    printing = [
        where
        for where, node in nodes()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not where.startswith("cli/")
    ]
    assert not printing


def test_nothing_is_guarded_by_assert():
    # `python -O` strips them.
    assert not [where for where, node in nodes() if isinstance(node, ast.Assert)]


def test_no_exception_is_swallowed():
    handlers = [(where, node) for where, node in nodes() if isinstance(node, ast.ExceptHandler)]
    assert handlers
    assert not [where for where, node in handlers if node.type is None]
    assert not [where for where, node in handlers if _is_broad(node.type) and _is_empty(node.body)]
    suppressing = {
        where.partition(":")[0]
        for where, node in nodes()
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("suppress")
        and any(_is_broad(argument) for argument in node.args)
    }
    assert not suppressing


def _is_broad(node: ast.expr | None) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    names = {ast.unparse(part).rpartition(".")[2] for part in parts if part is not None}
    return bool(names & {"Exception", "BaseException"})


def _is_empty(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(statement, (ast.Pass, ast.Continue))
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


def test_redis_is_known_in_five_places():
    importing = set()
    for where, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        if any(name.partition(".")[0] == "redis" for name in names):
            importing.add(where.partition(":")[0])
    assert importing <= REDIS


def test_cached_machine_code_is_renewed_with_all_that_it_is_made_of():
    """Numba's cache looks at the file of a cached function, not at what that calls in other files.

    So the file names them with a digest: a change of any is a change of the file, and whoever
    upgrades never runs the new source with the machine code of the old.
    """
    cached = [path for path in sources() if "@compiled(" in path.read_text()]
    assert SRC / "register" / "kernel.py" in cached
    for path in cached:
        for made_of in _compiled_imports(path) - {path}:
            digest = hashlib.sha256(made_of.read_bytes()).hexdigest()[:16]
            assert f"{made_of.name} {digest}" in path.read_text(), f"missing in {path.name}"


def _compiled_imports(path: Path) -> set[Path]:
    """The files with compiled functions that *path* imports from, and those they import from."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [f"{names[0]}.{alias.name}" for alias in node.names] if names else []
        for name in names:
            other = SRC.parent / (name.replace(".", "/") + ".py")
            if name.startswith("ndoo.") and other.is_file() and _is_compiled(other):
                found |= {other} | _compiled_imports(other)
    return found


def _is_compiled(path: Path) -> bool:
    return re.search(r"^@(?:nb\.|compiled\()", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize(
    ("document", "least"),
    [("invariants.md", 40), ("threat-model.md", 40), ("hazard-log.md", 40), ("privacy.md", 1)],
)
def test_what_the_documents_name_is_there(document: str, least: int):
    """The files and tests that they name as evidence."""
    text = (ROOT / "docs" / document).read_text("utf-8")
    named = re.findall(r"`((?:[\w-]+/)+[\w-]*(?:\.\w+|/)|[\w-]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= least
    for path, test in named:
        found = [place for place in (ROOT / path, SRC / path) if place.exists()]
        assert found, f"{document} names {path}"
        assert f"def {test}(" in found[0].read_text() if test else True, f"{path}::{test}"


def test_every_reason_is_in_the_runbook_and_every_one_there_is_in_the_code():
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    counted = {*REFUSALS, *RESYNCS, *FEED_REFUSALS, *STATE_REFUSALS, *(each.value for each in Sign)}
    told = {f"SNAPSHOT{each}" for each in re.findall(r"`(_[A-Z_]+)`", runbook)}
    told |= set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", runbook))
    told -= {each.name for each in (*Phase, *grpc.StatusCode)} - counted
    assert sorted(counted - told) == [], "not in the runbook"
    words = {
        node.value.removeprefix("SNAPSHOT_")
        for where, node in nodes()
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and not where.startswith("ops/reasons.py")
    }
    assert [each for each in sorted(told) if each.removeprefix("SNAPSHOT_") not in words] == []


def test_nothing_is_left_over():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, text in texts()
        for line, content in enumerate(text.splitlines(), 1)
        if LEFTOVERS.search(content)
    ]
    assert not found


def test_no_number_of_a_person_and_no_secret_is_written_down():
    """Numbers that begin with 9 are never issued; keys and tokens are made while tests run."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {kind}"
        for path in files()
        for line, kind in scan.findings(path)
    ]
    assert not found
