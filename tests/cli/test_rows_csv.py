"""CSV: the right field of each row, true line numbers, rows as they stood."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndoo.cli import rows_csv
from ndoo.cli.rows_csv import CsvRows
from ndoo.errors import InputError
from ndoo.nhs_number import NOT_A_NUMBER

A, B, C = 9990000018, 9990000026, 9990000034


def read(text: str | bytes, column: str = "nhs", rows_max: int = 1000):
    content = text if isinstance(text, bytes) else text.encode()
    rows = CsvRows(io.BytesIO(content), column)
    return rows, list(rows.blocks(rows_max))


def numbers(blocks) -> list[int]:
    return [number for block in blocks for number in block.numbers.tolist()]


def test_rows_keep_their_text_and_lines():
    text = f'id,nhs,note\n1,{A},"a\nb"\n2,"{B}","say ""x"", y"\n3, 999 000 0034 ,é\n'
    rows, (block,) = read(text)
    assert rows.header == b"id,nhs,note\n"
    assert numbers([block]) == [A, B, C]
    assert block.lines.tolist() == [2, 4, 5]
    chosen = np.array([True, False, True])
    assert block.select(chosen).decode() == f'1,{A},"a\nb"\n3, 999 000 0034 ,é\n'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_stay_as_they_were(end):
    text = f"nhs,x{end}{A},1{end}{B},2{end}"
    rows, blocks = read(text, rows_max=1)
    every = b"".join(block.select(np.ones(1, bool)) for block in blocks)
    assert (rows.header + every).decode() == text


def test_a_byte_order_mark_is_no_part_of_the_name():
    rows, blocks = read(b"\xef\xbb\xbfnhs\n" + str(A).encode())
    assert numbers(blocks) == [A]
    assert rows.header.startswith(b"\xef\xbb\xbf")


def test_other_encodings_that_keep_ascii_pass_through():
    text = f"nhs,name\n{A},Zoë\n".encode("latin-1")
    rows, (block,) = read(text)
    assert rows.header + block.select(np.ones(1, bool)) == text


def test_bad_rows_have_line_and_reason_and_do_not_sink_the_others():
    text = f"id,nhs\n1,{A}\n2\n3,{B},x\n\n4,\n5,{C}\n\n"
    _, (block,) = read(text)
    assert numbers([block]) == [A, *[NOT_A_NUMBER] * 4, C]
    assert [(int(block.lines[row]), block.fault(row)) for row in range(1, 5)] == [
        (3, "it has 1 columns where the header has 2"),
        (4, "it has 3 columns where the header has 2"),
        (5, "the row is empty"),
        (6, "there is no number in it"),
    ]


@pytest.mark.parametrize("text", ["nhs\n", "nhs", "nhs\n\n"])
def test_a_header_alone_has_no_rows(text):
    assert read(text)[1] == []


def test_blocks_are_bounded():
    text = "nhs\n" + f"{A}\n" * 10
    assert [len(block.lines) for block in read(text, rows_max=4)[1]] == [4, 4, 2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,nhs_number\n1,2\n", "did you mean: nhs_number?"),
        ("A. PERSON,LS1\n1,2\n", "None of the file's 2 columns has that name; the first line must"),
        (f"{A},nhs\n{B},x\n", "The first line holds an NHS number"),
        ("999 000 0026,nhs\n1,x\n", "The first line holds an NHS number"),
        ("id;nhs\n1;2\n", "id;nhs"),
        ("\n1\n", "None of the file's 0 columns"),
        ("nhs,nhs\n1,2\n", "More than one column"),
        (f'nhs\n{A}\n"{B}\n{C}\n', "line 3"),
        (f'nhs\n"{A}"x\n', "line 2"),
        (f"nhs\n{A}\n{B}\r{C}\n", "line 3"),
        ("nhs\n" + "x" * 1_100_000, "longer than a megabyte"),
        ('nhs\n"' + ("x" * 1000 + "\n") * 200 + '"\n', "line 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(InputError) as caught:
        read(text)
    assert sentence in str(caught.value)
    assert "999000" not in str(caught.value)
    assert "PERSON" not in str(caught.value)


PIECES = [
    str(A), str(B), f'"{C}"', " ", "\t", ",", ",", "\n", "\n", "\r\n", "\r", '"', '""', '"a,b"',
    "é", '"a\nb"', "x" * 70,
]  # fmt: skip


def told(blocks) -> list[tuple[object, ...]]:
    """Row by row: its bytes, line, number, and fault apart from that."""
    return [
        (
            block.select(np.eye(len(block.lines), dtype=bool)[row]),
            line,
            number,
            block.faults.get(row),
        )
        for block in blocks
        for row, (line, number) in enumerate(zip(block.lines.tolist(), block.numbers.tolist()))
    ]


def outcome(read_all) -> list[tuple[object, ...]] | str:
    try:
        return told(read_all())
    except InputError as error:
        return str(error)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.sampled_from(["nhs", "id,nhs", "nhs,x", "id,nhs,x"]),
    st.sampled_from([1, 7, 64, 10_000]),
    st.integers(1, 5),
)
@example("1,2\n\n\n", "id,nhs", 1, 5)
@example('"",""""\r\n1,2\r\n', "id,nhs", 7, 5)
def test_rows_told_apart_by_array_are_those_of_the_csv_module(text, header, read_bytes, rows_max):
    content = f"{header}\n{text}".encode()

    def by_array():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows_csv, "_BYTES_PER_BLOCK", read_bytes)
            return list(CsvRows(io.BytesIO(content), "nhs").blocks(rows_max))

    def one_by_one():
        return list(CsvRows(io.BytesIO(content), "nhs")._odd_blocks(b"", rows_max))

    assert outcome(by_array) == outcome(one_by_one)


def test_plain_quoting_never_takes_the_slow_way(monkeypatch):
    monkeypatch.setattr(CsvRows, "_odd_blocks", None)
    text = f'id,nhs\r\n"1, ""x""","{A}"\r\n"2\n",{B}\r\n\r\n3\r\n'
    assert numbers(read(text)[1]) == [A, B, NOT_A_NUMBER, NOT_A_NUMBER]
    assert numbers(read(text.removesuffix("\r\n") + ",")[1])[-1] == NOT_A_NUMBER
