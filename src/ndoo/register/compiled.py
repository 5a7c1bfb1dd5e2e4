"""Functions as machine code, and where that is kept.

Compiling takes seconds, so numba keeps what it made beside the source, in `__pycache__`, or in the
user's cache. Where neither can be written, code is compiled in memory: that costs time at each
start, never the start.

An image is built on one processor and runs on many, as a user who may write nothing. For it,
`python -m ndoo.register.compiled` makes the code of a few levels of processors beforehand. A
process that finds such code runs the best level that its processor knows, and never looks at the
others. Code that is not as it was made is passed over. Numba itself compares its version and the
digest of the source with those that code was made of: that of another source is not run.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numba as nb
from llvmlite import binding
from numba.core import config
from numba.core.caching import InTreeCacheLocator

_KEPT = Path(__file__).with_name("__pycache__")
_SEAL = "sha256"
_V3_NEEDS = frozenset(
    {"sse3", "ssse3", "sse4.1", "sse4.2", "crc32", "popcnt", "cx16", "sahf"}
    | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
)
_V4_NEEDS = _V3_NEEDS | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

LEVELS: dict[str, frozenset[str]] = {
    "x86_64": {"x86-64-v4": _V4_NEEDS, "x86-64-v3": _V3_NEEDS, "x86-64": frozenset[str]()},
    "aarch64": {"generic": frozenset[str]()},
}.get(platform.machine(), {})
"""The levels that code is made for here, best first, with the features that each takes for granted.

Names are LLVM's; what an x86-64 level comprises is written in the System V ABI. Every processor of
the architecture knows the last.
"""


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Have numba compile a function for *signature*, with *options*, or load what it once made.

    What is loaded was made of the same file; if that calls into others, their digests stand in it.
    """

    def compile_or_load(function: Callable[..., Any]) -> Any:
        try:
            return nb.njit(signature, cache=True, **options)(function)
        except Exception:  # noqa: BLE001  (damaged files raise anything; a fault of ours comes again)
            return nb.njit(signature, **options)(function)

    return compile_or_load


class KeptCode(InTreeCacheLocator):  # type: ignore[misc]
    """Tells numba that code is beside its source, in a folder of the level in use.

    Numba's own locators want to write there, even when all that they will do is read.
    """

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> KeptCode:
        return cls(function, source)

    def get_cache_path(self) -> str:
        return str(Path(super().get_cache_path(), config.CPU_NAME))


def best_level(kept: Collection[str], features: Collection[str]) -> str | None:
    """The best level among *kept* that a processor with *features* knows; None if there is none."""
    known = (level for level, needs in LEVELS.items() if level in kept and needs <= {*features})
    return next(known, None)


def use(level: str) -> None:
    """Make and look for code of *level* from here on; call it before anything is compiled."""
    config.CPU_NAME, config.CPU_FEATURES = level, ""
    config.CACHE_LOCATOR_CLASSES = f"{KeptCode.__module__}.{KeptCode.__name__}"


def _use_best() -> None:
    """Leave everything to numba where nothing is kept, or it was told the processor."""
    kept = [level for level in LEVELS if _is_kept(level)]
    known = [name for name, is_known in binding.get_host_cpu_features().items() if is_known]
    level = best_level(kept, known)
    if level is not None and config.CPU_NAME is None:
        use(level)


def keep_all() -> None:
    """Compile everything for each level, all at once. Raises SystemExit if any is not kept."""
    compilers = {level: _compiler(level) for level in LEVELS}
    failed = [level for level, each in compilers.items() if each.wait() or not _seal(level)]
    if failed:
        sys.exit(f"No machine code could be made for {' and '.join(failed)}; see the error above.")


def _seal(level: str) -> bool:
    """Write down the digest of what was made for *level*; False if that is nothing."""
    folder = _KEPT / level
    if not any(folder.glob("*.nbc")):
        return False
    (folder / _SEAL).write_text(_digest(folder), "ascii")
    return True


def _is_kept(level: str) -> bool:
    """Whether the code of *level* is there as it was made. Numba would run it with a bit changed,
    and that can clear anybody.
    """
    folder = _KEPT / level
    try:
        return (folder / _SEAL).read_bytes() == _digest(folder).encode()
    except OSError:
        return False


def _digest(folder: Path) -> str:
    files = sorted(folder.glob("*.nb[ci]"))
    told = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _compiler(level: str) -> subprocess.Popen[bytes]:
    """A process of its own, since numba is told its processor once."""
    make = f"from ndoo.register.compiled import use; use('{level}'); import ndoo.register.sets"
    return subprocess.Popen([sys.executable, "-c", make])  # noqa: S603  (our own words)


if __name__ == "__main__":
    keep_all()
else:
    _use_best()
