"""`ndoo check` on a large file, beside polars doing the same locally: read, anti-join, write.

Both are processes of their own, timed from start to end, and tell their peak memory. polars has the
register as a file, streams, and checks no check digit; `ndoo check` has it over gRPC.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.data import Asked, Mask, WrongAnswer
from benchmarks.harness import Contender, Facts, interleave, ratio
from benchmarks.machine import ROOT
from benchmarks.workshop import Workshop
from ndoo import nhs_number

QUESTION = "How fast does `ndoo check` go through a file, beside a local polars anti-join?"

FORMATS = {"Parquet": "parquet", "CSV": "csv"}
CHECK, PEER = "ndoo check, {}", "polars anti-join, {}"
_CODES = 5000


def measure(shop: Workshop) -> Facts:
    rows = shop.scale.file_rows
    asked = data.draw(shop.rng("files"), shop.register, rows)
    _write_inputs(shop, asked)
    with shop.service() as served:
        contenders = [
            contender
            for name, ending in FORMATS.items()
            for contender in _pair(shop.folder, asked, name, ending, served.target)
        ]
        measured = interleave(contenders, max(1, shop.scale.rounds // 2), shop.progress)
    over = {name: ratio(measured, CHECK.format(name), PEER.format(name)) for name in FORMATS}
    return {
        "parameters": {"rows": rows, "opt_outs": len(shop.register)},
        "rows": measured,
        "check_over_polars": over,
    }


def _write_inputs(shop: Workshop, asked: Asked) -> None:
    """The file in each format, and the register, as files of polars."""
    shop.progress.say("writing the files")
    rng, count = shop.rng("columns of files"), len(asked)
    frame = pl.DataFrame({
        "row": np.arange(count),
        "nhs_number": asked.numbers.astype(np.int64),
        "age": rng.integers(0, 100, count, dtype=np.int16),
        "value": rng.random(count).round(3),
        "code": pl.Series(rng.integers(0, _CODES, count)).cast(pl.String),
    })  # fmt: skip
    frame.write_parquet(shop.folder / "in.parquet")
    frame.write_csv(shop.folder / "in.csv")
    register = nhs_number.numbers_of(shop.register).astype(np.int64)
    pl.DataFrame({"nhs_number": register}).write_parquet(shop.folder / "register.parquet")


def _pair(folder: Path, asked: Asked, name: str, ending: str, target: str) -> list[Contender]:
    given, output = folder / f"in.{ending}", folder / f"out.{ending}"
    cleared, without_opt_outs = asked.truth.cleared, ~asked.truth.opted_out
    return [
        Contender(
            label.format(name),
            len(asked),
            partial(_job, kind, given, output, against),
            partial(_prove, output, truth),
        )
        for label, kind, against, truth in (
            (CHECK, "check", target, cleared),
            (PEER, "polars", str(folder / "register.parquet"), without_opt_outs),
        )
    ]


def _job(kind: str, given: Path, output: Path, against: str) -> float:
    """Run it, and give its peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.file_job", kind, str(given), str(output), against]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"a pass over a file failed: {ran.stderr[-500:]}")
    return float(ran.stdout.split()[-1])


def _prove(output: Path, truth: Mask, peak_mb: float) -> Facts:
    """The rows in *output* must be those that are true, in any order. Removes it."""
    if output.suffix == ".parquet":
        table = pq.read_table(output, columns=["row"])
    else:
        options = pyarrow.csv.ConvertOptions(include_columns=["row"])
        table = pyarrow.csv.read_csv(output, convert_options=options)
    output.unlink()
    if not np.array_equal(np.sort(table["row"].to_numpy()), np.flatnonzero(truth)):
        raise WrongAnswer(f"{output.name} holds other rows than it should")
    return {"rows": table.num_rows, "peak_mb": peak_mb}
