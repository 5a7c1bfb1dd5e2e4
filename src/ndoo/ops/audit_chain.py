"""How audit records hold together: each names the hash of the one before it, and carries its own.

A record is a line with a JSON object,

    {"n":7,"prev":"…","kind":"call","at":"…", … ,"hash":"…"}

where `n` counts the records, `prev` is the hash of the record before, and `hash` the SHA-256 of all
that stands before it in the line. So a record that was changed does not fit its own hash, and one
that was removed, put in or moved does not fit its neighbours.

Hashes are written in the letters a to p, one for each hexadecimal digit, and the number in a head
in groups of three: a run of digits could be taken for an NHS number, and be hidden in a log.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ndoo.errors import InputError

FILE = "file"
"""The first record of each file."""

STARTED = "started"
"""A process began to write."""

CALL = "call"
"""A call or stream has ended."""

TORN = "torn"
"""What stands between the last whole record and this one was cut short; says how long that is."""

LOST = "lost"
"""Records could not be kept for a while; says how many."""

CUT = b"~"
"""Stands after a piece of a record: with this at its end none is ever taken for a whole one."""

FORMAT = 1

_TO_LETTERS = str.maketrans(string.hexdigits[:16], "abcdefghijklmnop")
_HEAD = re.compile(r"([1-9][0-9]{0,2}(?:_[0-9]{3}){0,6}):([a-p]{64})")
_LINE = re.compile(
    rb'(\{"n":([1-9][0-9]{0,18}),"prev":"([a-p]{64})","kind":"([a-z]+)","at":"([^"]+)".*)'
    rb',"hash":"([a-p]{64})"\}\n',
    re.DOTALL,
)
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Head:
    """The record that stands last: its number and its hash. It proves all that stand before it."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number:_}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head that was written as *text*. Raises InputError."""
        match = _HEAD.fullmatch(text)
        if match is None:
            raise InputError("A head is NUMBER:HASH, with 64 letters from a to p for the hash.")
        return cls(int(match[1]), match[2])


BEGINNING = Head(0, "a" * 64)
"""What the very first record follows."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record as it stands in a file, proven to be as it was written."""

    line: bytes
    head: Head
    previous: str
    kind: str
    at: str

    @property
    def fields(self) -> dict[str, Any]:
        """All of the record. Raises ValueError."""
        fields: dict[str, Any] = json.loads(self.line)
        return fields


def seal(last: Head, kind: str, at: float, fields: Mapping[str, object]) -> tuple[bytes, Head]:
    """The line of a record of *kind* that follows *last*, and the head it makes.

    *at* is Unix seconds; *fields* are what else it says.
    """
    number = last.number + 1
    told = {"n": number, "prev": last.digest, "kind": kind, "at": rfc_3339(at), **fields}
    body = _encode(told)[:-1].encode()
    digest = digest_of(body)
    return b'%b,"hash":"%b"}\n' % (body, digest.encode()), Head(number, digest)


def read(line: bytes) -> Sealed | None:
    """The record in *line*, given with its newline; None if it is not one as it was written."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    body, number, previous, kind, at, digest = match.groups()
    if digest_of(body) != digest.decode():
        return None
    head = Head(int(number), digest.decode())
    return Sealed(line, head, previous.decode(), kind.decode(), at.decode(errors="replace"))


def digest_of(raw: bytes) -> str:
    """The SHA-256 of *raw* in letters."""
    return in_letters(hashlib.sha256(raw).hexdigest())


def in_letters(hexadecimal: str) -> str:
    return hexadecimal.translate(_TO_LETTERS)


def rfc_3339(moment: float) -> str:
    """*moment* (Unix seconds) in UTC, to the microsecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
