"""A column reads the same whatever library it comes from, and nothing in it raises or clears."""

from __future__ import annotations

import itertools
import math
import string
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.client.columns import Column, select
from ndoo.nhs_number import NOT_A_NUMBER, NUMBER_MAX

NONE = NOT_A_NUMBER


class Derived(pd.Series):
    """What other libraries derive from pandas."""

    @property
    def _constructor(self) -> type[Derived]:
        return Derived


TEXTS = ["9990000018", None, "999 000 0026", "999-000-0034", "", "x", "9990000018 is too long"]
TEXT_NUMBERS = [9990000018, NONE, 9990000026, 9990000034, NONE, NONE, NONE]
INTEGERS = [9990000018, None, 9990000026]
INTEGER_NUMBERS = [9990000018, NONE, 9990000026]


def read(values: object) -> list[int]:
    """All numbers of a column; whatever is too large is NONE; read whole and in all small parts."""
    column = Column.of(values)
    whole = _shown(column, 0, len(column))
    for width in (1, 2, 3):
        parts = [_shown(column, at, at + width) for at in range(0, len(column), width)]
        assert list(itertools.chain(*parts)) == whole
    assert [_shown(column, at, len(column)) for at in range(3)] == [whole[at:] for at in range(3)]
    return whole


def _shown(column: Column, start: int, stop: int) -> list[int]:
    numbers = column.numbers(start, stop)
    assert numbers.dtype == np.uint64
    return [number if number <= NUMBER_MAX else NONE for number in numbers.tolist()]


TEXT_COLUMNS = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "numpy object": np.array(TEXTS, dtype=object),
    "numpy str": np.array([text or "" for text in TEXTS]),
    "numpy bytes": np.array([text or "" for text in TEXTS], dtype="S"),
    "numpy StringDType": np.array(
        [text or "" for text in TEXTS], dtype=np.dtypes.StringDType()
    ),
    "bytes": [None if text is None else text.encode() for text in TEXTS],
    "pandas": pd.Series(TEXTS),
    "pandas object": pd.Series(TEXTS, dtype=object, index=[5] * 7),
    "pandas string": pd.Series(TEXTS, dtype="string[python]"),
    "pandas Arrow string": pd.Series(TEXTS, dtype="string[pyarrow]"),
    "pandas Arrow": pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
    "pandas category": pd.Series(TEXTS, dtype="category"),
    "pandas index": pd.Index(TEXTS),
    "pandas array": pd.array(TEXTS, dtype="string"),
    "polars": pl.Series(TEXTS),
    "polars slice": pl.Series(["9", None, *TEXTS])[2:],
    "polars categorical": pl.Series(TEXTS, dtype=pl.Categorical),
    "polars chunks": pl.concat([pl.Series(TEXTS[:2]), pl.Series(TEXTS[2:])], rechunk=False),
    "arrow": pa.array(TEXTS),
    "arrow slice": pa.array(["9", None, *TEXTS])[2:],
    "arrow large": pa.array(TEXTS, pa.large_string()),
    "arrow view": pa.array(TEXTS, pa.string_view()),
    "arrow binary": pa.array(TEXTS).cast(pa.binary()),
    "arrow dictionary": pa.array(["9", *TEXTS]).dictionary_encode()[1:],
    "arrow chunks": pa.chunked_array([TEXTS[:2], [], TEXTS[2:]], pa.string()),
}  # fmt: skip
INTEGER_COLUMNS = {
    "list": INTEGERS,
    "numpy float": np.array([9990000018, np.nan, 9990000026]),
    "numpy masked": np.ma.masked_array([9990000018, 9990000034, 9990000026], [0, 1, 0]),
    "numpy signed": np.array([9990000018, -9990000034, 9990000026]),
    "numpy big-endian": np.array([9990000018, 10**10, 9990000026], dtype=">u8"),
    "mixed": [9990000018.0, float("nan"), Decimal(9990000026)],
    "too large for 64 bits": [9990000018, 2**70, 9990000026],
    "pandas float": pd.Series(INTEGERS),
    "pandas nullable": pd.Series(INTEGERS, dtype="Int64"),
    "pandas nullable unsigned": pd.Series(INTEGERS, dtype="UInt64"),
    "pandas nullable float": pd.Series(INTEGERS, dtype="Float64"),
    "pandas Arrow": pd.Series(INTEGERS, dtype="int64[pyarrow]"),
    "pandas category": pd.Series(INTEGERS, dtype="category"),
    "pandas sparse": pd.Series([9990000018, -1, 9990000026], dtype="Sparse[int]"),
    "polars": pl.Series(INTEGERS),
    "polars float": pl.Series(INTEGERS, dtype=pl.Float64),
    "polars decimal": pl.Series(INTEGERS, dtype=pl.Decimal(10, 0)),
    "arrow": pa.array(INTEGERS),
    "arrow slice": pa.array([None, 9, *INTEGERS])[2:],
    "arrow unsigned": pa.array(INTEGERS, pa.uint64()),
    "arrow decimal": pa.array([None, *INTEGERS], pa.decimal128(12, 0))[1:],
    "arrow dictionary": pa.array(INTEGERS).dictionary_encode(),
}  # fmt: skip


@pytest.mark.parametrize("column", TEXT_COLUMNS.values(), ids=TEXT_COLUMNS.keys())
def test_texts(column: object) -> None:
    assert read(column) == TEXT_NUMBERS


