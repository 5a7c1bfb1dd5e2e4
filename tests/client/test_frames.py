"""Frames of every library, held against one row at a time in plain Python.

Nobody who opted out stays in a frame: whatever the type of the column, whatever becomes of rows
without a valid number, whatever happens to the service on the way.
"""

from __future__ import annotations

import decimal
import math
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ndoo.client.frames.polars  # noqa: F401  (gives expressions the name "ndoo")
from client.fake_service import AS_OF_S, TOKEN, FakeService, serving
from client.flaws import FLAWS
from client.people import valid_numbers
from ndoo import nhs_number
from ndoo.client import CallFailed, Client, ClientError, IncompleteAnswer
from ndoo.client.frames import InvalidNumbers, clear, in_order
from ndoo.client.frames import arrow as frames_of_arrow

PEOPLE = valid_numbers(40).tolist()
OPTED_OUT = set(PEOPLE[::2])
NOBODY = [9990000027, 0, 1111111111, 12, 10**10, 2**62]


@pytest.fixture(scope="module")
def shared():
    """A service for all examples of a test."""
    with serving(FakeService(opted_out=OPTED_OUT)) as target, Client(target) as client:
        yield client


@pytest.fixture
def asked():
    service = FakeService(opted_out=set(OPTED_OUT))
    with serving(service) as target, Client(target, timeout_s=3) as client:
        yield service, client


