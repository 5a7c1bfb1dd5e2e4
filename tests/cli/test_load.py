"""`ndoo load`: what it compares, keeps, refuses and publishes."""

from __future__ import annotations

import datetime as dt

import pytest

from client.people import valid_numbers
from ndoo.feed.url import open_feed
from ndoo.publish.fold import fold

NUMBERS = [f"{number:010d}" for number in valid_numbers(120).tolist()]
PLACE = NUMBERS[:100]
FEED = "dir:feed"


def write(path, numbers):
    path.write_text("".join(f"{number}\n" for number in numbers))
    return path.name


def register():
    feed = open_feed(FEED)
    try:
        return fold(feed).register
    finally:
        feed.close()


def holds(numbers):
    return sorted(register().keys().tolist()) == sorted(int(number) // 10 for number in numbers)


def row(stdout, name):
    (line,) = [line for line in stdout.splitlines() if line.startswith(name)]
    return [int(cell.replace(",", "")) for cell in line.removeprefix(name).split()]


@pytest.fixture
def loaded(run, tmp_path):
    result = run("load", write(tmp_path / "place.dat", PLACE), "--feed", FEED)
    assert result.exit_code == 0, result.stderr
    return result


def test_counts_go_both_ways_and_are_told_before_the_switch(run, loaded, tmp_path):
    run("record", "opt_out", NUMBERS[110], "--feed", FEED)
    source = write(tmp_path / "source.dat", [*PLACE[2:], *NUMBERS[100:105]])
    result = run("load", source, "--feed", FEED)
    assert result.exit_code == 0, result.stderr
    assert row(result.stdout, "9 ") == row(result.stdout, "All") == [98, 5, 2, 1]
    assert result.stdout.index("All") < result.stdout.index("Loaded")
    assert "--drawn-at" in result.stderr
    assert holds([*PLACE[2:], *NUMBERS[100:105], NUMBERS[110]])


def test_the_first_load_has_nothing_to_compare_with(loaded):
    assert loaded.stdout.splitlines()[0] == "Loaded 100 opt-outs."
    assert loaded.stderr == ""


@pytest.mark.parametrize("how", [(), ("--reconcile",)])
def test_a_dry_run_changes_nothing(run, loaded, tmp_path, how):
    before = register().revision
    source = write(tmp_path / "source.dat", [*PLACE[1:], NUMBERS[101]])
    result = run("load", source, "--feed", FEED, "--dry-run", *how)
    assert result.exit_code == 0, result.stderr
    assert row(result.stdout, "All") == [99, 1, 1, 0]
    assert register().revision == before


def test_reconciling_publishes_the_differences(run, loaded, tmp_path):
    generation = register().revision.generation
    source = write(tmp_path / "source.dat", [*PLACE[1:], NUMBERS[101]])
    result = run("load", source, "--feed", FEED, "--reconcile")
    assert result.exit_code == 0, result.stderr
    assert "People opted out: 1; released: 1." in result.stdout
    assert (register().revision.generation, register().revision.seq) == (generation, 2)
    assert holds([*PLACE[1:], NUMBERS[101]])


@pytest.mark.parametrize("how", [(), ("--reconcile",), ("--dry-run",)])
def test_a_jump_needs_a_word(run, loaded, tmp_path, how):
    source = write(tmp_path / "source.dat", [*PLACE[3:], *NUMBERS[100:103]])
    result = run("load", source, "--feed", FEED, *how)
    assert (result.exit_code, row(result.stdout, "All")) == (1, [97, 3, 3, 0])
    assert "--accept-jump" in result.stderr
    assert holds(PLACE)
    for word in (("--jump-max", "0.03"), ("--accept-jump",)):
        assert run("load", source, "--feed", FEED, *how, *word).exit_code == 0


def test_no_word_loads_an_empty_source(run, loaded, tmp_path):
    (tmp_path / "empty.dat").write_text("\n")
    for how in ((), ("--reconcile",)):
        result = run("load", "empty.dat", "--feed", FEED, "--accept-jump", *how)
        assert (result.exit_code, result.stdout) == (1, "")
    assert holds(PLACE)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--drawn-at", (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat("T", "seconds")),
        ("--drawn-at", "2026-03-01"),
        ("--drawn-at", "2026-03-01T09:30:00"),
        ("--jump-max", "2"),
        ("--jump-max", "-1"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(run, loaded, option, text):
    result = run("load", "place.dat", "--feed", FEED, option, text)
    assert (result.exit_code, holds(PLACE)) == (2, True)


def test_a_source_from_before_the_feeds_time_is_refused(run, loaded):
    result = run("load", "place.dat", "--feed", FEED, "--drawn-at", "2020-01-01T00:00:00Z")
    assert result.exit_code == 1
    assert "2020-01-01T00:00:00Z" in result.stderr
    assert "draw it anew" in result.stderr


def test_no_number_is_told(run, loaded, tmp_path):
    source = write(tmp_path / "source.dat", NUMBERS[1:101])
    for how in (("--dry-run",), ("--reconcile",), ()):
        result = run("load", source, "--feed", FEED, *how)
        assert "99900" not in result.stdout + result.stderr
