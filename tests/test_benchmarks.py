"""The benchmarks run, their answers are proven, and an interrupted run leaves nothing behind.

What needs packages that only `make bench` installs is passed over where they are missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "benchmarks" / "README.md"
BENCHMARKS = [sys.executable, "-m", "benchmarks"]

NEEDING_NOTHING = {
    "bulk", "kernels", "rungs", "sets", "coalescing", "catch_up", "publishing", "snapshots",
    "cold_start", "growth_messages", "growth_streams", "growth_questions", "growth_register",
}  # fmt: skip
SETS = "set_from_array"
FILES = "files"
NEEDING_HISTOGRAMS = {"latency", "propagation"}
NEEDING_POLARS = {"polars anti-join", "polars is_in"}
NEEDING_DUCKDB = {"DuckDB anti-join", "DuckDB semi-join"}
OPT_OUTS, QUESTIONS = 20_000, 262_144
OPTED_OUT, INVALID = int(QUESTIONS * 0.054), int(QUESTIONS * 0.01)


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def runnable() -> set[str]:
    return NEEDING_NOTHING | (NEEDING_HISTOGRAMS if installed("hdrh") else set())


def run(folder: Path, *names: str) -> None:
    ran = subprocess.run(
        [*BENCHMARKS, "run", *names, "--scale", "tiny", "--results", str(folder)],
        cwd=ROOT, capture_output=True, check=False, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "", "nobody watches"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """One small run of all that can be run."""
    folder = tmp_path_factory.mktemp("benchmarks")
    run(folder, *sorted(runnable()))
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    found["folder"] = folder
    return found


def test_every_benchmark_is_known_here():
    program = "from benchmarks.__main__ import NAMES; print(*NAMES)"
    names = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()
    assert set(names) == NEEDING_NOTHING | NEEDING_HISTOGRAMS | {SETS, FILES}
    assert all(f"| `{name}` |" in README.read_text("utf-8") for name in names)


@pytest.mark.parametrize("name", sorted(NEEDING_NOTHING | NEEDING_HISTOGRAMS))
def test_a_benchmark_says_where_and_what_it_measured(results: dict[str, dict], name: str):
    if name not in runnable():
        pytest.skip("hdrhistogram is not installed")
    facts = results[name]
    assert facts["benchmark"] == name
    assert facts["question"].endswith("?")
    assert facts["rows"]
    assert facts["parameters"]
    assert facts["machine"]["cores"] == os.cpu_count()
    assert set(facts["versions"]) >= {"python", "grpcio", "numpy"}
    assert facts["commit"]
    assert len(facts["load_average"]) == 3


@pytest.mark.parametrize(
    "name", ["StreamCheck", "StreamCheck, client library", "BatchCheck", "kernel, one thread"]
)
def test_all_ways_through_the_service_answer_alike(results: dict[str, dict], name: str):
    proofs = {row["name"]: row["proof"] for row in results["bulk"]["rows"]}
    assert proofs[name] == proofs["StreamCheck"]
    assert proofs[name]["opted_out"] == OPTED_OUT
    assert proofs[name]["invalid"] == INVALID
    assert proofs[name]["cleared"] == QUESTIONS - OPTED_OUT - INVALID
    assert len(proofs[name]["sha256"]) == 64


def test_all_kernels_answer_alike(results: dict[str, dict]):
    proofs = [row["proof"] for row in results["kernels"]["rows"]]
    assert len(proofs) == 4
    assert all(proof == results["bulk"]["rows"][1]["proof"] for proof in proofs)


def test_peers_are_asked_for_the_same_people(results: dict[str, dict]):
    facts = results["bulk"]
    rows = {row["name"]: row for row in facts["rows"]}
    peers = {"Redis SMISMEMBER", "Redis BITFIELD", "Redis GETBIT pipeline", "Python set"}
    peers |= {"pyroaring loop"}
    peers |= NEEDING_POLARS if installed("polars") else set()
    peers |= NEEDING_DUCKDB if installed("duckdb") else set()
    assert set(facts["stream_check_over"]) == peers | {"echo"}
    for name in peers & (NEEDING_POLARS | NEEDING_DUCKDB):
        proof, is_semi = rows[name]["proof"], "semi" in name
        found = proof.get("opted_out", proof.get("returned"))
        expected = OPTED_OUT if is_semi or "opted_out" in proof else QUESTIONS - OPTED_OUT
        assert found == expected
    assert rows["Redis SMISMEMBER"]["proof"]["opted_out"] > 0


def test_every_rung_answers_every_message(results: dict[str, dict]):
    *echoes, service = results["rungs"]["rows"]
    assert len(echoes) == 5
    assert {row["proof"]["messages"] for row in echoes} == {2}
    assert service["proof"] == results["bulk"]["rows"][1]["proof"]


def test_growth_keeps_the_truth(results: dict[str, dict]):
    asked = {"growth_messages": 3, "growth_streams": 2, "growth_questions": 7, "growth_register": 2}
    for name, points in asked.items():
        rows = results[name]["rows"]
        assert len(rows) == points
        for row in rows:
            assert sum(row["proof"][kind] for kind in ("cleared", "opted_out", "invalid")) > 0
    shares = {row["name"]: row["proof"] for row in results["growth_questions"]["rows"]}
    assert shares["all opted out"]["cleared"] == shares["all opted out"]["invalid"] == 0
    assert shares["all invalid"]["cleared"] == shares["all invalid"]["opted_out"] == 0
    assert shares["nobody opted out"]["opted_out"] == 0


def test_a_start_is_told_phase_by_phase(results: dict[str, dict]):
    for row in results["cold_start"]["rows"]:
        *phases, first_answer = row["phases_s"].values()
        assert sum(phases) == pytest.approx(row["live_s"]["median"], rel=0.01)
        assert first_answer > 0


def test_pages_are_written_from_results(results: dict[str, dict], tmp_path: Path):
    if not installed("matplotlib") or not installed("hdrh"):
        pytest.skip("matplotlib and hdrhistogram are not installed")
    command = [*BENCHMARKS, "report", "--results", str(results["folder"]), "--docs", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    page = (tmp_path / "performance.md").read_text("utf-8")
    for name in ("Goals", "Bulk checks", "Single checks", "Opt-outs and memory"):
        assert f"## {name}" in page
    assert "Not a full run" in page
    assert "First bottleneck" in (tmp_path / "capacity.md").read_text("utf-8")
    plots = {path.name for path in (tmp_path / "performance").iterdir()}
    assert {name for name in plots if f"(performance/{name})" in page} == plots
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.svg")}
    subprocess.run(command, cwd=ROOT, check=True)
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*.svg")}


def test_a_set_comes_from_an_array(tmp_path: Path):
    run(tmp_path, SETS)
    rows = json.loads((tmp_path / f"{SETS}.json").read_text("utf-8"))["rows"]
    assert [row["numbers"] for row in rows] == [50_000] * 3
    assert rows[0]["proof"]["count"] == 50_000
    assert 0 < rows[1]["proof"]["count"] == rows[2]["proof"]["count"] <= 50_000


def test_a_file_is_gone_through_by_both(tmp_path: Path):
    run(tmp_path, FILES)
    facts = json.loads((tmp_path / f"{FILES}.json").read_text("utf-8"))
    proofs = {row["name"]: row["proof"] for row in facts["rows"]}
    rows = facts["parameters"]["rows"]
    opted_out, invalid = int(rows * 0.054), int(rows * 0.01)
    for name in ("Parquet", "CSV"):
        assert proofs[f"ndoo check, {name}"]["rows"] == rows - opted_out - invalid
        assert proofs[f"polars anti-join, {name}"]["rows"] == rows - opted_out
        assert facts["check_over_polars"][name]["median"] > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(how: signal.Signals, tmp_path: Path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [*BENCHMARKS, "run", "catch_up", "--scale", "tiny", "--results", str(tmp_path / "r")]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    with process:
        while len(_family(process.pid)) < 3:  # itself, Redis, and a service
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.send_signal(how)
        process.stdout.read()
        assert process.wait(30) != 0
    assert not _family(process.pid)
    assert not list(temporary.iterdir())
    assert not (tmp_path / "r").exists()


def _family(session: int) -> list[int]:
    """All processes of the session that the benchmark was started in."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
