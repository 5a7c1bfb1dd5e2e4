"""Lists of NHS numbers in files: opened with care, read in blocks of bounded memory."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from ndoo.cli.block import Rows
from ndoo.cli.rows_csv import CsvRows
from ndoo.cli.rows_exchange import ExchangeRows
from ndoo.errors import InputError

_BEGINNING_BYTES = 64
_FOREIGN_BEGINNINGS = {
    b"\x1f\x8b": "is compressed with gzip; decompress it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; extract it, or save it as CSV, first",
    b"BZh": "is compressed with bzip2; decompress it first",
    b"\xfd7zXZ": "is compressed with xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8 first",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8 first",
    b"PAR1": "is a Parquet file; write the numbers to a CSV file first",
}


@contextlib.contextmanager
def open_list(path: str) -> Iterator[io.BufferedReader]:
    """The file at *path*, or standard input for "-".

    Raises InputError if it is not there, not readable, empty, or no plain text.
    """
    with opened(path) as file:
        refuse_foreign(file, shown(path))
        yield file


def shown(path: str) -> str:
    """How to speak of the file at *path*."""
    return "Standard input" if path == "-" else path


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """The file at *path*, or standard input for "-", whatever it holds. Raises InputError."""
    if path == "-":
        yield cast("io.BufferedReader", sys.stdin.buffer)
        return
    with _open(path) as file:
        yield file


def _open(path: str) -> io.BufferedReader:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a file in it.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read by this user.") from None


def refuse_foreign(file: io.BufferedReader, name: str) -> None:
    """Raise InputError if *file*, spoken of by *name*, is empty or no plain text."""
    beginning = file.peek(_BEGINNING_BYTES)
    if not beginning:
        raise InputError(f"{name} is empty.")
    for bytes_, what in _FOREIGN_BEGINNINGS.items():
        if beginning.startswith(bytes_):
            raise InputError(f"{name} {what}.")
    if b"\0" in beginning:
        raise InputError(f"{name} is not plain text; save it as UTF-8 text first.")


def read_rows(file: io.BufferedReader, column: str | None) -> Rows:
    """The rows of *file*: in the exchange format, or of CSV if a *column* is named.

    Raises InputError.
    """
    return ExchangeRows(file) if column is None else CsvRows(file, column)
