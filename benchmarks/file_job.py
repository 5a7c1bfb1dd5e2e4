"""One pass over a file, in a process of its own, which tells its peak memory in MB at the end.

python -m benchmarks.file_job check IN OUT TARGET
python -m benchmarks.file_job polars IN OUT REGISTER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def check(given: Path, output: Path, target: str) -> None:
    """`ndoo check`; what it says goes to nobody."""
    from ndoo.cli.check import SOME_INVALID  # noqa: PLC0415  (the other job needs none of it)
    from ndoo.cli.main import commands  # noqa: PLC0415

    said, sys.stdout = sys.stdout, Path(os.devnull).open("w")  # noqa: SIM115
    options = ["--target", target, "--column", "nhs_number"]
    try:
        commands.main(["check", str(given), str(output), *options], prog_name="ndoo")
    except SystemExit as exit_:
        if exit_.code not in {0, SOME_INVALID}:
            raise
    sys.stdout = said


def polars(given: Path, output: Path, register: str) -> None:
    import polars as pl  # noqa: PLC0415  (the other job needs none of it)

    is_csv = given.suffix == ".csv"
    rows = pl.scan_csv(given) if is_csv else pl.scan_parquet(given)
    kept = rows.join(pl.scan_parquet(register), on="nhs_number", how="anti")
    kept.sink_csv(output) if is_csv else kept.sink_parquet(output)


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text("utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    JOBS = {"check": check, "polars": polars}
    JOBS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    print(peak_mb())