@pytest.mark.parametrize("column", INTEGER_COLUMNS.values(), ids=INTEGER_COLUMNS.keys())
def test_integers(column: object) -> None:
    assert read(column) == INTEGER_NUMBERS


@pytest.mark.parametrize(
    "column",
    [
        np.array([True]), [True], [1, np.True_], pd.Series([True]), pl.Series([True]),
        pa.array([True]), pd.Series([True, None], dtype="boolean"),
        np.array([1.0], np.float32), pd.Series([1.0], dtype="Float32"),
        pd.Series([1.0], dtype="Sparse[float32]"), np.array([1], np.int32), np.array([1], "u4"),
        pd.Series([1], dtype="Int32"), pd.Series([1], dtype="int32[pyarrow]"),
        pd.Series([1], dtype="int32").astype("category"), pl.Series([1], dtype=pl.UInt32),
        pa.array([1], pa.int32()), pa.array([1], pa.int16()).dictionary_encode(),
        pl.Series([1.0], dtype=pl.Float32), pa.array([1.0], pa.float32()),
        np.array(["2020"], "M8[s]"), np.zeros((2, 2), int), np.array(5),
        "9990000018", b"9990000018", 9990000018, None, {9990000018}, iter([9990000018]),
        pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}), pa.table({"a": [1]}),
        pl.Series([[1]]), pa.array([Decimal("1.5")]),
    ],
    ids=lambda column: f"{type(column).__module__}.{type(column).__name__}",
)  # fmt: skip
def test_what_cannot_hold_numbers_is_refused_without_telling_a_value(column: object) -> None:
    with pytest.raises(TypeError) as caught:
        read(column)
    assert "999" not in str(caught.value)


def test_an_index_outside_its_dictionary_is_nobody() -> None:
    """A broken producer's; it must not become the number of somebody else."""
    people = pa.array(["9990000018", "9990000026"])
    for indices in ([0, 2, -1, 1], [1, 7, None, 2**31 - 1]):
        column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), people, safe=False)
        whole = [{0: 9990000018, 1: 9990000026}.get(index, NONE) for index in indices]
        assert read(column) == whole


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.integers(9990000000, 9999999999),
    st.floats(),
    st.integers(9990000000, 9999999999).map(float),
    st.text(max_size=12),
    st.from_regex(r"999[0-9]{7}", fullmatch=True),
    st.from_regex(r"999 [0-9]{3} [0-9]{4}", fullmatch=True),
    st.binary(max_size=12),
    st.decimals(),
    st.dates(),
)


def _is_finite(value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def expected(value: object) -> int:
    """What a value stands for, told in the plainest way."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        groups = [value[:3], value[4:7], value[8:]]
        grouped = len(value) == 12 and value[3] == value[7] and value[3] in " -"
        digits = "".join(groups) if grouped else value
        return int(digits) if len(digits) == 10 and set(digits) <= set(string.digits) else NONE
    if not _is_finite(value):
        return NONE
    return int(value) if value == int(value) and 0 <= value <= NUMBER_MAX else NONE


@settings(deadline=None)
@given(st.lists(ANYTHING, max_size=8))
def test_any_list_of_anything_reads_as_its_values_one_by_one(values: list[object]) -> None:
    assert read(values) == [expected(value) for value in values]
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    assert read(objects) == read(values)
    assert read(pd.Series(objects)) == read(values)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=13), st.from_regex(r"999[0-9]{7}"))))
def test_texts_read_the_same_in_every_library(texts: list[str | None]) -> None:
    numbers = [expected(text) for text in texts]
    assert read(texts) == numbers
    assert read(pl.Series(texts, dtype=pl.String)) == numbers
    assert read(pa.array(texts, pa.string())) == numbers
    assert read(pd.Series(texts, dtype="string")) == numbers


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats())))
def test_floats_are_whole_or_nobody(floats: list[float | None]) -> None:
    numbers = [expected(value) for value in floats]
    assert read(pl.Series(floats, dtype=pl.Float64)) == numbers
    assert read(pa.array(floats, pa.float64())) == numbers
    assert read(np.array([np.nan if value is None else value for value in floats])) == numbers


def test_memory_of_an_arrow_column_outlives_its_owner() -> None:
    column = Column.of(pl.Series([9990000018] * 100_000))
    pl.Series([1] * 100_000)
    assert set(column.numbers(0, 100_000).tolist()) == {9990000018}


@pytest.mark.parametrize(
    "column",
    [
        INTEGERS, tuple(INTEGERS), np.array([1, 2, 3]), pd.Series(INTEGERS, index=[7, 7, 7]),
        pl.Series(INTEGERS), pa.array(INTEGERS), pa.chunked_array([INTEGERS]),
        pd.array([1, 2, 3], dtype="Int64"), Derived(INTEGERS, index=[0, 1, 1]),
        Derived(TEXTS[:3], index=[True, False, True]), pa.array(TEXTS[:3], pa.string_view()),
        pa.chunked_array([TEXTS[:1], [], TEXTS[1:3]], pa.string_view()),
        pa.array([b"9990000018", None, b"\xff"], pa.binary_view()),
    ],
    ids=lambda column: f"{type(column).__module__}.{type(column).__name__}",
)  # fmt: skip
def test_a_selection_is_of_the_same_type(column: object) -> None:
    chosen = select(column, np.array([True, False, True]))
    assert type(chosen) is type(column)
    assert getattr(chosen, "type", None) == getattr(column, "type", None)
    assert read(chosen) == [read(column)[0], read(column)[2]]
