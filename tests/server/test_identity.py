"""A caller is the one client that all it shows names, or nobody."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ndoo.server.caller import Caller
from ndoo.server.identity import identify
from ndoo.server.policy import read_policy
from ndoo.server.status import NotIdentified
from ndoo.server.tokens import Tokens, read_keys
from support.policies import ABSENT, TOKENS, URI, client, write_policy
from support.tokens import NOW, Signer, write_keys

SIGNER = Signer()
CLIENTS = {
    "one": client(certificate_names=[URI.format("one"), "DNS:one.example"], token_subjects=["1"]),
    "two": client(certificate_names=["email:two@example"], token_subjects=["2"]),
    "three": client(certificate_names=ABSENT, token_subjects=["3"]),
}
NAMES = {
    URI.format("one"): "one",
    "DNS:one.example": "one",
    "email:two@example": "two",
    "DNS:two@example": None,  # the name of another, as another kind of name
    "URI:one.example": None,
    "DNS:ONE.example": None,
    "DNS:one.example.": None,
    "DNS:": None,
    "": None,
    "subject:CN=one": None,
}
SUBJECTS = {"1": "one", "2": "two", "3": "three", "one": None, "9": None}


def name_of(path: Path, names: tuple[str, ...], token: str) -> str | None:
    policy = read_policy(write_policy(path / "clients.toml", CLIENTS, TOKENS))
    tokens = Tokens(policy.tokens, read_keys(write_keys(path / "jwks.json", SIGNER.jwk())))
    caller = Caller("peer", "id", names=names, token=token)
    try:
        return identify(caller, policy, tokens, NOW).name
    except NotIdentified:
        return None


@pytest.mark.parametrize(
    "names", [(), *itertools.combinations(NAMES, 1), *itertools.combinations(NAMES, 2)]
)
def test_by_certificate(tmp_path: Path, names: tuple[str, ...]) -> None:
    known = {NAMES[name] for name in names} - {None}
    assert name_of(tmp_path, names, "") == (known.pop() if len(known) == 1 else None)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("names", [(), *itertools.combinations(NAMES, 1)])
def test_by_token_and_by_both(tmp_path: Path, subject: str, names: tuple[str, ...]) -> None:
    by_token = SUBJECTS[subject]
    by_certificate = NAMES[names[0]] if names else by_token
    expected = by_token if by_token == by_certificate else None
    assert name_of(tmp_path, names, SIGNER.token(sub=subject)) == expected


@pytest.mark.parametrize("token", ["x", SIGNER.token(exp=NOW - 60), Signer().token(sub="1")])
def test_a_good_certificate_does_not_make_up_for_a_bad_token(tmp_path: Path, token: str) -> None:
    assert name_of(tmp_path, ("DNS:one.example",), "") == "one"
    assert name_of(tmp_path, ("DNS:one.example",), token) is None


def test_where_no_tokens_are_taken(tmp_path: Path) -> None:
    policy = read_policy(write_policy(tmp_path / "clients.toml", {"one": client()}))
    for names in ((), (URI.format("one"),)):
        with pytest.raises(NotIdentified, match="takes no tokens"):
            identify(Caller("p", "i", names=names, token=SIGNER.token()), policy, None, NOW)
