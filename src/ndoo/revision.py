"""Which state of the register an answer is true for: a generation and a sequence number.

A generation is the identity of one continuous history; only a full load from the source starts a
new one. Within it every change adds one to the sequence number. Callers see a revision as an
opaque token, which carries the generation too: a position alone would mean another state in
another history. It carries a checksum as well: a token that lost its last characters on the way
would otherwise name an earlier revision, and be reached at once.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
import zlib
from dataclasses import dataclass

from ndoo.errors import BadToken

SEQ_MAX = 2**63 - 1

_GENERATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN_BODY = re.compile(r"1:([A-Za-z0-9_-]{1,64}):(0|[1-9][0-9]{0,18}):[0-9a-f]{8}")
_TOKEN_CHARS_MAX = 128


def is_generation(text: str) -> bool:
    """Whether *text* can name a generation: 1 to 64 ASCII letters, digits, hyphens, underscores."""
    return _GENERATION.fullmatch(text) is not None


def new_generation() -> str:
    """A name that no other history has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the register: the one after change number *seq* of *generation*."""

    generation: str
    seq: int

    def __post_init__(self) -> None:
        if not is_generation(self.generation):
            raise ValueError("a generation is 1 to 64 letters, digits, hyphens or underscores")
        if not 0 <= self.seq <= SEQ_MAX:
            raise ValueError("a sequence number lies between 0 and 2^63 - 1")

    @property
    def token(self) -> str:
        """The revision as callers see it: opaque, printable, safe in a header or a URL."""
        body = f"1:{self.generation}:{self.seq}"
        body += f":{zlib.crc32(body.encode()):08x}"
        return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")

    @classmethod
    def from_token(cls, token: str) -> Revision:
        """The revision that *token* stands for. Raises BadToken if it is not one of ours."""
        if len(token) <= _TOKEN_CHARS_MAX and token.isascii():
            try:
                padded = token + "=" * (-len(token) % 4)
                body = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
            except (binascii.Error, ValueError):
                body = ""
            match = _TOKEN_BODY.fullmatch(body)
            if match and int(match[2]) <= SEQ_MAX:
                revision = cls(match[1], int(match[2]))
                if revision.token == token:
                    return revision
        raise BadToken("This is not a revision token; use one that an answer of this service gave.")
