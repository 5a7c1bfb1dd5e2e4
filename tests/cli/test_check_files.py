"""`ndoo check` on Parquet, Arrow and folders: what comes out is what went in, less some rows."""

from __future__ import annotations

import errno
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading

import grpc
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cli.test_console import BASE_INSTALL
from client.fake_service import TOKEN, serving
from client.people import valid_numbers

NUMBERS = valid_numbers(600).tolist()
OPTED_OUT = set(NUMBERS[::3])
CLEARED = [number for number in NUMBERS if number not in OPTED_OUT]


@pytest.fixture(autouse=True)
def _opted_out(service):
    service.opted_out = set(OPTED_OUT)


def table(numbers=NUMBERS, numbers_type=None) -> pa.Table:
    count = len(numbers)
    return pa.table(
        {
            "id": pa.array(range(count), pa.int32()),
            "nhs_number": pa.array(numbers, numbers_type),
            "place": pa.array([f"place {n % 7}" for n in range(count)]).dictionary_encode(),
            "when": pa.array([n * 10**9 for n in range(count)], pa.timestamp("ns", "UTC")),
            "words": pa.array([["a", None][: n % 3] for n in range(count)]),
        }
    ).replace_schema_metadata({"made": "by a test"})


TEXTS = [f"{number:010d}" for number in NUMBERS]
COLUMNS = {
    "integers": (NUMBERS, pa.int64()),
    "unsigned": (NUMBERS, pa.uint64()),
    "floats": ([float(number) for number in NUMBERS], pa.float64()),
    "decimals": (NUMBERS, pa.decimal128(10)),
    "texts": (TEXTS, pa.string()),
    "large texts": (TEXTS, pa.large_string()),
    "bytes": ([text.encode() for text in TEXTS], pa.binary()),
    "dictionary": (TEXTS, pa.dictionary(pa.int32(), pa.string())),
}


def write_parquet(given: pa.Table, path) -> None:
    pq.write_table(given, path, row_group_size=100, compression={
        "id": "none", "nhs_number": "zstd", "place": "gzip", "when": "snappy",
        "words.list.element": "brotli",
    }, use_dictionary=["place"])  # fmt: skip


def write_arrow(given: pa.Table, path) -> None:
    with pa.ipc.new_file(path, given.schema) as writer:
        writer.write_table(given, 70)


def write_stream(given: pa.Table, path) -> None:
    with pa.ipc.new_stream(path, given.schema) as writer:
        writer.write_table(given, 70)


