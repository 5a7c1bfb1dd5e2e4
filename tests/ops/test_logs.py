"""Events: their form, their bounds, and that nobody who logs ever waits."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndoo.ops import logs
from ndoo.ops.logs import (
    EVENTS_PER_WINDOW_MAX,
    LINES_QUEUED_MAX,
    WINDOW_S,
    Events,
    json_line,
    text_line,
)
from support.people import number

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error"}


class Pipe:
    """Events at a moment that the test sets, and who reads them."""

    def __init__(self, line: logs.Line) -> None:
        self.now = 1_770_000_000.25
        self.suppressed = 0
        self.read_end, self.write_end = os.pipe()
        self.events = Events(line, self, descriptor=self.write_end, clock=lambda: self.now)

    def on_log_suppressed(self, count: int) -> None:
        self.suppressed += count

    def log(self, event: str, *, level: int = logging.INFO, **fields: object) -> None:
        self.handle(logging.LogRecord("ndoo", level, "", 0, event, (), None), fields=fields)

    def handle(self, record: logging.LogRecord, fields: dict[str, object] | None = None) -> None:
        record.fields = fields or {}
        self.events.handle(record)

    def lines(self) -> list[str]:
        """All that was written; ends the writing."""
        self.events.start()
        self.events.end()
        os.set_blocking(self.read_end, False)
        try:
            return os.read(self.read_end, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []

    def told(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(json_line)
    yield made
    os.close(made.read_end)
    os.close(made.write_end)


def test_an_event_is_one_line_of_json(pipe: Pipe) -> None:
    pipe.log("phase", level=logging.WARNING, seq=7, trouble="two\nlines, \u2028 é")
    (line,) = pipe.lines()
    assert line.isascii()
    assert json.loads(line) == {
        "event": "phase", "seq": 7, "trouble": "two\nlines, \u2028 é", "level": "warning",
        "at": "2026-02-02T02:40:00.250+00:00",
    }  # fmt: skip


def test_text_is_one_line_too() -> None:
    line = text_line(
        "warning", "phase", 1_770_000_000.25, {"seq": 7, "on": True, "why": 'a\n b="c"'}
    )
    assert line == '2026-02-02T02:40:00.250+00:00 warning phase seq=7 on=true why="a\\n b=\\"c\\""'


def test_of_one_event_so_many_are_told_in_a_minute_and_then_how_many_were_not(pipe: Pipe) -> None:
    for _ in range(EVENTS_PER_WINDOW_MAX + 5):
        pipe.log("call_refused")
    pipe.log("phase")
    assert pipe.suppressed == 5
    pipe.now += WINDOW_S
    pipe.events.look()
    pipe.events.look()
    pipe.log("call_refused")
    told = [(each["event"], each.get("of"), each.get("count")) for each in pipe.told()]
    assert told == [
        *[("call_refused", None, None)] * EVENTS_PER_WINDOW_MAX,
        ("phase", None, None),
        ("events_suppressed", "call_refused", 5),
        ("call_refused", None, None),
    ]


def test_a_clock_set_back_does_not_keep_events_back_for_ever(pipe: Pipe) -> None:
    for _ in range(EVENTS_PER_WINDOW_MAX + 1):
        pipe.log("phase")
    pipe.now -= 86_400
    pipe.log("phase")
    assert [each["event"] for each in pipe.told()][-2:] == ["events_suppressed", "phase"]


def test_while_nobody_reads_nobody_waits_and_what_is_lost_is_told(pipe: Pipe) -> None:
    for event in range(LINES_QUEUED_MAX + 3):
        pipe.log(f"event-{event}")
    assert pipe.suppressed == 3
    pipe.events._lines.get()
    pipe.now += WINDOW_S
    pipe.events.look()
    assert pipe.events._lines.qsize() == LINES_QUEUED_MAX
    last = [pipe.events._lines.get() for _ in range(LINES_QUEUED_MAX)][-1]
    assert (json.loads(last)["event"], json.loads(last)["count"]) == ("events_lost", 3)


def test_a_reader_who_is_gone_ends_nothing() -> None:
    pipe = Pipe(json_line)
    os.close(pipe.read_end)
    pipe.log("phase")
    pipe.events.start()
    pipe.events.end()
    os.close(pipe.write_end)
    assert pipe.suppressed == 1


def test_of_another_library_the_place_is_told_and_no_word(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match=number(1)) as caught:
        raise ValueError(number(1))
    info = (caught.type, caught.value, caught.tb)
    args = (number(2),)
    pipe.handle(
        logging.LogRecord(
            "redis.x", logging.ERROR, "/lib/x.py", 7, f"{number(3)} %s", args, info, "go"
        )
    )
    (told,) = pipe.told()
    assert told.pop("at")
    assert told.pop("raised").startswith("test_of_another_library")
    assert told == {
        "event": "library_message", "logger": "redis.x", "where": "x.go:7", "level": "error",
        "error": "ValueError",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", [number(1), f"dir:/data/{number(1)}/x", number(1)[:9], "999 000 0018"]
)
def test_what_looks_like_a_number_is_hidden(pipe: Pipe, text: str) -> None:
    pipe.log("listening", feed=text)
    (told,) = pipe.told()
    assert "[hidden]" in told["feed"]
    assert not re.search(r"\d{9}|\d{3} \d{3}", told["feed"])


def test_digests_are_told_whole(pipe: Pipe) -> None:
    head = "12:ab" + "0" * 62
    pipe.log("audit_head", head=head, seq=9_990_000_018)
    (told,) = pipe.told()
    assert (told["head"], told["seq"]) == (head, 9_990_000_018)


def events_in_source() -> set[str]:
    """The names that are given to log_event, to loggers, and by the log itself."""
    found = set()
    for path in (ROOT / "src/ndoo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _logs(node):
                words = {c.value for each in node.args[:2] for c in ast.walk(each) if _is_word(c)}
                found |= words - LEVELS
    return found | {"library_message"}


def _logs(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in {"log_event", "self._put"} or re.fullmatch(r"_LOGGER\.\w+", name) is not None


def _is_word(node: ast.AST) -> bool:
    word = getattr(node, "value", None)
    return isinstance(word, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", word) is not None


def test_every_event_is_in_the_table_and_every_one_there_is_in_the_source() -> None:
    table = (ROOT / "docs" / "logs.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    assert len(listed) > 15
    assert listed == events_in_source()
