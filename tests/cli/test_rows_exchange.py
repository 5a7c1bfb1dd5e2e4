"""The exchange format, held against a reader that takes one row at a time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.people import valid_numbers
from ndoo import nhs_number
from ndoo.cli import rows_exchange
from ndoo.cli.rows_exchange import ExchangeRows
from ndoo.errors import InputError
from ndoo.nhs_number import NOT_A_NUMBER

NUMBERS = [f"{number:010d}" for number in valid_numbers(40).tolist()]
FULL_WIDTH = "".join(chr(0xFF10 + int(digit)) for digit in NUMBERS[1])
FORMS = [
    "{0}", "{0},", '"{0}"', '"{0}",', " {0} ", "\t{0}\t,", " {0} , ", '" {0} "',
    "{0},,", "{0},x", "{0}x", "x{0}", "{0}{0}", "", ",", '""', " ", "{0};", "{0} {0}",
]  # fmt: skip


def read(content: bytes, rows_max: int = 1000):
    return list(ExchangeRows(io.BytesIO(content)).blocks(rows_max))


def reference(content: bytes) -> tuple[list[int], list[bytes]]:
    """Numbers and rows, read the slow way."""
    text = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").removesuffix(b"\n")
    rows = text.removesuffix(b"\n").split(b"\n") if text else []
    return [_number(row) for row in rows], [row + b"\n" for row in rows]


def _number(row: bytes) -> int:
    field = row.decode("latin-1").strip(" \t").removesuffix(",").strip(" \t")
    if len(field) > 1 and field[0] == field[-1] == '"':
        field = field[1:-1].strip(" \t")
    number = nhs_number.parse(field)
    return NOT_A_NUMBER if number is None else number


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end", "two ends"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("read_bytes", [4, 5, 13, 64, 10_000])
def test_every_form_at_every_seam(monkeypatch, end, last, mark, read_bytes):
    monkeypatch.setattr(rows_exchange, "_READ_BYTES", read_bytes)
    rows = [form.format(number) for number, form in zip(NUMBERS, FORMS)] + [NUMBERS[-1]]
    content = mark + end.join(rows).encode() + end.encode() * ["", "end", "two ends"].index(last)
    blocks = read(content, rows_max=3)
    numbers, texts = reference(content)
    assert len(numbers) == len(rows)
    assert [n for block in blocks for n in block.numbers.tolist()] == numbers
    assert [n for block in blocks for n in block.lines.tolist()] == [*range(1, len(rows) + 1)]
    assert b"".join(block.select(np.ones(len(block.lines), bool)) for block in blocks) == b"".join(
        texts
    )
    assert max(len(block.lines) for block in blocks) <= 3


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([*NUMBERS[:3], "\n", "\r\n", "\r", ",", " ", '"', "x", "é", "٣"])),
    st.integers(4, 40),
)
def test_any_text_reads_as_the_reference_does(pieces, read_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_exchange, "_READ_BYTES", read_bytes)
        content = "".join(pieces).encode()
        blocks = read(content, rows_max=2)
    numbers, texts = reference(content)
    assert [n for block in blocks for n in block.numbers.tolist()] == numbers
    chosen = np.arange(len(numbers)) % 2 == 0
    selected, at = [], 0
    for block in blocks:
        selected.append(block.select(chosen[at : at + len(block.lines)]))
        at += len(block.lines)
    assert b"".join(selected) == b"".join(texts[::2])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "no number"),
        ("9990000027", "check digit"),
        ("9999999999", "placeholder"),
        ("999000002", "not ten digits"),
        ("99900000260", "not ten digits"),
        ("999000 0026", "not ten digits"),
        (FULL_WIDTH, "not ten digits"),
        ("9990000026,9990000026", "more than one column"),
        ("9990000026;", "more than one column"),
        ("9990000026\t1", "more than one column"),
    ],
)
def test_a_bad_row_has_a_reason_without_content(row, reason):
    (block,) = read(f"{NUMBERS[0]}\n{row}\n{NUMBERS[1]}\n".encode())
    assert block.fault(1).count(reason) == 1
    assert not any(character.isdigit() and character not in "34" for character in block.fault(1))


def test_a_number_that_only_the_service_refuses_has_a_reason_too():
    (block,) = read(NUMBERS[0].encode())
    assert "service" in block.fault(0)


def test_a_line_without_end_is_refused_in_bounded_memory():
    endless = io.BytesIO(b"9" * 10_000_000)
    with pytest.raises(InputError, match="longer than a megabyte"):
        list(ExchangeRows(endless).blocks())
    assert endless.tell() < 5_000_000
