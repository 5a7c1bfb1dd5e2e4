"""The faults of `make mutants` stay true: they fit the tree, and the tests they name are there."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef

planting = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "mutants.py")))
mutants = planting.mutants([])


def test_there_are_enough_of_them() -> None:
    assert len(mutants) >= 12


def test_each_fits_the_tree() -> None:
    misfits = [each.name for each in mutants if not planting.applies(each.patch, ROOT, "--check")]
    assert not misfits, "the code has changed: make these patches anew"


def test_each_tells_what_it_does_and_names_tests_that_are_there() -> None:
    for mutant in mutants:
        assert not mutant.patch.read_text().startswith("Tests:"), mutant.name
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            path, _, name = test.partition("::")
            tree = ast.parse((ROOT / path).read_text())
            there = {node.name for node in tree.body if isinstance(node, FUNCTIONS)}
            assert not name or name in there, f"{mutant.name} names {test}, which is not there"
