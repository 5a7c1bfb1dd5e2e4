"""Who follows the pages for callers, word by word, gets what they say."""

from __future__ import annotations

import re
from pathlib import Path

from support.pages import ROOT, Reader, steps
from support.people import KEYS
from support.places import Place
from support.service import Service

OPTED_OUT = 9_990_000_026


def test_the_page_for_clients(directory_place: Place, tmp_path: Path) -> None:
    directory_place.loaded(KEYS.index(OPTED_OUT // 10))
    service = Service(directory_place.url)
    try:
        reader = Reader(tmp_path, service.address)
        for step in steps("docs/clients.md"):
            reader.follow(step)
    finally:
        service.kill()


def test_the_tutorial(tmp_path: Path) -> None:
    *before, last = steps("docs/tutorial.md")
    reader, service = Reader(tmp_path, ""), None
    try:
        for step in before:
            if step.code == "ndoo serve --feed dir:feed\n":
                service = Service(f"dir:{tmp_path}/feed")
                reader.address = service.address
            else:
                reader.follow(step)
    finally:
        if service:
            service.kill()
    reader.type(last.code, codes=(1,))
    assert not list(tmp_path.glob("*never*"))


def test_the_reasons_are_all_told() -> None:
    told = _table("README.md", "| reason |")
    assert "SUSPENDED" in told
    assert told <= _table("docs/clients.md", "| status |")


def _table(page: str, begins: str) -> set[str]:
    table = (ROOT / page).read_text("utf-8").partition(begins)[2].partition("\n\n")[0]
    return set(re.findall(r"`([A-Z_]{3,})`", table))
