"""Which files `ndoo check` reads, and where it writes: nothing is overwritten that is read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ndoo.cli.output import refuse_existing, refuse_existing_folder
from ndoo.errors import InputError

STANDARD = "-"
_NOT_DATA = ("_", ".")
"""How names begin that engines give to what lies beside their data: _SUCCESS, .part-0.crc."""


_ENDINGS = {
    ".csv": "text", ".dat": "text", ".txt": "text",
    ".parquet": "Parquet", ".pq": "Parquet",
    ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files to be read, in order; of several, *names* are those they are written under."""

    paths: tuple[str, ...]
    names: tuple[Path, ...] = ()

    @classmethod
    def found(cls, given: str) -> Inputs:
        """One file, all files of a folder, those that a pattern matches, or standard input.

        Raises InputError if there is none.
        """
        path = Path(given)
        if path.is_dir():
            return cls._under(path, sorted(_files_of(path)))
        if given != STANDARD and not os.path.lexists(path) and glob.has_magic(given):
            matching = sorted(glob.glob(given, recursive=True))  # noqa: PTH207  (takes no hidden files)
            return cls._under(
                _plain_part(path), [Path(m) for m in matching if not Path(m).is_dir()]
            )
        return cls((given,))

    @classmethod
    def _under(cls, root: Path, files: list[Path]) -> Inputs:
        if not files:
            raise InputError("There is no file in that folder, or none that matches.")
        return cls(tuple(map(str, files)), tuple(file.relative_to(root) for file in files))

    @property
    def are_many(self) -> bool:
        """Whether the output is a folder."""
        return bool(self.names)

    def size(self) -> int:
        """How long they are together, in bytes; 0 if that cannot be known."""
        return sum(map(bytes_of, self.paths))


def bytes_of(path: str) -> int:
    """How long the file at *path* is; 0 if that cannot be known."""
    return Path(path).stat().st_size if Path(path).is_file() else 0


def _files_of(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(_NOT_DATA):
            continue
        if path.is_dir():
            if path.is_symlink():
                raise InputError(f"{path} is a link to a folder; name that folder itself.")
            yield from _files_of(path)
        else:
            yield path


def _plain_part(pattern: Path) -> Path:
    """The folder that *pattern* begins with, before anything in it is a wildcard."""
    parts = pattern.parts
    wild = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def refuse_clash(
    given: str, inputs: Inputs, output: Path | None, report: Path | None, *, force: bool
) -> None:
    """Raise InputError if something is in the way of *output* or *report*, or they of the input."""
    if output is not None and inputs.are_many:
        refuse_existing_folder(output)
        if _is_within(output, given):
            raise InputError("The output would lie in the folder that is read; name one outside.")
    elif output is not None:
        refuse_existing(output, force=force)
        endings = {_ENDINGS.get(path.suffix.lower(), "") for path in (Path(given), output)}
        if len(endings - {""}) > 1:
            raise InputError("OUT gets the format of IN; name it with the same ending.")
    if report is not None:
        refuse_existing(report, force=force)
    named: Iterable[str | Path] = [*inputs.paths, *filter(None, (output, report))]
    real = [os.path.realpath(path) for path in named]
    read, written = real[: len(inputs.paths)], real[len(inputs.paths) :]
    if len(set(written)) < len(written) or set(read) & set(written):
        raise InputError("The file, its output and its report must be different files.")


def _is_within(output: Path, given: str) -> bool:
    folder = Path(given)
    return folder.is_dir() and folder.resolve() in output.resolve().parents
