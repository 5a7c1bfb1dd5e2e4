"""The pages of the project, and the commands that a reader finds in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = {"sh", "bash", "console"}
PROGRAMS = (
    "make", "ndoo", "pip", "pytest", "python", "python3", "uv", "buf", "git", "docker", "podman",
    "helm", "kubectl", "openssl", "redis-cli", "curl", "promtool", "npm", "dotnet", "protoc", "go",
    "sha256sum", "cd", "mkdir", r"\.", "export",
)  # fmt: skip

_BEGINS = rf"(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/|scripts/)?(?:{'|'.join(PROGRAMS)})(?= )"
_COMMAND = re.compile(rf"(?:\$ )?({_BEGINS}.*)")
_IN_A_SENTENCE = re.compile(r"(?:\w+=\S+ )*(?:make|ndoo|pip|\.venv/bin/\w+) .*")
"""Other programs may be just talked of."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^ {4}\S.*\n(?:^ {6,}\S.*\n)*)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_COMMENT = re.compile(r"(?:^|\s+)#\s.*")
_ASSIGNS = re.compile(r"[A-Z_]+=.*")
_HERE_DOCUMENT = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True)
class Command:
    """What a page tells its reader to type: one line, without its comment."""

    page: str
    line: int
    text: str
    in_block: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """Of its first program, up to where another takes over; no variables before it."""
        return list(itertools.dropwhile(_ASSIGNS.fullmatch, self._words()))

    @property
    def variables(self) -> dict[str, str]:
        """What it sets for itself alone."""
        set_here = itertools.takewhile(_ASSIGNS.fullmatch, self._words())
        return dict(word.split("=", 1) for word in set_here)

    @property
    def reads(self) -> str | None:
        """The file that it is given as its input."""
        found = re.search(r" < (\S+)", self.text)
        return found[1] if found else None

    def _words(self) -> Iterator[str]:
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        return itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), lexer)


@cache
def pages() -> dict[str, str]:
    """The text of each page, by its path from the root. What is past is in none of them."""
    found = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    found += [*ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/**/*.md")]
    found.append(ROOT / "benchmarks" / "README.md")
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted(found)}


@cache
def commands() -> tuple[Command, ...]:
    """All of them: in blocks of a shell, in other blocks, and in the middle of a sentence."""
    return tuple(command for page, text in pages().items() for command in _commands(page, text))


def prose(text: str) -> str:
    """*text* with its fenced blocks emptied, so that lines keep their numbers."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def inline(text: str) -> Iterator[tuple[int, str]]:
    """Line and content of what stands in backticks in sentences and tables."""
    for match in _INLINE.finditer(prose(text)):
        if "\n\n" not in match[1]:
            yield _line(text, match.start()), " ".join(match[1].split())


def _commands(page: str, text: str) -> Iterator[Command]:
    for match in _FENCE.finditer(text):
        in_shell = match[2] in SHELLS
        if in_shell or not match[2]:
            first = _line(text, match.start(3))
            yield from _of_block(page, first, match[3], every_line=in_shell)
    for match in _INDENTED.finditer(prose(text)):
        yield from _of_block(page, _line(text, match.start()), match[0], every_line=False)
    for line, content in inline(text):
        if _IN_A_SENTENCE.fullmatch(content):
            yield Command(page, line, content, in_block=False)


def _of_block(page: str, first: int, block: str, *, every_line: bool) -> Iterator[Command]:
    """Lines that end with a backslash go on; what a here-document holds is no command."""
    lines = iter(enumerate(block.splitlines(), first))
    for line, content in lines:
        text = _COMMENT.sub("", content).strip()
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {_COMMENT.sub('', next(lines)[1]).strip()}"
        if here := _HERE_DOCUMENT.search(text):
            while next(lines)[1].strip() != here[1]:
                pass
        begun = _COMMAND.fullmatch(text)
        if begun or (every_line and text):
            yield Command(page, line, begun[1] if begun else text, in_block=True)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
