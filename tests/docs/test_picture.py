"""The picture in the README shows what the demo prints, and was made, not drawn."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from types import SimpleNamespace

from support.commands import ROOT

making = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "picture.py")))
SVG = making.PICTURE.read_text("utf-8")


def test_it_is_what_the_script_makes_of_what_was_printed() -> None:
    assert making.picture(making.printed_in(SVG)) == SVG, "run scripts/picture.py"
    told = "Asking <one & two> ...\n  wrong       0\n  opt-out     shows\n"
    assert making.printed_in(making.picture(told)) == told


def test_it_shows_a_demo_without_a_wrong_answer() -> None:
    lines = making.printed_in(SVG).splitlines()
    facts = {line[:14].strip(): line[14:] for line in lines if line.startswith("  ")}
    assert facts["wrong"] == "0"
    assert {"register", "ready", "speed", "memory", "opt-out", "opt-in"} <= facts.keys()


def test_it_fits_every_page() -> None:
    assert len(SVG) < 20_000
    assert ET.fromstring(SVG).tag == "{http://www.w3.org/2000/svg}svg"
    assert "http" not in SVG.replace("http://www.w3.org/2000/svg", "")
