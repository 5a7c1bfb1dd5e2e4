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
packages = supply.packages(*supply.LOCKS)


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


def test_programs_of_any_licence_must_not_serve() -> None:
    for name in supply.PROGRAMS:
        assert supply.Package(name, "1", "GPL-3.0-only", serves=False).is_allowed
        assert not supply.Package(name, "1", "GPL-3.0-only", serves=True).is_allowed


def test_the_page_of_licences_is_current() -> None:
    assert supply.PAGE.read_text("utf-8") == supply.page(packages), "run 'make licences'"


def locked(name: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([^# \n]+)==([^ \n]+)", (ROOT / name).read_text("ascii"), re.MULTILINE)
    return {(package.lower(), version) for package, version in found}


def test_every_locked_package_is_told_and_what_serves_is_known() -> None:
    told = {(each.name, each.version) for each in packages}
    assert told == set.union(*map(locked, supply.LOCKS))
    assert told > locked(supply.SERVER)
    assert len(told) == len(packages) > 60
    serving = {each.name for each in packages if each.serves}
    assert serving > {name for name, _ in locked(supply.SERVER)}
    assert serving > {"grpcio", "polars", "pyroaring", "redis", "cryptography"}
    assert serving.isdisjoint({"pytest", "mypy", "hypothesis", "ruff", "grpcio-tools"})


def test_the_bill_of_materials_is_the_same_each_time_and_complete() -> None:
    serving = supply.packages(supply.SERVER)
    bill = supply.sbom(serving, "1.2.3", "ab" * 32)
    assert bill == supply.sbom(supply.packages(supply.SERVER), "1.2.3", "ab" * 32)
    told = json.loads(bill)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", told["serialNumber"])
    assert told["metadata"]["component"]["purl"] == "pkg:pypi/ndoo@1.2.3"
    assert told["metadata"]["component"]["hashes"][0]["content"] == "ab" * 32
    components = {each["name"]: each for each in told["components"]}
    assert {(each["name"], each["version"]) for each in told["components"]} == locked(supply.SERVER)
    refs = {each["bom-ref"] for each in told["components"]}
    assert set(told["dependencies"][0]["dependsOn"]) == refs
    assert len(refs) == len(told["components"])
    assert components["grpcio"]["scope"] == "required"
    assert components["async-timeout"]["scope"] == "optional"
    lock = (ROOT / supply.SERVER).read_text("ascii")
    assert sorted(re.findall(r"sha256:([0-9a-f]{64})", lock)) == sorted(
        digest["content"]
        for each in told["components"]
        for digest in each["externalReferences"][0]["hashes"]
    )


def test_all_that_is_installed_is_locked_by_hash() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        blocks = re.split(r"\n(?=[A-Za-z])", lock.read_text("ascii").strip())
        assert blocks
        assert [each for each in blocks if "--hash=sha256:" not in each] == [], lock.name
