"""A policy file says all that it means, or it is refused: what is missing in it allows nothing."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ndoo.errors import InputError
from ndoo.server.policy import ClientPolicy, TokenRules, read_policy
from ndoo.server.signals import SignalLimits
from support.policies import ABSENT, CLIENT, TOKENS, URI, client, toml, write_policy

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "clients.example.toml"
CANARY = "999 000 0018"


def one(**changes: Any) -> str:
    return toml({"one": client(**changes)}, TOKENS)


def two(**changes: Any) -> str:
    second = {"certificate_names": [URI.format("two")]} | changes
    return toml({"one": client(token_subjects=["s"]), "two": client(**second)}, TOKENS)


def tokens(**changes: Any) -> str:
    entries = {key: each for key, each in (TOKENS | changes).items() if each is not ABSENT}
    return toml({"one": client()}, entries)


REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "names no client"),
    "no TOML": ("[clients.one\n", "is not TOML at line 1"),
    "no TOML, with a number": (f'[clients.one]\n"{CANARY}" =\n', "is not TOML at line 2"),
    "a key twice": (f'[clients]\n"{CANARY}" = 1\n"{CANARY}" = 2', "is not TOML"),
    "deep": ("a = " + "[" * 100_000, "is not TOML"),
    "unknown table": ("[client.one]\n", "'client'"),
    "unknown entry": (one(number_per_day=1), "did you mean 'numbers_per_day'"),
    "unknown entry like a number": (one(**{CANARY: 1}), "not shown"),
    "clients no table": ("clients = 1", "'clients'"),
    "clients a list": ("[[clients]]\n", "'clients'"),
    "a client no table": ("[clients]\none = 1", "must be a table"),
    "a name in capitals": (toml({"One": client()}), "needs a name"),
    "a name that is empty": (toml({'""': client()}), "needs a name"),
    "a name that is long": (toml({"a" * 41: client()}), "needs a name"),
    "a name like a number": (toml({CANARY.replace(" ", "-"): client()}), "needs a name"),
    "known by nothing": (one(certificate_names=ABSENT), "to be known by"),
    "known by an empty list": (one(certificate_names=[], token_subjects=[]), "to be known by"),
    "an empty certificate name": (one(certificate_names=[""]), "'certificate_names'"),
    "a kind without a name": (one(certificate_names=["URI:"]), "'certificate_names'"),
    "a name without a kind": (one(certificate_names=["host.example"]), "'certificate_names'"),
    "a subject": (one(certificate_names=["subject:CN=one"]), "'certificate_names'"),
    "a wildcard": (one(certificate_names=["DNS:*.example"]), "'certificate_names'"),
    "a certificate name twice": (one(certificate_names=["DNS:a", "DNS:a"]), "repetitions"),
    "a certificate name for two": (two(certificate_names=CLIENT["certificate_names"]), "share"),
    "an empty subject": (one(token_subjects=[""]), "'token_subjects'"),
    "a blank subject": (one(token_subjects=[" "]), "'token_subjects'"),
    "a subject for two": (two(token_subjects=["s"]), "share"),
    "subjects without tokens": (toml({"one": client(token_subjects=["s"])}), "[tokens]"),
    "no RPC": (one(rpcs=ABSENT), "'rpcs'"),
    "an empty list of RPCs": (one(rpcs=[]), "'rpcs'"),
    "an unknown RPC": (one(rpcs=["Check", "check"]), "'rpcs'"),
    "all RPCs": (one(rpcs=["*"]), "'rpcs'"),
    "RPCs as text": (one(rpcs="Check"), "'rpcs'"),
    "an empty purpose": (one(purposes=[""]), "'purposes'"),
    "a purpose like a number": (one(purposes=[CANARY]), "'purposes'"),
    "a purpose of other signs": (one(purposes=["{}"]), "'purposes'"),
    "a purpose demanded of none": (one(purpose_required=True), "lists none"),
    "a flag as text": (one(reference_required="false"), "'reference_required'"),
    "a flag as a number": (one(purposes=["a"], purpose_required=0), "'purpose_required'"),
    "no rate": (one(numbers_per_second=ABSENT), "'numbers_per_second'"),
    "no limit a day": (one(numbers_per_day=ABSENT), "'numbers_per_day'"),
    "a rate of none": (one(numbers_per_second=0), "'numbers_per_second'"),
    "a limit below": (one(numbers_per_day=-1), "'numbers_per_day'"),
    "a limit as text": (one(numbers_per_day="1000"), "'numbers_per_day'"),
    "a limit that is no number": (one(numbers_per_day=math.nan), "'numbers_per_day'"),
    "a limit without end": (one(numbers_per_day=math.inf), "'numbers_per_day'"),
    "a limit that is true": (one(numbers_per_day=True), "'numbers_per_day'"),
    "no burst": (one(burst=0), "'burst'"),
    "a burst without a rate": (one(numbers_per_second="unlimited", burst=5), "'burst'"),
    "no numbers": (one(numbers_per_message=0), "'numbers_per_message'"),
    "no streams": (one(streams=0), "'streams'"),
    "an unknown signal": (one(signals={"bad_share_max": 0.5}), "signals"),
    "a share over 1": (one(signals={"invalid_share_max": 1.5}), "'invalid_share_max'"),
    "a share that is no number": (one(signals={"invalid_share_max": math.nan}), "'invalid_share"),
    "signals no table": (one(signals=1), "signals must be a table"),
    "no JWKS": (tokens(jwks=ABSENT), "'jwks'"),
    "an empty JWKS": (tokens(jwks=" "), "'jwks'"),
    "no issuer": (tokens(issuer=ABSENT), "'issuer'"),
    "an empty issuer": (tokens(issuer=""), "'issuer'"),
    "an empty audience": (tokens(audience=""), "'audience'"),
    "no audience": (tokens(audience=ABSENT), "'audience'"),
    "a long leeway": (tokens(leeway_s=301), "'leeway_s'"),
    "an endless token": (tokens(lifetime_s_max=math.inf), "'lifetime_s_max'"),
    "an unknown entry of tokens": (tokens(secret="x"), "'secret'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_way_to_be_wrong_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    text, told = REFUSED[name]
    path = tmp_path / "clients.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_policy(path)
    sentence = str(caught.value)
    assert told in sentence
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    assert CANARY not in sentence
    assert CANARY.replace(" ", "-") not in sentence


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"a = '\xe9'"])
def test_what_is_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "clients.toml"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="UTF-8"):
        read_policy(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_policy(tmp_path / "missing.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_policy(tmp_path)


WHOLE = client(
    token_subjects=["s"], purposes=["research"], purpose_required=True, numbers_per_day=10,
    burst=1_000_000,
)  # fmt: skip
NOTHINGS: list[Any] = [ABSENT, "", " ", [], [""], {}, 0, -1, False, math.nan, "unlimite"]


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("nothing", NOTHINGS, ids=lambda each: "absent" if each is ABSENT else None)
def test_nothing_in_place_of_an_entry_never_allows_more(
    tmp_path: Path, key: str, nothing: Any
) -> None:
    path = tmp_path / "clients.toml"
    whole = read_policy(write_policy(path, {"one": WHOLE}, TOKENS)).clients["one"]
    changed = {k: v for k, v in (WHOLE | {key: nothing}).items() if v is not ABSENT}
    try:
        got = read_policy(write_policy(path, {"one": changed}, TOKENS)).clients["one"]
    except InputError:
        return
    waived = key == "purpose_required" and nothing is False  # which is no nothing, but an answer
    assert allowed(got) <= allowed(whole) or waived


def allowed(policy: ClientPolicy) -> set[object]:
    """All that *policy* lets through, each thing by itself."""
    required = {"no purpose"} - {"no purpose" if policy.purpose_required else ""}
    known_by = policy.certificate_names | policy.token_subjects
    limits = {
        key: math.inf if (limit := getattr(policy, key)) is None else limit
        for key in ("numbers_per_second", "burst", "numbers_per_day")
    }
    over = {key for key, limit in limits.items() if limit > WHOLE[key]}
    return {*known_by, *policy.rpcs, *policy.purposes, *required, *over}


def test_what_is_left_out_on_purpose(tmp_path: Path) -> None:
    policy = read_policy(write_policy(tmp_path / "c.toml", {"one": client()}))
    got = policy.clients["one"]
    assert (got.purposes, got.purpose_required, got.reference_required) == (set(), False, False)
    assert (got.burst, got.numbers_per_day) == (got.numbers_per_second, None)
    assert (got.numbers_per_message, got.streams, got.signals) == (None, None, SignalLimits())
    assert policy.tokens is None
    assert policy.by_certificate_name == {URI.format("one"): got}
    assert policy.by_token_subject == {}


def test_purposes_that_are_listed_are_demanded(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    listed = write_policy(path, {"one": client(purposes=["research"])})
    assert read_policy(listed).clients["one"].purpose_required
    optional = client(purposes=["research"], purpose_required=False)
    assert not read_policy(write_policy(path, {"one": optional})).clients["one"].purpose_required


def test_who_asks_about_nobody_needs_no_limits(tmp_path: Path) -> None:
    only = client(rpcs=["GetRegister"], numbers_per_second=ABSENT, numbers_per_day=ABSENT)
    got = read_policy(write_policy(tmp_path / "c.toml", {"one": only})).clients["one"]
    assert got.rpcs == {"GetRegister"}


def test_the_example() -> None:
    policy = read_policy(EXAMPLE)
    assert policy.tokens is not None
    assert policy.tokens.jwks == EXAMPLE.parent / "jwks.json"
    builder = policy.clients["cohort-builder"]
    assert builder.purpose_required
    assert builder.reference_required
    assert builder.numbers_per_day == 200_000_000
    assert builder.signals.invalid_share_max == 0.3
    assert policy.by_token_subject["system:serviceaccount:clinic:letters"].name == "clinic-letters"
    assert policy.clients["operators"].rpcs == {"GetRegister"}


def test_each_entry_is_told() -> None:
    told = (EXAMPLE.parent / "access.md").read_text()
    entries = {each.name for each in (*fields(ClientPolicy), *fields(TokenRules))} - {"name"}
    assert [each for each in sorted(entries) if each not in told] == []