def number_of(value: object) -> int | None:
    """The valid number that *value* is, or None: the slow way."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = nhs_number.parse(value)
    if value is None or not math.isfinite(value) or value != int(value):
        return None
    return int(value) if nhs_number.is_valid(int(value)) else None


def is_cleared(value: object) -> bool:
    number = number_of(value)
    return number is not None and number not in OPTED_OUT


def names_somebody_who_opted_out(value: object) -> bool:
    digits = "".join(str(unicodedata.digit(char)) for char in str(value) if char.isdigit())
    return any(str(number) in digits for number in OPTED_OUT)


def spelled(number: int) -> list[str]:
    """A number as people and programs write it, rightly and wrongly."""
    text = f"{number:010d}"
    grouped = f"{text[:3]} {text[3:6]} {text[6:]}"
    full_width = "".join(chr(0xFF10 + int(digit)) for digit in text)
    subscript = "".join(chr(0x2080 + int(digit)) for digit in text)
    return [
        text, grouped, grouped.replace(" ", "-"), f" {text}", f"{text}.0", f"NHS {text}",
        grouped.replace(" ", "."), full_width, subscript, f"{text}\n",
        grouped.replace(" ", chr(0xA0)),
    ]  # fmt: skip


INTEGERS = st.sampled_from([*PEOPLE, *NOBODY])
TEXTS = st.one_of(
    st.sampled_from(PEOPLE).flatmap(lambda number: st.sampled_from(spelled(number))),
    st.sampled_from(["", " ", "unknown", "9990000027", "0000000000"]),
)
FLOATS = st.one_of(INTEGERS.map(float), st.sampled_from([PEOPLE[0] + 0.5, -1.0, 1e300, math.inf]))


def maybe(values):
    return st.one_of(st.none(), values)


def pandas_of(dtype):
    return lambda values: pd.DataFrame({"nhs_number": pd.Series(values, dtype=dtype)})


def polars_of(dtype):
    return lambda values: pl.DataFrame({"nhs_number": pl.Series(values, dtype=dtype)})


def arrow_of(dtype):
    return lambda values: pa.table({"nhs_number": pa.chunked_array(
        [pa.array(values[:3], dtype), pa.array(values[3:], dtype)], dtype
    )})  # fmt: skip


def decimals(values):
    return [None if value is None else decimal.Decimal(value) for value in values]


BUILDERS = {
    "pandas int64": (INTEGERS, pandas_of("int64")),
    "pandas uint64": (INTEGERS, pandas_of("uint64")),
    "pandas Int64": (maybe(INTEGERS), pandas_of("Int64")),
    "pandas float64": (maybe(FLOATS), pandas_of("float64")),
    "pandas Float64": (maybe(FLOATS), pandas_of("Float64")),
    "pandas str": (maybe(TEXTS), pandas_of("str")),
    "pandas string": (maybe(TEXTS), pandas_of("string[python]")),
    "pandas object": (maybe(st.one_of(INTEGERS, TEXTS, FLOATS)), pandas_of("object")),
    "pandas category": (maybe(TEXTS), pandas_of("category")),
    "pandas int64[pyarrow]": (maybe(INTEGERS), pandas_of("int64[pyarrow]")),
    "pandas string[pyarrow]": (maybe(TEXTS), pandas_of("string[pyarrow]")),
    "polars Int64": (maybe(INTEGERS), polars_of(pl.Int64)),
    "polars UInt64": (maybe(INTEGERS), polars_of(pl.UInt64)),
    "polars Float64": (maybe(FLOATS), polars_of(pl.Float64)),
    "polars String": (maybe(TEXTS), polars_of(pl.String)),
    "polars Categorical": (maybe(TEXTS), polars_of(pl.Categorical)),
    "arrow int64": (maybe(INTEGERS), arrow_of(pa.int64())),
    "arrow double": (maybe(FLOATS), arrow_of(pa.float64())),
    "arrow string": (maybe(TEXTS), arrow_of(pa.string())),
    "arrow large_string": (maybe(TEXTS), arrow_of(pa.large_string())),
    "arrow string_view": (maybe(TEXTS), arrow_of(pa.string_view())),
    "arrow binary": (maybe(TEXTS.map(str.encode)), arrow_of(pa.binary())),
    "arrow dictionary": (maybe(TEXTS), arrow_of(pa.dictionary(pa.int8(), pa.string()))),
    "arrow decimal": (
        maybe(INTEGERS), lambda values: arrow_of(pa.decimal128(20))(decimals(values)),
    ),
}  # fmt: skip


def with_places(frame):
    """*frame* with a column that tells its rows apart."""
    count = len(frame)
    if isinstance(frame, pd.DataFrame):
        frame.index = pd.Index([f"row {place}" for place in range(count)])
        return frame.assign(place=range(count))
    if isinstance(frame, pl.DataFrame):
        return frame.with_columns(place=pl.Series(range(count), dtype=pl.Int64))
    return frame.append_column("place", pa.array(range(count), pa.int64()))


def places_in(frame) -> list[int]:
    if isinstance(frame, pa.RecordBatchReader):
        frame = frame.read_all()
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect(engine="streaming")
    column = frame["place"]
    return column.to_pylist() if isinstance(frame, pa.Table) else column.to_list()


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_frame_loses_those_rows_and_no_others(shared, kind, data):
    elements, build = BUILDERS[kind]
    values = data.draw(st.lists(elements, max_size=12))
    frame = with_places(build(values))
    given_types = frame.schema if hasattr(frame, "schema") else frame.dtypes.to_dict()

    cleared, report = clear(frame, shared)
    expected = [place for place, value in enumerate(values) if is_cleared(value)]
    assert places_in(cleared) == expected
    types = cleared.schema if hasattr(frame, "schema") else cleared.dtypes.to_dict()
    assert (type(cleared), types) == (type(frame), given_types)
    counts = report.received, report.cleared, report.opted_out, report.invalid
    invalid = sum(number_of(value) is None for value in values)
    assert counts == (len(values), len(expected), len(values) - len(expected) - invalid, invalid)
    assert (report.revision.token, report.revision.as_of.timestamp()) == (TOKEN, AS_OF_S)
    if isinstance(frame, pd.DataFrame):
        assert cleared.index.to_list() == [f"row {place}" for place in expected]

    kept = set(places_in(clear(frame, shared, on_invalid="keep").frame))
    assert kept >= set(expected)
    for place, value in enumerate(values):
        if names_somebody_who_opted_out(value):
            assert place not in kept
        if value is None or value in {"", " ", "unknown"}:
            assert place in kept

    if invalid:
        with pytest.raises(InvalidNumbers, match=f"{invalid} of {len(values)} rows"):
            clear(frame, shared, on_invalid="raise")


WAYS = {
    "lazy": lambda table: pl.from_arrow(table).lazy(),
    "reader": lambda table: table.to_reader(max_chunksize=3),
    "dataset": ds.dataset,
    "record batch": lambda table: table.combine_chunks().to_batches()[0],
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=st.lists(maybe(TEXTS), min_size=1, max_size=12))
def test_every_way_through_arrow_and_lazy_frames_says_the_same(shared, way, values):
    frame = with_places(arrow_of(pa.string())(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames_of_arrow, "ROWS_PER_BATCH", 4)
        for on_invalid in ("drop", "keep"):
            whole = clear(frame, shared, on_invalid=on_invalid)
            part = clear(WAYS[way](frame), shared, on_invalid=on_invalid)
            cleared = part.frame
            if isinstance(cleared, pa.RecordBatch):
                cleared = pa.Table.from_batches([cleared])
            assert places_in(cleared) == places_in(whole.frame)
            assert part.report.summary == whole.report.summary


def test_three_lines_for_a_frame_of_each_library(asked):
    _, client = asked
    numbers = {"nhs_number": PEOPLE}
    for frame in (pd.DataFrame(numbers), pl.DataFrame(numbers), pa.table(numbers)):
        cleared, report = clear(frame, client)
        assert len(cleared) == report.cleared == 20


def test_a_lazy_frame_is_of_one_revision_whatever_comes_meanwhile(asked):
    service, client = asked
    lazy = pl.LazyFrame({"nhs_number": PEOPLE * 100, "place": range(4000)})
    cleared, report = clear(lazy, client)
    service.token = "a later revision"
    with pytest.raises(IncompleteAnswer):
        cleared.collect()
    service.token, service.held = TOKEN, {TOKEN}
    assert cleared.filter(pl.col("place") < 40).collect().height == 20
    assert {request.exactly_at for request in service.requests} == {TOKEN}
    assert report.revision.token == TOKEN


def test_the_expression(asked):
    _, client = asked
    frame = pl.DataFrame({"nhs_number": [*PEOPLE, None], "n": range(41)})
    cleared = pl.col("nhs_number").ndoo.cleared(client)
    told = frame.select(cleared)["nhs_number"].to_list()
    assert told == [*(number not in OPTED_OUT for number in PEOPLE), False]
    lazy = frame.lazy().with_columns(n=pl.col("n") + 1).filter(cleared).select("n")
    assert lazy.collect(engine="streaming")["n"].to_list() == list(range(2, 41, 2))
    keeping = pl.col("nhs_number").ndoo.cleared(client, on_invalid="keep")
    assert frame.filter(keeping)["nhs_number"].to_list()[-1] is None


def test_a_parquet_file_goes_through_the_streaming_engine(asked, tmp_path):
    _, client = asked
    pl.DataFrame({"nhs_number": PEOPLE * 500}).write_parquet(tmp_path / "in", row_group_size=900)
    clear(pl.scan_parquet(tmp_path / "in"), client).frame.sink_parquet(tmp_path / "out")
    assert pq.read_table(tmp_path / "out").num_rows == 10_000


def test_batches_are_read_as_they_are_wanted(asked, monkeypatch):
    _, client = asked
    monkeypatch.setattr(frames_of_arrow, "ROWS_PER_BATCH", 10)
    batch, pulled = pa.record_batch({"nhs_number": PEOPLE}), []

    def batches():
        for _ in range(1000):
            pulled.append(len(batch))
            yield batch

    reader = pa.RecordBatchReader.from_batches(batch.schema, batches())
    cleared, report = clear(reader, client)
    assert pulled == []
    first = cleared.read_next_batch()
    assert first["nhs_number"].to_pylist() == [n for n in PEOPLE[:10] if n not in OPTED_OUT]
    assert sum(pulled) <= 10 * (in_order._AHEAD + 2) + len(batch)
    assert report.received == 10


def test_small_batches_are_asked_about_together_and_wide_ones_apart():
    small = [pa.record_batch({"n": [n]}) for n in range(10)]
    assert [len(table) for table in frames_of_arrow.gathered(small)] == [10]
    wide = [pa.record_batch({"n": ["x" * frames_of_arrow.BYTES_PER_BATCH]})] * 3
    assert [len(table) for table in frames_of_arrow.gathered(wide)] == [1, 1, 1]


def test_duckdb_hands_over_a_relation_and_takes_a_reader(asked):
    duckdb = pytest.importorskip("duckdb", reason="only the benchmarks install DuckDB")
    _, client = asked
    with duckdb.connect() as database, duckdb.connect() as other:
        database.register("people", pa.table({"nhs_number": PEOPLE * 1000}))
        cleared, report = clear(database.sql("select nhs_number, 'x' as x from people"), client)
        other.register("cleared", cleared)
        assert other.sql("select count(*) from cleared").fetchall() == [(20_000,)]
    assert report.cleared == 20_000


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
@pytest.mark.parametrize("way", ["pandas", "polars", "arrow", *WAYS])
def test_a_broken_answer_clears_nobody(asked, flaw, way):
    service, client = asked
    service.flaw, service.numbers_per_message = flaw, 4
    table = pa.table({"nhs_number": [*PEOPLE[:11], 0], "place": range(12)})
    eager = {"pandas": pa.Table.to_pandas, "polars": pl.from_arrow, "arrow": lambda table: table}
    frame = (eager | WAYS)[way](table)
    with pytest.raises(ClientError):
        places_in(clear(frame, client).frame)


def test_a_revision_that_is_lost_between_batches_is_an_error(asked, monkeypatch):
    service, client = asked
    monkeypatch.setattr(frames_of_arrow, "ROWS_PER_BATCH", 10)
    cleared, report = clear(pa.table({"nhs_number": PEOPLE * 20}).to_reader(), client)
    cleared.read_next_batch()
    service.held = {"another"}
    with pytest.raises(CallFailed) as caught:
        cleared.read_all()
    assert caught.value.reason == "REVISION_GONE"
    assert report.received < 800


def test_a_reader_that_nobody_reads_on_ends_its_threads(asked, monkeypatch):
    _, client = asked
    monkeypatch.setattr(frames_of_arrow, "ROWS_PER_BATCH", 10)
    reader, _ = clear(pa.table({"nhs_number": PEOPLE * 20}).to_reader(), client)
    reader.read_next_batch()
    del reader
    client.close()


def test_demands_are_passed_on(asked):
    service, client = asked
    clear(pl.LazyFrame({"nhs_number": PEOPLE}), client, at_least_as_fresh="earlier").frame.collect()
    clear(pl.DataFrame({"nhs_number": PEOPLE}), client, exactly_at=TOKEN)
    assert service.batches[0].at_least_as_fresh == "earlier"
    assert {request.exactly_at for request in service.requests} == {TOKEN}


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ([1, 2], TypeError),
        (pl.Series([1]), TypeError),
        (pd.DataFrame({"other": [1]}), KeyError),
        (pa.table({"other": [1]}), KeyError),
        (pa.table({"other": [1]}).to_reader(), KeyError),
        (pl.DataFrame({"other": [1]}), pl.exceptions.ColumnNotFoundError),
        (pl.DataFrame({"nhs_number": [True]}), TypeError),
        (pd.DataFrame({"nhs_number": np.array([1.0], np.float32)}), TypeError),
    ],
)
def test_what_cannot_be_cleared(asked, frame, error):
    with pytest.raises(error):
        clear(frame, asked[1])


def test_errors_tell_counts_and_no_values(asked):
    _, client = asked
    with pytest.raises(InvalidNumbers) as caught:
        clear(
            pd.DataFrame({"nhs_number": ["9990000027", "9990000018"]}), client, on_invalid="raise"
        )
    assert str(caught.value).startswith("1 of 2 rows hold no valid NHS number")
    assert "999" not in str(caught.value)
    with pytest.raises(ValueError, match="on_invalid is"):
        clear(pd.DataFrame({"nhs_number": PEOPLE}), client, on_invalid="ignore")


def test_one_thread_is_enough_for_polars(tmp_path):
    """Expressions that wait for the service must not wait for each other."""
    pl.DataFrame({"nhs_number": PEOPLE * 5000}).write_parquet(
        tmp_path / "in", row_group_size=20_000
    )
    program = """
import sys
import polars as pl
from ndoo.client import Client
from ndoo.client.frames import clear
with Client(sys.argv[1]) as client:
    lazy = pl.scan_parquet("in")
    for engine in ("in-memory", "streaming"):
        print(clear(lazy, client).frame.collect(engine=engine).height)
"""
    with serving(FakeService(opted_out=OPTED_OUT)) as target:
        ran = subprocess.run(
            [sys.executable, "-c", program, target], cwd=tmp_path, capture_output=True, check=False,
            text=True, timeout=120, env={"POLARS_MAX_THREADS": "1", "PATH": ""},
        )  # fmt: skip
    assert (ran.stdout, ran.returncode) == ("100000\n100000\n", 0), ran.stderr
