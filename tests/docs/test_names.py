"""What the pages name is there: files, settings, links, and every decision in the index."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import pytest

from ndoo.config import Settings
from support.commands import ROOT, inline, pages, prose

SETTINGS = {field.metadata["env"] for field in dataclasses.fields(Settings)}
OF_KUBERNETES = {"NDOO_PORT", "NDOO_SERVICE_HOST"}  # what a Service of our name would set
MADE = ("dist/",)  # there once it is made
CALLERS = "docs/languages/"  # tell of folders of their readers
_FILE = re.compile(r"[\w.-]+(?:/[\w.*-]+)*/?")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def tops() -> set[str]:
    """What stands in the root, and in src/ndoo."""
    folders = (ROOT, ROOT / "src" / "ndoo")
    return {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}


@pytest.mark.parametrize("page", [page for page in pages() if not page.startswith(CALLERS)])
def test_every_file_is_there(page: str) -> None:
    """Of those in backticks that begin in a folder of the root, or of src/ndoo."""
    for line, content in inline(pages()[page]):
        path, _, test = content.partition("::")
        if _FILE.fullmatch(path) and "/" in path and path.partition("/")[0] in tops():
            assert path.startswith(MADE) or _found(path), f"{page}:{line}: {path}"
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{page}:{line}: {test}"


def _found(path: str) -> bool:
    """From the root, or as the sources are named in short."""
    source = ROOT / "src" / "ndoo"
    return any((*ROOT.glob(path), *source.glob(path), *source.glob(f"{path}.py")))


def test_every_module_in_the_drawings_is_there() -> None:
    rooms = "|".join(path.name for path in (ROOT / "src" / "ndoo").iterdir() if path.is_dir())
    for page in ("README.md", "docs/architecture.md"):
        named = re.findall(rf"(?<![\w/])(?:{rooms})/\w+", pages()[page])
        assert len(named) > 8
        assert [path for path in named if not _found(path)] == []


@pytest.mark.parametrize("page", pages())
def test_every_setting_is_there(page: str) -> None:
    for name in re.findall(r"\bNDOO_[A-Z_]*[A-Z]\b", pages()[page]):
        known = any(f"{each}_".startswith(f"{name}_") for each in SETTINGS | OF_KUBERNETES)
        assert known, f"{page}: {name}"


@pytest.mark.parametrize("page", pages())
def test_every_link_within_the_project_leads_somewhere(page: str) -> None:
    for link in _LINK.findall(prose(pages()[page])):
        if re.match(r"https?:|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        if anchor:
            headings = _HEADING.findall(prose(path.read_text("utf-8")))
            assert anchor in {_anchor(heading) for heading in headings}, f"{page}: {link}"


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_decision_is_in_the_index_under_its_title() -> None:
    rows = re.findall(r"^\| \[(.+)\]\((.+)\) \|", pages()["docs/adr/README.md"], re.MULTILINE)
    index = {path: title for title, path in rows}
    titles = {
        path.name: path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        for path in (ROOT / "docs" / "adr").glob("0*.md")
    }
    assert index == titles
    assert list(index) == sorted(titles)