def read_stream(path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def read_arrow(path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


FORMATS = {
    "parquet": (write_parquet, pq.read_table),
    "arrow": (write_arrow, read_arrow),
    "stream": (write_stream, read_stream),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("column", COLUMNS)
def test_what_comes_out_is_what_went_in_less_some_rows(run, target, tmp_path, form, column):
    write, read = FORMATS[form]
    write(table(*COLUMNS[column]), tmp_path / "in")
    result = run("check", "in", "out", "--target", target)
    assert result.exit_code == 0, result.stderr
    before, after = read(tmp_path / "in"), read(tmp_path / "out")
    assert after.schema.equals(before.schema, check_metadata=True)
    kept = pa.array([number not in OPTED_OUT for number in NUMBERS])
    assert after.to_pylist() == before.filter(kept).to_pylist()


def test_parquet_keeps_its_compression_and_dictionaries(run, target, tmp_path):
    write_parquet(table(), tmp_path / "in.parquet")
    run("check", "in.parquet", "out.parquet", "--target", target)
    before, after = (
        pq.ParquetFile(tmp_path / name).metadata.row_group(0)
        for name in ("in.parquet", "out.parquet")
    )
    for place in range(before.num_columns):
        one, other = before.column(place), after.column(place)
        assert (one.compression, one.has_dictionary_page) == (
            other.compression,
            other.has_dictionary_page,
        )


@pytest.mark.parametrize("write", [pl.DataFrame.write_parquet, pl.DataFrame.write_ipc])
def test_files_of_polars_with_their_views_of_texts(run, target, tmp_path, write):
    frame = pl.DataFrame({"text": [f"a text of some length {n}" for n in NUMBERS], "nhs": TEXTS})
    write(frame, tmp_path / "in")
    result = run("check", "in", "out", "--column", "nhs", "--target", target)
    assert result.exit_code == 0, result.stderr
    read = pl.read_parquet if write is pl.DataFrame.write_parquet else pl.read_ipc
    after = read(tmp_path / "out")
    assert after.equals(frame.filter(pl.Series([int(t) not in OPTED_OUT for t in TEXTS])))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [0, 1])
def test_next_to_nothing_and_nothing_at_all(run, target, tmp_path, form, count):
    write, read = FORMATS[form]
    write(table(NUMBERS[:count], pa.int64()), tmp_path / "in")
    result = run("check", "in", "out", "--target", target, "--report", "report.json")
    assert result.exit_code == 0, result.stderr
    assert read(tmp_path / "out").num_rows == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["received"], report["opted_out"], report["revision"]) == (count, count, TOKEN)


def test_bad_rows_are_told_by_row_and_reason(run, target, tmp_path):
    rows = [TEXTS[1], None, "", "999 000 001x", "9990000027", "0000000000", TEXTS[2]]
    pq.write_table(pa.table({"nhs_number": rows}), tmp_path / "in.parquet")
    result = run("check", "in.parquet", "o", "--target", target, "--report", "report.json")
    assert result.exit_code == 3
    assert pq.read_table(tmp_path / "o")["nhs_number"].to_pylist() == [TEXTS[1], TEXTS[2]]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["row"] for row in report["bad_rows"]] == [2, 3, 4, 5, 6]
    assert report["bad_rows"][0]["reason"] == "there is no number in it"
    assert report["bad_rows"][3]["reason"] == "its check digit is wrong"
    assert "9990000027" not in result.stderr + json.dumps(report)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("short", "in cannot be"),
        ("no such column", "did you mean: nhs_numbers?"),
        ("booleans", "give a column of 64-bit integers or of texts"),
        ("twice", "More than one column"),
    ],
)
def test_tables_that_cannot_be_read_are_one_sentence(run, target, tmp_path, name, sentence):
    tables = {
        "no such column": pa.table({"nhs_numbers": NUMBERS}),
        "booleans": pa.table({"nhs_number": [True]}),
        "twice": pa.table([NUMBERS, NUMBERS], names=["nhs_number"] * 2),
        "short": table(),
    }
    pq.write_table(tables[name], tmp_path / "in")
    if name == "short":
        content = (tmp_path / "in").read_bytes()
        (tmp_path / "in").write_bytes(content[: len(content) // 2])
        sentence = "is broken, or not whole"
    result = run("check", "in", "out", "--target", target)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["cut between batches", "another stream after it"])
def test_a_stream_of_arrow_has_its_end_at_its_end(run, target, tmp_path, fault):
    """Its batches are whole: what follows was lost, or would not be looked at."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=100)
        ends_at = sink.tell()
        writer.write_table(table())
    content = sink.getvalue().to_pybytes()
    faulty = content[:ends_at] if fault.startswith("cut") else content * 2
    (tmp_path / "in.arrows").write_bytes(faulty)
    result = run("check", "in.arrows", "out.arrows", "--target", target)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is broken, or not whole" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.arrows"]


def test_damage_in_the_middle_leaves_nothing(run, target, tmp_path):
    write_parquet(table(), tmp_path / "in.parquet")
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    group = pq.ParquetFile(tmp_path / "in.parquet").metadata.row_group(4)
    start = group.column(1).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "in.parquet").write_bytes(content)
    result = run("check", "in.parquet", "out.parquet", "--target", target)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is broken, or not whole" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_without_pyarrow_the_extra_is_named(target, tmp_path):
    pq.write_table(table(), tmp_path / "in.parquet")
    command = [sys.executable, "-c", BASE_INSTALL, "check", "in.parquet", "out", "--target", target]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == (
        "Error: in.parquet is a Parquet file; to read it, install: pip install 'ndoo[files]'\n"
    )


@pytest.fixture
def folder(tmp_path):
    """Files of several formats in folders, and things beside them that are no data."""
    root = tmp_path / "in"
    (root / "year=2026").mkdir(parents=True)
    write_parquet(table(NUMBERS[:300]), root / "year=2026" / "a.parquet")
    write_parquet(table(NUMBERS[300:500]), root / "b.parquet")
    write_arrow(table(NUMBERS[500:]), root / "c.arrow")
    (root / "_SUCCESS").touch()
    (root / ".b.parquet.crc").write_bytes(b"\0")
    return root


def numbers_in(path) -> list[int]:
    read = read_arrow if path.suffix == ".arrow" else pq.read_table
    return read(path)["nhs_number"].to_pylist()


def test_a_folder_becomes_a_folder_at_one_revision(run, target, service, folder, tmp_path):
    result = run("check", folder, "out", "--target", target, "--report", "report.json")
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    files = sorted(path for path in out.rglob("*") if path.is_file())
    assert [str(path.relative_to(out)) for path in files] == [
        "b.parquet", "c.arrow", "year=2026/a.parquet",
    ]  # fmt: skip
    assert sorted(number for path in files for number in numbers_in(path)) == sorted(CLEARED)
    assert {request.exactly_at for request in service.requests} == {TOKEN}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cleared"] == len(CLEARED)
    assert [part["received"] for part in report["files"]] == [200, 100, 300]
    assert ds.dataset(out, exclude_invalid_files=True).schema is not None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("in/*.parquet", ["b.parquet"]),
        ("in/**/*.parquet", ["b.parquet", "year=2026/a.parquet"]),
        ("in/year=202[67]/*", ["year=2026/a.parquet"]),
    ],
)
def test_a_pattern_becomes_a_folder(run, target, folder, tmp_path, pattern, names):
    result = run("check", pattern, "out", "--target", target)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == names


def test_a_folder_of_lines_tells_bad_rows_by_file(run, target, tmp_path):
    (tmp_path / "in").mkdir()
    for name, rows in (("a.csv", [TEXTS[1], "bad"]), ("b.csv", [TEXTS[0], TEXTS[2]])):
        (tmp_path / "in" / name).write_text("\n".join(["nhs", *rows]) + "\n")
    result = run("check", "in", "out", "--column", "nhs", "--target", target)
    assert result.exit_code == 3
    assert "a.csv, line 3: it is not ten digits" in result.stderr
    assert (tmp_path / "out" / "b.csv").read_text() == f"nhs\n{TEXTS[2]}\n"


@pytest.mark.parametrize("last", ["broken", "refused", "link", "empty"])
def test_one_bad_file_and_there_is_no_folder(run, target, service, folder, tmp_path, last):
    if last == "broken":
        (folder / "z.parquet").write_bytes(b"PAR1 and no more")
    elif last == "link":
        (folder / "z").symlink_to(folder / "year=2026")
    elif last == "empty":
        (folder / "z.dat").touch()
    else:
        service.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_GONE", "It is gone.")
    result = run("check", folder, "out", "--target", target)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("output", ["in/out", "in", "taken", "-", "nowhere/out", "in/year=2026/x"])
def test_folders_that_cannot_be_the_output(run, target, service, folder, tmp_path, output):
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = run("check", folder, output, "--target", target, "--force")
    assert result.exit_code == 1
    assert service.batches == service.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_and_writes_nothing(run, target, folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for arguments in ((folder,), (folder, "out")):
        result = run("check", *arguments, "--target", target, "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert f"600 rows: {len(CLEARED)} cleared, 200 opted out, 0 invalid" in result.stdout
        assert sorted(tmp_path.rglob("*")) == before


def test_no_ending_promises_another_format(run, target, service, folder):
    result = run("check", "in/b.parquet", "b.csv", "--target", target)
    assert (result.exit_code, service.batches) == (1, [])
    assert result.stderr == "Error: OUT gets the format of IN; name it with the same ending.\n"


def test_without_a_place_to_write_to_nothing_is_asked(run, target, service, folder):
    result = run("check", folder, "--target", target)
    assert (result.exit_code, service.batches) == (2, [])
    assert "ndoo check IN OUT" in result.stderr


def test_a_revision_that_is_lost_in_the_middle_leaves_nothing(run, target, service, folder):
    def flaw(responses):
        service.held = {"another"}
        yield from responses

    service.flaw = flaw
    result = run("check", folder, "out", "--target", target)
    assert (result.exit_code, result.stderr) == (1, "Error: It is gone.\n")
    assert [path.name for path in folder.parent.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["in.dat", "in.csv", "in.parquet"])
def test_a_file_that_changes_while_it_is_read_is_refused(run, target, service, tmp_path, name):
    path = tmp_path / name
    if name == "in.parquet":
        write_parquet(table(), path)
    else:
        path.write_text("\n".join(["nhs_number", *TEXTS]) + "\n")

    def flaw(responses):
        with path.open("ab") as file:
            file.write(f"{TEXTS[0]}\n".encode())
        yield from responses

    service.flaw = flaw
    column = ("--column", "nhs_number") if name == "in.csv" else ()
    result = run("check", name, "out", "--target", target, *column)
    assert result.exit_code == 1
    assert "was changed while it was read" in result.stderr
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_service_that_dies_in_the_middle_leaves_nothing(run, service, folder, monkeypatch):
    monkeypatch.setattr(sys.modules["ndoo.cli.check"], "TIMEOUT_S", 0.5)
    service.numbers_per_message = 50
    begun, ended = threading.Event(), threading.Event()

    def flaw(responses):
        yield next(responses)
        begun.set()
        ended.wait(60)

    service.flaw = flaw
    with serving(service) as target:
        results = []
        asking = threading.Thread(
            target=lambda: results.append(run("check", folder, "out", "--target", target))
        )
        monkeypatch.setattr("ndoo.cli.check.signals_held", None)  # of the main thread alone
        asking.start()
        assert begun.wait(60)
        ended.set()
    asking.join(60)
    assert results[0].exit_code == 1
    assert [path.name for path in folder.parent.iterdir()] == ["in"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_a_folder_leaves_nothing(
    start, target, service, folder, number, code
):
    begun = threading.Event()

    def flaw(responses):
        yield next(responses)
        begun.set()
        service.ended.wait(60)

    service.flaw = flaw
    process = start("check", folder, "out", "--target", target, "--report", "report.json")
    assert begun.wait(60)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert [path.name for path in folder.parent.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["in.dat", "in.csv", "in.parquet", "in.arrow", "in"])
def test_a_full_disk_leaves_nothing(start, target, tmp_path, name):
    numbers = NUMBERS[1:2] * 20_000
    if name in {"in.dat", "in.csv"}:
        (tmp_path / name).write_text("nhs\n" + "".join(f"{number}\n" for number in numbers))
    else:
        write = write_arrow if name == "in.arrow" else pq.write_table
        path = tmp_path / name
        if name == "in":
            path.mkdir()
            path /= "part.parquet"
        write(pa.table({"nhs_number": numbers, "x": os.urandom(8 * 20_000)[::8]} | {
            "y": [os.urandom(8) for _ in numbers]
        }) if name != "in.arrow" else pa.table({"nhs_number": numbers}), path)  # fmt: skip
    column = ("--column", "nhs") if name == "in.csv" else ()
    before = sorted(tmp_path.rglob("*"))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = start("check", name, "out", "--target", target, *column, preexec_fn=small_files)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.decode() == f"Error: {os.strerror(errno.EFBIG)}.\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_somebody_at_a_terminal_sees_rate_and_time_left(start, target, folder):
    shown, theirs = pty.openpty()
    try:
        process = start("check", folder, "out", "--target", target, stderr=theirs)
    finally:
        os.close(theirs)
    process.communicate(timeout=60)
    text = os.read(shown, 100_000).decode()
    os.close(shown)
    assert process.returncode == 0
    assert "rows/s" in text
    assert "100%" in text
