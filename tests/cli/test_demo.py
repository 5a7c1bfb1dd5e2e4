"""The demo, small: the real server in its own process, the truth, and nothing left behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.cli.demo_data import draw_other, draw_questions, draw_register

SEED = 20_260_301
SMALL = ("--numbers", "300000", "--opt-outs", "5000")


def test_the_draw_is_what_it_says():
    rng = np.random.default_rng(SEED)
    register = draw_register(rng, 10_000)
    assert len(register) == 10_000
    assert np.all(np.diff(register.astype(np.int64)) > 0)
    numbers = nhs_number.numbers_of(register)
    assert nhs_number.valid(numbers).all()
    millions = register // 1_000_000
    issued = ((millions >= 400) & (millions < 500)) | ((millions >= 600) & (millions < 800))
    assert issued.all()
    assert draw_other(rng, register) not in set(register.tolist())


@pytest.mark.parametrize("count", [1, 999, 200_003])
def test_the_truth_is_the_truth(count):
    rng = np.random.default_rng(SEED)
    register = draw_register(rng, 1000)
    questions = draw_questions(rng, register, count)
    cleared = np.unpackbits(questions.cleared, count=count, bitorder="little").astype(bool)
    invalid = np.unpackbits(questions.invalid, count=count, bitorder="little").astype(bool)
    opted_out = np.isin(questions.numbers, nhs_number.numbers_of(register))
    np.testing.assert_array_equal(invalid, ~nhs_number.valid(questions.numbers))
    np.testing.assert_array_equal(cleared, ~invalid & ~opted_out)
    assert int(opted_out.sum()) == int(count * 0.054)
    assert int(invalid.sum()) == int(count * 0.01)


def test_the_same_seed_draws_the_same():
    first, second = (draw_register(np.random.default_rng(SEED), 100) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where temporary files of the processes go."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_demo_proves_itself_and_leaves_nothing(start, folder):
    process = start("demo", "--json", *SMALL)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()
    facts = json.loads(stdout.splitlines()[-1])
    assert facts["opt_outs"] == 5000
    assert (facts["received"], facts["wrong"]) == (300_000, 0)
    assert (facts["opted_out"], facts["invalid"]) == (16_200, 3000)
    assert facts["cleared"] == 300_000 - 16_200 - 3000
    assert {"numbers_per_s", "ready_s", "rss_mb", "change_visible_ms"} <= facts.keys()
    assert [change["verdict"] for change in facts["changes"]] == ["OPTED_OUT", "CLEARED"]
    assert list(folder.iterdir()) == []


def test_a_feed_of_ones_own_is_used_and_not_replaced(start, folder):
    arguments = ("demo", *SMALL, "--feed", "dir:mine")
    first = start(*arguments)
    stdout, _ = first.communicate(timeout=120)
    assert first.returncode == 0
    assert b"wrong       0" in stdout
    assert b"made-up people" in stdout
    second = start(*arguments)
    _, stderr = second.communicate(timeout=120)
    assert second.returncode == 1
    assert b"--force" in stderr
    third = start(*arguments, "--force")
    third.communicate(timeout=120)
    assert third.returncode == 0


def child_of(process) -> str:
    """The process that *process* started, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        for child in children.read_text().split():
            if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    raise AssertionError(process.stderr.read().decode())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_takes_server_and_folder_along(start, folder, number, code):
    process = start("demo", *SMALL)
    server = child_of(process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert not Path(f"/proc/{server}").exists()
    assert list(folder.iterdir()) == []


def test_a_server_that_cannot_start_is_told(start, folder, monkeypatch):
    monkeypatch.setenv("NDOO_PREFIX", "not valid!")
    process = start("demo", *SMALL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"NDOO_PREFIX" in stderr
    assert list(folder.iterdir()) == []
