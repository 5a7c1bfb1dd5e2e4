"""Write docs/demo.svg, a picture of what `make demo` prints: `python scripts/picture.py`.

With a file (`-` for standard input) it takes that for what was printed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, run
from xml.sax.saxutils import escape, unescape

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "demo.svg"

_PROMPT = "$ make demo"
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_SIZE, _LINE, _MARGIN, _TOP = 14, 21, 20, 44  # pixels
_CHARACTER = 0.62  # of the size, in the widest of these fonts
_NAME = 14  # characters of a fact's name, with the space around it
# On a background of its own, so that it looks alike on light and dark pages.
_COLOURS = {"prompt": "#7ee787", "said": "#8b949e", "name": "#79c0ff", "fact": "#e6edf3"}


def main(arguments: Sequence[str]) -> None:
    PICTURE.write_text(picture(_printed(arguments)), "utf-8")


def _printed(arguments: Sequence[str]) -> str:
    if not arguments:
        demo = [sys.executable, "-m", "ndoo", "demo"]
        return run(demo, stdout=PIPE, text=True, check=True).stdout
    return sys.stdin.read() if arguments == ["-"] else Path(arguments[0]).read_text("utf-8")


def picture(printed: str) -> str:
    """An SVG of a terminal in which the command and what it *printed* stand."""
    lines = [_PROMPT, *printed.rstrip("\n").split("\n")]
    width = round(max(map(len, lines)) * _SIZE * _CHARACTER) + 2 * _MARGIN
    height = _TOP + len(lines) * _LINE + _MARGIN
    dots = [
        f'<circle cx="{_MARGIN + 4 + 18 * place}" cy="20" r="5" fill="{colour}"/>'
        for place, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    texts = [
        f'<text x="{_MARGIN}" y="{_TOP + _LINE * place + _SIZE}" xml:space="preserve">'
        f"{_spans(line)}</text>"
        for place, line in enumerate(lines)
    ]
    styles = [f".{name}{{fill:{colour}}}" for name, colour in _COLOURS.items()]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        f'  height="{height}" role="img" font-size="{_SIZE}" font-family="{_FONT}">',
        "<title>What make demo prints</title>",
        f"<style>{''.join(styles)}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
        *dots,
        *texts,
        "</svg>",
    ]
    return "".join(f"{part}\n" for part in parts)


def _spans(line: str) -> str:
    """A fact has two spaces before it, then its name."""
    if line == _PROMPT:
        return _span("prompt", line)
    if not line.startswith("  "):
        return _span("said", line)
    return _span("name", line[:_NAME]) + _span("fact", line[_NAME:])


def _span(kind: str, text: str) -> str:
    return f'<tspan class="{kind}">{escape(text)}</tspan>'


def printed_in(svg: str) -> str:
    """What the demo had printed when the picture *svg* was made."""
    rows = [row for row in svg.split("\n") if row.startswith("<text ")]
    spans = [[part.partition("<")[0] for part in row.split('">')[2:]] for row in rows]
    return "".join(f"{unescape(''.join(parts))}\n" for parts in spans[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
