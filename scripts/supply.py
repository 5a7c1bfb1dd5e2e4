"""What this software is made of: the page of licences, and the bill of materials (CycloneDX).

    python scripts/supply.py licences   writes docs/licences.md
    python scripts/supply.py sbom       writes dist/ndoo.cdx.json

Both come from requirements.lock and from what the installed packages say of themselves, so that the
same lock gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
SBOM = ROOT / "dist" / "ndoo.cdx.json"

ALLOWED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "LLVM-exception",
    "MIT", "MIT-0", "PSF-2.0", "Zlib",
}  # fmt: skip
"""Anybody may build on these in any way, if only the notice stays."""

ALLOWED_FOR_TOOLS = ALLOWED | {"MPL-2.0"}
"""Binds whoever changes these files, which nobody does who merely runs tests."""

_NOT_HERE = {
    "async-timeout": "Apache-2.0",
    "colorama": "BSD-3-Clause",
    "uvloop": "MIT OR Apache-2.0",
}
"""Locked for other platforms or versions of Python, or left unclear by the package itself."""

_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "MIT style": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_EXTRAS = frozenset({"server", "otel", "files", "frames"})
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)", re.MULTILINE)
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # of URLs, RFC 9562


@dataclass(frozen=True, order=True)
class Package:
    """One locked package. *serves* if the service or its callers need it; else only tools do."""

    name: str
    version: str
    licence: str
    serves: bool

    @property
    def is_allowed(self) -> bool:
        words = set(re.split(r"[\s()]+", self.licence)) - {"AND", "OR", "WITH", ""}
        return bool(words) and words <= (ALLOWED if self.serves else ALLOWED_FOR_TOOLS)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def packages() -> list[Package]:
    """All of requirements.lock, in order of their names."""
    serving = set(_needed("ndoo", _EXTRAS))
    lock = (ROOT / "requirements.lock").read_text("ascii")
    return sorted(
        Package(name := canonicalize_name(locked), version, licence_of(name), name in serving)
        for locked, version in _LOCKED.findall(lock)
    )


def licence_of(name: str) -> str:
    """The SPDX expression for what *name* says of itself, or its own words if that is none."""
    if name in _NOT_HERE:
        return _NOT_HERE[name]
    told = metadata.metadata(name)
    classified = [
        each.rpartition(" :: ")[2]
        for each in told.get_all("Classifier") or []
        if each.startswith("License :: ")
    ]
    for said in (told.get("License-Expression"), told.get("License"), *classified):
        if said in _SPDX or (said and re.fullmatch(r"[A-Za-z0-9.() -]{2,80}", said)):
            return _SPDX.get(said, said)
    return "unknown"


def _needed(name: str, extras: frozenset[str], seen: set[str] | None = None) -> Iterator[str]:
    """The names of all that *name* with *extras* needs, on any platform."""
    seen = set() if seen is None else seen
    for line in metadata.requires(name) or []:
        needed = Requirement(line)
        wanted = [{"extra": extra, "sys_platform": "linux"} for extra in extras | {""}]
        if needed.marker and not any(map(needed.marker.evaluate, wanted)):
            continue
        found = canonicalize_name(needed.name)
        if found not in seen:
            seen.add(found)
            yield found
            yield from _needed(found, frozenset(needed.extras), seen)


def page(found: list[Package]) -> str:
    rows = [
        (each.name, each.version, each.licence, "use" if each.serves else "tools") for each in found
    ]
    return _PREFACE + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def sbom(found: list[Package]) -> str:
    version = metadata.version("ndoo")
    root = f"pkg:pypi/ndoo@{version}"
    components = [
        {
            "type": "library",
            "bom-ref": each.purl,
            "name": each.name,
            "version": each.version,
            "scope": "required" if each.serves else "excluded",
            "licenses": [{"expression": each.licence}],
            "purl": each.purl,
        }
        for each in found
    ]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "ndoo",
                "version": version,
                "licenses": [{"license": {"id": "MIT"}}],
                "purl": root,
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [each.purl for each in found if each.serves]}],
    }
    bill["serialNumber"] = uuid.uuid5(_NAMESPACE, json.dumps(bill, sort_keys=True)).urn
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


_PREFACE = """\
# Licences

What `requirements.lock` brings along, by its own word, as written by `make licences`. *use* is
needed to serve or to call, *tools* only to build and test. The service is under the MIT licence,
and whoever runs it needs to agree to no other terms than those here: what is not on the list of
allowed licences in `scripts/supply.py` fails a test. *BSD* is where a package does not say which of
the two.

| package | version | licence | for |
| --- | --- | --- | --- |
"""


def main(what: str) -> None:
    if what == "licences":
        PAGE.write_text(page(packages()), "utf-8")
    elif what == "sbom":
        SBOM.parent.mkdir(exist_ok=True)
        SBOM.write_text(sbom(packages()), "ascii")
        print(f"{SBOM.relative_to(ROOT)}: {len(packages())} components")
    else:
        sys.exit("Say 'licences' or 'sbom'.")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [""])
