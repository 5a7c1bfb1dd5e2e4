"""Revision tokens: one text for each revision, and nothing else is taken for one."""

from __future__ import annotations

import base64
import contextlib
import re
import zlib
from string import ascii_letters, digits

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.settings import CORE
from ndoo.errors import BadToken
from ndoo.revision import SEQ_MAX, Revision, is_generation, new_generation

GENERATIONS = st.from_regex(re.compile(r"[A-Za-z0-9_-]{1,64}"), fullmatch=True)
REVISIONS = st.builds(Revision, GENERATIONS, st.integers(0, SEQ_MAX))
ALPHABET = ascii_letters + digits + "-_"


def token_of(body: str | bytes) -> str:
    """A token with the checksum that belongs to *body*, whatever that says."""
    raw = body.encode() if isinstance(body, str) else body
    raw += f":{zlib.crc32(raw):08x}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@CORE
@given(REVISIONS)
@example(Revision("g" * 64, SEQ_MAX))
@example(Revision("-", 0))
def test_tokens_round_trip(revision: Revision):
    token = revision.token
    assert Revision.from_token(token) == revision
    assert set(token) <= set(ALPHABET)
    assert len(token) <= 128


@CORE
@given(REVISIONS, REVISIONS)
def test_two_revisions_have_two_tokens(one: Revision, other: Revision):
    assert (one == other) == (one.token == other.token)


@CORE
@given(REVISIONS, st.data())
def test_an_altered_token_is_refused(revision: Revision, data: st.DataObject):
    token = revision.token
    place = data.draw(st.integers(0, len(token) - 1))
    kind = data.draw(st.sampled_from(["replace", "drop", "insert", "cut"]))
    char = data.draw(st.sampled_from(ALPHABET))
    before, at, after = token[:place], token[place], token[place + 1 :]
    altered = {
        "replace": before + char + after,
        "drop": before + after,
        "insert": before + char + at + after,
        "cut": before,
    }[kind]
    if altered != token:
        with pytest.raises(BadToken):
            Revision.from_token(altered)


BODY = "1:generation:41"
BAD = [
    "",
    "=",
    "AAAA",
    token_of(BODY) + "=",
    token_of(BODY) + "==",
    " " + token_of(BODY),
    token_of(BODY) + "\n",
    token_of(BODY) + "\x00",
    token_of(BODY)[:-1],
    token_of(BODY) + "A",
    BODY,
    token_of("2:generation:41"),
    token_of("0:generation:41"),
    token_of("generation:41"),
    token_of("1:generation:041"),
    token_of("1:generation:+41"),
    token_of("1:generation:-1"),
    token_of("1:generation:4_1"),
    token_of("1:generation: 41"),
    token_of("1:generation:41 "),
    token_of("1:generation:41\n"),
    token_of("1:generation:"),
    token_of("1::41"),
    token_of("1:gener ation:41"),
    token_of("1:gener:ation:41"),
    token_of("1:générations:41"),
    token_of("1:generation:\uff14\uff11"),
    token_of(b"1:gener\xff:41"),
    token_of(f"1:generation:{SEQ_MAX + 1}"),
    token_of(f"1:generation:{10**19}"),
    token_of(f"1:generation:{'9' * 50}"),
    token_of(f"1:{'g' * 65}:41"),
    "A" * 129,
    "A" * 1_000_000,
    "é" * 20,
    "\ud800",
    token_of(BODY)[:-1] + "\uff21",
    base64.urlsafe_b64encode(BODY.encode()).decode().rstrip("="),
    base64.urlsafe_b64encode(f"{BODY}:00000000".encode()).decode().rstrip("="),
    "9990000026",
]


def test_the_form_of_a_token():
    assert Revision("generation", 41).token == token_of(BODY)


@pytest.mark.parametrize("token", BAD, ids=lambda token: ascii(token)[:24])
def test_what_is_no_token_is_refused(token: str):
    with pytest.raises(BadToken) as refused:
        Revision.from_token(token)
    assert not token or token not in str(refused.value)


def test_there_is_one_spelling_of_a_token():
    # Base64 leaves bits of the last character unused, which decoders pass over.
    token = Revision("generation", 5).token
    assert len(token) % 4, "this token has no unused bits"
    others = [token[:-1] + char for char in ALPHABET if char != token[-1]]
    for spelling in (*others, token + "=" * (-len(token) % 4)):
        with pytest.raises(BadToken):
            Revision.from_token(spelling)


@CORE
@given(st.text(max_size=140) | st.text(ALPHABET + "=+/", max_size=140) | st.binary().map(token_of))
def test_any_text_is_a_token_or_refused(text: str):
    with contextlib.suppress(BadToken):
        assert Revision.from_token(text).token == text


@pytest.mark.parametrize(
    ("generation", "seq"),
    [("", 0), ("a b", 0), ("a:b", 0), ("a\n", 0), ("é", 0), ("g" * 65, 0), ("g", -1), ("g", 2**63)],
)
def test_what_is_no_revision_cannot_be_made(generation: str, seq: int):
    with pytest.raises(ValueError, match=r"generation|sequence"):
        Revision(generation, seq)


def test_new_generations_are_usable_and_differ():
    names = {new_generation() for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_generation, names))
