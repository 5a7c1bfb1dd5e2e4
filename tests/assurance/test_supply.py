"""What the software is made of is told, and nothing is in it that binds whoever runs it."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
supply = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "supply.py")))
packages = supply.packages()


def test_every_licence_is_allowed() -> None:
    assert [each for each in packages if not each.is_allowed] == []


@pytest.mark.parametrize(
    ("licence", "serves", "allowed"),
    [
        ("MIT", True, True), ("Apache-2.0 WITH LLVM-exception", True, True),
        ("MIT OR GPL-3.0-only", True, False), ("GPL-3.0-only", False, False),
        ("MPL-2.0", True, False), ("MPL-2.0", False, True), ("unknown", True, False),
        ("", True, False),
    ],
)  # fmt: skip
def test_what_is_allowed(licence: str, serves: bool, allowed: bool) -> None:
    assert supply.Package("x", "1", licence, serves).is_allowed is allowed


def test_the_page_of_licences_is_current() -> None:
    assert supply.PAGE.read_text("utf-8") == supply.page(packages), "run 'make licences'"


def test_every_locked_package_is_told_and_what_serves_is_known() -> None:
    lock = (ROOT / "requirements.lock").read_text("ascii")
    assert len(packages) == len(re.findall(r"^[^# \n][^ \n]*==", lock, re.MULTILINE)) > 40
    serving = {each.name for each in packages if each.serves}
    assert serving >= {
        "grpcio",
        "numpy",
        "protobuf",
        "pyroaring",
        "redis",
        "cryptography",
        "llvmlite",
    }
    assert serving.isdisjoint({"pytest", "mypy", "hypothesis", "ruff", "grpcio-tools"})


def test_the_bill_of_materials_is_the_same_each_time_and_complete() -> None:
    bill = supply.sbom(packages)
    assert bill == supply.sbom(supply.packages())
    told = json.loads(bill)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", told["serialNumber"])
    assert [each["purl"] for each in told["components"]] == [each.purl for each in packages]
    refs = {each["bom-ref"] for each in told["components"]}
    assert set(told["dependencies"][0]["dependsOn"]) <= refs
    assert len(refs) == len(packages)


def test_all_that_is_installed_is_locked_by_hash() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        blocks = re.split(r"\n(?=[A-Za-z])", lock.read_text("ascii").strip())
        assert blocks
        assert [each for each in blocks if "--hash=sha256:" not in each] == [], lock.name
