"""A small file that is replaced whole."""

from __future__ import annotations

import contextlib
import os

_TEMPORARY = ".tmp"


def temporary(name: str) -> str:
    """What the file *name* is called until it is whole."""
    return name + _TEMPORARY


def whole(name: str) -> str:
    """What the file with the temporary *name* will be called; *name* itself if it is none."""
    return name.removesuffix(_TEMPORARY)


def put(directory: int, name: str, raw: bytes, mode: int) -> None:
    """Put a file in place in the open *directory*, durably: it is there with all of *raw*, or as it
    was, wherever this ends. Raises OSError.
    """
    new = temporary(name)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(new, flags, mode, dir_fd=directory), "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):  # it may be what fills the disk
            os.unlink(new, dir_fd=directory)
        raise
    os.fsync(directory)
