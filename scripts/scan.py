"""Look for people's NHS numbers and for secrets in files: `python scripts/scan.py FILE ...`.

Tells file, line and kind of each, and never what stands there; exits with 1 if there is any. It
finds numbers as digits, in names of files, too: ten in a row, or grouped 3-3-4 as people and their
word processors write them. So none that is packed, or written otherwise.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ndoo import nhs_number

ROOT = Path(__file__).resolve().parent.parent
# Hashes, coordinates, times and sizes: what looks like a number there is none.
_WITHOUT_NUMBERS = {".lock", ".png", ".svg", "package-lock.json"}
_MEASURED = ROOT / "benchmarks" / "results"

_GAP = r"(?:[^\S\r\n]{1,2}|[^\S\r\n]?[-._/\u2010-\u2015\ufffd][^\S\r\n]?)"
"""Any space or dash, or a byte that is not UTF-8, such as the unbreakable space of Latin-1."""

_NUMBER = re.compile(rf"(?<!\d)\d{{3}}(?:[ -]?\d{{3}}[ -]?|{_GAP}\d{{3}}{_GAP})\d{{4}}(?!\d)")
_KIND = "a number that may be somebody's NHS number"
_SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n)",
    "a token (JWT)": r"\beyJ[\w-]{20,}\.[\w-]{20,}\.",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
    "a key of Azure": r"\bAccountKey=[\w+/]{80,}=",
    "a token of GitHub": r"\b(?:gh[oprsu]_[A-Za-z0-9]{36}|github_pat_\w{60,})\b",
    "a token of a package index": r"\b(?:pypi-AgE[\w-]{50,}|npm_[A-Za-z0-9]{36}\b)",
    # Placeholders are in capitals, in brackets of some kind, or begin with "secret".
    "a password in a URL": r"://[^\s:/@]*:(?!secret|[A-Z_]+@)[^\s/@{}<>$\"'`]{8,}@",
}
_SECRET = re.compile("|".join(f"({pattern})" for pattern in _SECRETS.values()))


def main(names: Sequence[str]) -> int:
    found = 0
    for name in names:
        shown = _NUMBER.sub("NUMBER", name)
        places = [f"{line}: {kind}" for line, kind in findings(Path(name))]
        places += [f" in its name, {_KIND}" for _ in _numbers(name)]
        for place in places:
            print(f"{shown}:{place}")
        found += len(places)
    if found:
        print(
            "Take it out. Numbers from 999 000 0000 on are nobody's: tests and documents use these."
        )
    return 1 if found else 0


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Line (from 1) and kind of each finding. Raises OSError.

    Bytes of zero are left out, so that text in UTF-16 is read as well.
    """
    text = path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace")
    for match in _SECRET.finditer(text):
        yield _line(text, match), list(_SECRETS)[(match.lastindex or 1) - 1]
    if may_hold_numbers(path):
        for match in _numbers(text):
            yield _line(text, match), _KIND


def may_hold_numbers(path: Path) -> bool:
    """Whether digits in this file are to be taken for numbers of people."""
    named = {path.suffix, path.name}
    return _WITHOUT_NUMBERS.isdisjoint(named) and _MEASURED not in path.resolve().parents


def _numbers(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _NUMBER.finditer(text) if _may_be_somebodys(match[0]))


def _may_be_somebodys(text: str) -> bool:
    """Whether it is valid, and not of those that begin with 9, which are never issued."""
    number = int(re.sub(r"\D", "", text))
    return nhs_number.is_valid(number) and number < 9_000_000_000


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
