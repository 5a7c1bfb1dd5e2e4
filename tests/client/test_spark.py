"""Frames of Spark, in real Spark: two tasks at a time, each tried twice at most."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pyspark", reason="'make test' installs it, and the Java that it needs")

from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from client.fake_service import FakeService, serving
from client.flaws import no_summary
from client.people import mixed_numbers, valid_numbers
from ndoo.client import CallFailed
from ndoo.client import spark as opt_outs
from support.java import java_home
from support.pages import ROOT, SERVICE, examples

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")

ROWS = 20_000
PARTITIONS = 6
NUMBERS, OPTED_OUT = mixed_numbers(ROWS, seed=11)
VALID = set(valid_numbers(ROWS).tolist())
IS_INVALID = [number not in VALID for number in NUMBERS.tolist()]
IS_CLEARED = [n in VALID and n not in OPTED_OUT for n in NUMBERS.tolist()]
CLEARED = np.flatnonzero(IS_CLEARED).tolist()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(java_home(folder / "java")))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=":")  # functions of this file
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        builder = SparkSession.builder.master("local[2,2]").config(
            map={
                "spark.ui.enabled": "false",
                "spark.local.dir": str(folder),
                "spark.sql.warehouse.dir": str(folder / "warehouse"),
                "spark.sql.shuffle.partitions": "3",
                "spark.sql.execution.arrow.maxRecordsPerBatch": "500",
                "spark.log.level": "OFF",
            }
        )
        session = builder.getOrCreate()
        yield session
        session.stop()


@pytest.fixture
def service() -> FakeService:
    return FakeService(OPTED_OUT)


@pytest.fixture
def target(service: FakeService) -> Iterator[str]:
    with serving(service) as address:
        yield address


@pytest.fixture(scope="module")
def frame(session: SparkSession) -> DataFrame:
    """*id* is the place in NUMBERS; of the numbers, those that are too large are nulls."""
    texts = [f"{n:010d}" if n < 10**10 else None for n in NUMBERS.tolist()]
    places = np.arange(ROWS)
    table = pa.table({"id": places, "nhs_number": texts, "value": places * 0.5})
    return session.createDataFrame(table).repartition(PARTITIONS).cache()


def ids(frame: DataFrame) -> list[int]:
    return sorted(row.id for row in frame.select("id").collect())


def totals(report: opt_outs.Report) -> tuple[int, int, int, int]:
    summary = report.summary
    return summary.received, summary.cleared, summary.opted_out, summary.invalid


WHOLE = (ROWS, sum(IS_CLEARED), ROWS - sum(IS_CLEARED) - sum(IS_INVALID), sum(IS_INVALID))


def test_the_frame_less_those_who_are_not_cleared(
    frame: DataFrame, target: str, service: FakeService
) -> None:
    cleared, report = opt_outs.clear(frame, target=target)
    assert cleared.schema == frame.schema
    rows = {row.id: row for row in cleared.collect()}
    assert sorted(rows) == CLEARED
    assert all(row.value == place * 0.5 for place, row in rows.items())
    assert totals(report) == WHOLE
    # Forty batches of Spark's are six questions; and the first was the driver's.
    assert len(service.requests) == PARTITIONS
    assert {request.exactly_at for request in service.requests} == {report.revision.token}


def test_a_killed_task_is_tried_again_at_the_same_revision(frame: DataFrame) -> None:
    """The service kills the worker that asks it third, in the middle of its question."""
    service = Killing(OPTED_OUT, kill_at=3)
    with serving(service) as target:
        cleared, report = opt_outs.clear(frame, target=target)
        service.token = "revision-8"  # what anybody else would be told from here on
        assert ids(cleared) == CLEARED
    assert service.killed
    assert service.asked == PARTITIONS + 1
    assert totals(report) == WHOLE
    assert report.summary.revision.token == report.revision.token == "revision-7"
    assert service.demanded == {"revision-7"}


class Killing(FakeService):
    """Kills one of those who ask, and answers the others at the revision that they demand."""

    def __init__(self, opted_out: set[int], kill_at: int) -> None:
        super().__init__(opted_out)
        self.kill_at = kill_at
        self.asked = 0
        self.killed = False
        self.demanded: set[str] = set()

    def StreamCheck(self, request_iterator, context):  # noqa: N802
        first = next(request_iterator)
        self.asked += 1
        if self.asked == self.kill_at:
            self.killed = True
            os.kill(asker(context.peer()), signal.SIGKILL)
            return
        self.demanded.add(first.exactly_at)
        for response in self._responses(itertools.chain([first], request_iterator)):
            for answer in (response.chunk, response.summary):
                if answer.HasField("revision"):
                    answer.revision.token = first.exactly_at
            yield response


def asker(peer: str) -> int:
    """The process at the other end of a connection that comes from *peer*."""
    port = f":{int(peer.rpartition(':')[2]):04X}"
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    (inode,) = {row[9] for row in rows if row[1].endswith(port)}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(handle.readlink()) == f"socket:[{inode}]":
                return int(handle.parts[2])
    raise AssertionError("nobody holds that connection")


def test_totals_count_nobody_twice(frame: DataFrame, target: str) -> None:
    cleared, report = opt_outs.clear(frame, target=target)
    with pytest.raises(LookupError):
        totals(report)
    # A sort looks at all rows to find its ranges, and then again to sort them.
    assert [row.id for row in cleared.orderBy("id").collect()] == CLEARED
    assert totals(report) == WHOLE
    assert cleared.count() == len(CLEARED)
    assert totals(report) == WHOLE


def test_totals_of_a_frame_without_rows(frame: DataFrame, target: str) -> None:
    cleared, report = opt_outs.clear(frame.where("id < 0"), target=target)
    assert cleared.collect() == []
    assert totals(report) == (0, 0, 0, 0)


@pytest.mark.parametrize("on_invalid", ["keep", "raise"])
def test_rows_without_a_valid_number(frame: DataFrame, target: str, on_invalid: str) -> None:
    cleared, report = opt_outs.clear(frame, target=target, on_invalid=on_invalid)
    if on_invalid == "keep":
        kept = np.flatnonzero(np.array(IS_CLEARED) | np.array(IS_INVALID))
        assert ids(cleared) == kept.tolist()
        assert totals(report) == WHOLE
    else:
        with pytest.raises(PythonException, match=r"\d rows hold no valid NHS number") as caught:
            cleared.collect()
        assert_holds_no_number(caught.value)


@pytest.mark.parametrize("kind", ["long", "double", "decimal(10,0)"])
def test_columns_of_other_types(frame: DataFrame, target: str, kind: str) -> None:
    typed = frame.selectExpr("id", f"cast(nhs_number as {kind}) as `the number`")
    cleared, _ = opt_outs.clear(typed, "the number", target=target)
    assert cleared.schema == typed.schema
    assert ids(cleared) == CLEARED


def test_a_column_that_cannot_be_asked_about_is_refused_at_once(
    frame: DataFrame, target: str
) -> None:
    with pytest.raises(ValueError, match="one column 'nhs'"):
        opt_outs.clear(frame, "nhs", target=target)
    with pytest.raises(ValueError, match="one column 'nhs_number'"):
        opt_outs.clear(frame.join(frame, "id"), target=target)
    with pytest.raises(TypeError):
        opt_outs.clear(frame.selectExpr("id > 5 as nhs_number"), target=target)


def test_no_service_no_frame(frame: DataFrame, service: FakeService) -> None:
    service.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_GENERATION", "It is another.")
    with serving(service) as target, pytest.raises(CallFailed):
        opt_outs.clear(frame, target=target, exactly_at="revision-6")


def test_a_revision_that_is_gone_ends_the_job_and_nothing_is_written(
    frame: DataFrame, target: str, service: FakeService, tmp_path: Path
) -> None:
    cleared, report = opt_outs.clear(frame, target=target)
    service.held = {"revision-8"}
    with pytest.raises(PythonException, match="It is gone") as caught:
        cleared.write.parquet(str(tmp_path / "cohort"))
    assert_holds_no_number(caught.value)
    assert not list(tmp_path.glob("cohort/*.parquet"))
    with pytest.raises(LookupError):
        totals(report)


def test_an_answer_with_a_flaw_ends_the_job(
    frame: DataFrame, target: str, service: FakeService
) -> None:
    cleared, _ = opt_outs.clear(frame, target=target)
    service.flaw = no_summary
    with pytest.raises(PythonException, match="IncompleteAnswer") as caught:
        cleared.collect()
    assert_holds_no_number(caught.value)


def test_the_example_of_the_page_runs(
    frame: DataFrame, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = examples("docs/clients.md", "py")
    code = code.replace(SERVICE, target).replace("cohort.parquet", str(tmp_path / "cohort"))
    exec(code, {"patients": frame})
    assert capsys.readouterr().out.startswith(f"{WHOLE[2]} ")
    assert list(tmp_path.glob("cohort/*.parquet"))


def assert_holds_no_number(error: Exception) -> None:
    assert not {str(number) for number in VALID} & set(re.findall(r"\d{10}", str(error)))
