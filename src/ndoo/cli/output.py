"""Files and folders that appear whole or not at all.

Content goes to a temporary file or folder beside the target, readable by its owner alone, and takes
the target's name when everything is known to be right. Whatever ends earlier leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ndoo.errors import InputError


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise InputError if *path* cannot become a new file, or is one and *force* is not given.

    What is neither a file nor absent (a device, a pipe, a link to nothing) is never replaced.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no folder {path.parent}; make it first.")
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"{path} is not an ordinary file; name one that is, or a new one.")
    if path.exists() and not force:
        raise InputError(f"{path} exists already; say --force to replace it.")


def refuse_existing_folder(path: Path) -> None:
    """Raise InputError if *path* cannot become a new folder. One that exists is never replaced."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already, and folders are not replaced; name a new one.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no folder {path.parent}; make it first.")


class Made(Protocol):
    """Output in the making."""

    def part(self, name: Path | None, /) -> contextlib.AbstractContextManager[BinaryIO]:
        """Where one file of it is written, its only one if *name* is None."""

    def settle(self) -> None:
        """Put all of it on the disk. Raises OSError or InputError, and nothing has appeared."""

    def publish(self) -> None:
        """Let all of it appear."""


class WholeFile:
    """A file in the making. `settle` it when all is written, then `publish` gives it its name."""

    def __init__(self, target: Path, temporary: Path, file: BinaryIO, *, force: bool) -> None:
        self._target = target
        self._temporary = temporary
        self._force = force
        self.file = file

    def settle(self) -> None:
        """Put all of it on the disk. Raises OSError or InputError, and nothing has appeared."""
        self.file.flush()
        os.fsync(self.file.fileno())
        refuse_existing(self._target, force=self._force)

    def publish(self) -> None:
        """Let the file appear."""
        self._temporary.replace(self._target)

    @contextlib.contextmanager
    def part(self, _name: Path | None) -> Iterator[BinaryIO]:
        """Where the one part of it is written."""
        yield self.file


@contextlib.contextmanager
def whole_file(target: Path, *, force: bool) -> Iterator[WholeFile]:
    """A file that becomes *target* when it is published, and is removed if it never is."""
    refuse_existing(target, force=force)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=".part", dir=target.parent
    )
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor has no path)
            yield WholeFile(target, temporary, file, force=force)
    finally:
        temporary.unlink(missing_ok=True)


class Spool:
    """Output for a pipe, held back until `publish` copies all of it."""

    def __init__(self, file: BinaryIO, pipe: BinaryIO) -> None:
        self.file = file
        self._pipe = pipe

    def settle(self) -> None:
        """Raises OSError while nothing has been passed on yet."""
        self.file.flush()

    def publish(self) -> None:
        self.file.seek(0)
        shutil.copyfileobj(self.file, self._pipe)
        self._pipe.flush()

    @contextlib.contextmanager
    def part(self, _name: Path | None) -> Iterator[BinaryIO]:
        """Where the one part of it is written."""
        yield self.file


@contextlib.contextmanager
def spool(pipe: BinaryIO) -> Iterator[Spool]:
    """Output that reaches *pipe* whole or not at all."""
    with tempfile.TemporaryFile() as file:
        yield Spool(file, pipe)


class WholeFolder:
    """A folder in the making, with files in it."""

    def __init__(self, target: Path, temporary: Path) -> None:
        self._target = target
        self._temporary = temporary

    @contextlib.contextmanager
    def part(self, name: Path | None) -> Iterator[BinaryIO]:
        """A new file in it, which is on the disk after the block. Raises OSError."""
        path = self._temporary / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def settle(self) -> None:
        """Raises InputError if its name is taken meanwhile."""
        refuse_existing_folder(self._target)

    def publish(self) -> None:
        """Let the folder appear."""
        self._temporary.rename(self._target)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[WholeFolder]:
    """A folder that becomes *target* when it is published, and is removed if it never is."""
    refuse_existing_folder(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield WholeFolder(target, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
