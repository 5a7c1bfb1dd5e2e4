"""Machine code: kept where it can be, made anew where it cannot, never that of another source."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from llvmlite import binding
from numba.core import caching, config, event
from numba.core.errors import TypingError

from ndoo.register import compiled
from ndoo.register.compiled import LEVELS, best_level

SOURCE = """
from ndoo.register.compiled import compiled

@compiled("int64(int64)", nogil=True)
def worked_out(number):
    return number * {factor}
"""
_NAMES = (f"compiled_{number}" for number in itertools.count())

Load = Callable[[], int]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports module.py as a new process would, proves its answer, tells how much was compiled."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    write(tmp_path, 2)
    return lambda: compilations(tmp_path / "module.py")


@pytest.fixture(params=["numba decides", "a level is in use"])
def load_either(
    load: Load, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Load:
    """The same, once as in a checkout and once as in an image."""
    if request.param == "a level is in use":
        monkeypatch.setattr(config, "CPU_NAME", binding.get_host_cpu_name())
        monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "ndoo.register.compiled.KeptCode")
    return load


def write(folder: Path, factor: int) -> None:
    (folder / "module.py").write_text(SOURCE.format(factor=factor))


def compilations(path: Path) -> int:
    spec = importlib.util.spec_from_file_location(next(_NAMES), path)
    module = importlib.util.module_from_spec(spec)
    with event.install_recorder("numba:compile") as recorded:
        spec.loader.exec_module(module)
    assert module.worked_out(21) == 21 * int(path.read_text().split()[-1])
    return sum(each.is_start for _, each in recorded.buffer)


def test_compiled_once_and_kept_beside_the_source(load_either: Load, tmp_path: Path):
    assert [load_either(), load_either()] == [1, 0]
    assert list((tmp_path / "__pycache__").rglob("*.nbc"))


def test_another_source_is_compiled_anew(load_either: Load, tmp_path: Path):
    load_either()
    write(tmp_path, 3)
    assert load_either() == 1


def test_another_source_of_the_same_moment_and_length_is_compiled_anew(
    load_either: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As packages are whose files all bear one moment."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    load_either()
    path = tmp_path / "module.py"
    moment = path.stat().st_mtime_ns
    write(tmp_path, 3)
    os.utime(path, ns=(moment, moment))
    caching._hash_source_file.cache_clear()  # as in a new process
    assert load_either() == 1


def test_kept_for_the_user_where_the_source_cannot_be_written_beside(load: Load, tmp_path: Path):
    (tmp_path / "__pycache__").touch()
    assert [load(), load()] == [1, 0]


def test_compiled_in_memory_where_nothing_can_be_written(load_either: Load, tmp_path: Path):
    for place in ("__pycache__", "home"):
        (tmp_path / place).touch()
    assert [load_either(), load_either()] == [1, 1]


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"neither code nor an index of it"])
def test_damaged_files_cost_time_and_nothing_else(
    load_either: Load, tmp_path: Path, kind: str, damage: bytes
):
    load_either()
    (path,) = (tmp_path / "__pycache__").rglob(f"*.{kind}")
    path.write_bytes(damage)
    assert load_either() == 1


def test_a_fault_of_the_source_is_told(load: Load, tmp_path: Path):
    source = (tmp_path / "module.py").read_text().replace("number *", "nothing *")
    (tmp_path / "module.py").write_text(source)
    with pytest.raises(TypingError):
        load()


@pytest.mark.skipif("x86-64" not in LEVELS, reason="there are no levels on this processor")
def test_the_best_level_that_the_processor_knows():
    version_3 = LEVELS["x86-64-v3"]
    everything = LEVELS["x86-64-v4"] | {"avx10.2", "amx-tile"}
    assert list(LEVELS) == ["x86-64-v4", "x86-64-v3", "x86-64"]
    assert best_level(LEVELS, everything) == "x86-64-v4"
    assert best_level(LEVELS, version_3) == "x86-64-v3"
    assert best_level(LEVELS, []) == "x86-64"
    assert best_level(["x86-64-v4"], version_3) is None
    assert best_level(["x86-64-v3", "x86-64"], everything) == "x86-64-v3"
    assert best_level([], everything) is None


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_not_chosen_for_want_of_one_feature(level: str):
    needs = LEVELS[level]
    assert best_level([level], needs) == level
    assert {best_level([level], needs - {feature}) for feature in needs} <= {None}


def test_where_nothing_is_kept_numba_decides():
    """As in a checkout, where these tests run."""
    assert config.CPU_NAME is None
    assert not config.CACHE_LOCATOR_CLASSES


@pytest.mark.parametrize("level", LEVELS)
def test_code_of_a_level_that_is_not_as_it_was_made_is_passed_over(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Numba looks at none of it: code with a bit changed has cleared people who opted out."""
    monkeypatch.setattr(compiled, "_KEPT", tmp_path)
    folder = tmp_path / level
    folder.mkdir()
    whole = {"kernel.check-1.py311.nbi": b"an index", "kernel.check-1.py311.1.nbc": b"code"}

    def is_kept_with(files: dict[str, bytes]) -> bool:
        for path in folder.glob("*.nb?"):
            path.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return compiled._is_kept(level)

    assert not is_kept_with(whole)
    assert compiled._seal(level)
    assert is_kept_with(whole)
    for name, content in whole.items():
        for bit in range(8 * len(content)):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            assert not is_kept_with({**whole, name: bytes(changed)})
        assert not is_kept_with({name: content})
    assert not is_kept_with({**whole, "more.nbc": b""})
    assert not is_kept_with({})


@pytest.mark.parametrize(("status", "is_kept"), [(1, True), (0, False)])
def test_a_level_that_is_not_made_or_not_kept_fails_the_build(
    status: int, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for level in LEVELS if is_kept else ():
        (tmp_path / level).mkdir()
        (tmp_path / level / "kernel.1.nbc").touch()
    ended = SimpleNamespace(wait=lambda: status)
    monkeypatch.setattr(compiled, "_KEPT", tmp_path)
    monkeypatch.setattr(compiled, "_compiler", lambda _level: ended)
    with pytest.raises(SystemExit, match="No machine code could be made for "):
        compiled.keep_all()
