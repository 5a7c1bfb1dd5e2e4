"""Small files that somebody wrote by hand."""

from __future__ import annotations

from pathlib import Path

from ndoo.errors import InputError


def read_small(path: Path, bytes_max: int) -> bytes:
    """All of the file at *path*. Raises InputError if it cannot be read, or is longer."""
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if len(raw) > bytes_max:
        raise InputError(f"{path} is longer than {bytes_max:,} bytes.")
    return raw
