"""A token gets nobody in unless everything about it is right, and right at that moment."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ndoo.errors import InputError
from ndoo.server import tokens as tokens_module
from ndoo.server.policy import TokenRules
from ndoo.server.status import NotIdentified
from ndoo.server.tokens import Tokens, read_keys
from support.tokens import ABSENT, AUDIENCE, ISSUER, NOW, Signer, write_keys

FIRST, SECOND = Signer("first"), Signer("second")
RSA = Signer("rsa", "RS256")


def tokens_of(path: Path, *keys: dict[str, Any], **rules: Any) -> Tokens:
    file = write_keys(path / "jwks.json", *(keys or (FIRST.jwk(), SECOND.jwk(), RSA.jwk())))
    return Tokens(TokenRules(file, ISSUER, AUDIENCE, **rules), read_keys(file))


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def unsigned(header: object, signature: bytes = b"") -> str:
    _, payload, _ = FIRST.token().split(".")
    return f"{encoded(header)}.{payload}.{encoded(signature)}"


def by_secret(secret: bytes, kid: str) -> str:
    """A token "signed" with what everybody can read, in the hope that it is taken for a secret."""
    head = f"{encoded({'alg': 'HS256', 'kid': kid})}.{FIRST.token().split('.')[1]}"
    return f"{head}.{encoded(hmac.digest(secret, head.encode(), hashlib.sha256))}"


def pem(signer: Signer) -> bytes:
    return signer.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


FORGED: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "blank": lambda: " ",
    "dots": lambda: "..",
    "one part": lambda: FIRST.token().split(".")[0],
    "no signature": lambda: FIRST.token().rpartition(".")[0] + ".",
    "five parts": lambda: FIRST.token() + "..",
    "no ASCII": lambda: "tökén.\udc80." + "é",
    "too long": lambda: "a" * 9000,
    "deep": lambda: f"{encoded(b'[' * 5000)}.e30.e30",
    "deep claims": lambda: FIRST.token(sub=json.loads("[" * 500 + "]" * 500)),
    "alg none": lambda: unsigned({"alg": "none", "kid": "first"}),
    "alg None": lambda: unsigned({"alg": "None", "kid": "first"}, b"x"),
    "alg missing": lambda: unsigned({"kid": "first"}, b"x"),
    "alg null": lambda: unsigned({"alg": None, "kid": "first"}, b"x"),
    "alg a list": lambda: unsigned({"alg": ["ES256"], "kid": "first"}, b"x"),
    "secret from PEM": lambda: by_secret(pem(FIRST), "first"),
    "secret from PEM of RSA": lambda: by_secret(pem(RSA), "rsa"),
    "secret from JWK": lambda: by_secret(json.dumps(FIRST.jwk()).encode(), "first"),
    "secret empty": lambda: by_secret(b"", "first"),
    "kid missing": lambda: FIRST.token(header={"kid": ABSENT}),
    "kid empty": lambda: FIRST.token(header={"kid": ""}),
    "kid of another key": lambda: FIRST.token(header={"kid": "second"}),
    "kid unknown": lambda: Signer("third").token(),
    "kid a list": lambda: unsigned({"alg": "ES256", "kid": ["first"]}, b"x"),
    "same kid, another key": lambda: Signer("first").token(),
    "key brought along": lambda: Signer("first").token(header={"jwk": Signer("first").jwk()}),
    "crit": lambda: FIRST.token(header={"crit": ["exp"]}),
    "not base64": lambda: FIRST.token().replace(".", ".!", 1),
    "exp missing": lambda: FIRST.token(exp=ABSENT),
    "exp null": lambda: FIRST.token(exp=None),
    "exp text": lambda: FIRST.token(exp=str(NOW + 600)),
    "exp true": lambda: FIRST.token(exp=True),
    "exp NaN": lambda: FIRST.token(exp=float("nan")),
    "exp infinite": lambda: FIRST.token(exp=float("inf")),
    "exp huge": lambda: FIRST.token(exp=10**400),
    "exp far": lambda: FIRST.token(exp=NOW + 86_401),
    "expired": lambda: FIRST.token(exp=NOW - 30),
    "iat missing": lambda: FIRST.token(iat=ABSENT),
    "iat to come": lambda: FIRST.token(iat=NOW + 31),
    "nbf to come": lambda: FIRST.token(nbf=NOW + 31),
    "nbf null": lambda: FIRST.token(nbf=None),
    "aud missing": lambda: FIRST.token(aud=ABSENT),
    "aud empty": lambda: FIRST.token(aud=""),
    "aud an empty list": lambda: FIRST.token(aud=[]),
    "aud null": lambda: FIRST.token(aud=None),
    "aud of another": lambda: FIRST.token(aud="other"),
    "aud a part": lambda: FIRST.token(aud=AUDIENCE[:-1]),
    "iss missing": lambda: FIRST.token(iss=ABSENT),
    "iss empty": lambda: FIRST.token(iss=""),
    "iss null": lambda: FIRST.token(iss=None),
    "iss of another": lambda: FIRST.token(iss=ISSUER + "/"),
    "iss a list": lambda: FIRST.token(iss=[ISSUER]),
    "sub missing": lambda: FIRST.token(sub=ABSENT),
    "sub empty": lambda: FIRST.token(sub=""),
    "sub null": lambda: FIRST.token(sub=None),
    "sub a number": lambda: FIRST.token(sub=1),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_is_not_right_gets_nobody_in(tmp_path: Path, name: str) -> None:
    token = FORGED[name]()
    tokens = tokens_of(tmp_path)
    for _ in range(2):  # the second time nothing is remembered to its favour
        with pytest.raises(NotIdentified) as caught:
            tokens.subject_of(token, NOW)
        assert not [
            part for part in token.split(".") if len(part) > 3 and part in str(caught.value)
        ]
    assert tokens.subject_of(FIRST.token(), NOW) == "one"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_each_algorithm_with_its_key(tmp_path: Path, algorithm: str) -> None:
    signer = Signer("k", algorithm)
    for jwk in (signer.jwk(), signer.jwk(alg=ABSENT, use=ABSENT), signer.jwk(key_ops=["verify"])):
        assert tokens_of(tmp_path, jwk).subject_of(signer.token(sub="some one"), NOW) == "some one"


def test_a_key_is_for_the_algorithm_that_it_names(tmp_path: Path) -> None:
    other = RSA.token(header={"alg": "PS256"})
    assert tokens_of(tmp_path, RSA.jwk(alg=ABSENT)).subject_of(other, NOW) == "one"
    with pytest.raises(NotIdentified):
        tokens_of(tmp_path, RSA.jwk()).subject_of(other, NOW)


def test_one_audience_of_several_will_do(tmp_path: Path) -> None:
    token = FIRST.token(aud=["other", AUDIENCE])
    assert tokens_of(tmp_path).subject_of(token, NOW) == "one"


@settings(max_examples=150, deadline=None)
@given(part=st.integers(0, 2), place=st.integers(0, 5_000))
def test_no_bit_of_a_token_may_change(
    tmp_path_factory: pytest.TempPathFactory, part: int, place: int
) -> None:
    tokens = tokens_of(tmp_path_factory.mktemp("keys"))
    parts = [bytearray(decoded(each)) for each in FIRST.token().split(".")]
    parts[part][place // 8 % len(parts[part])] ^= 1 << place % 8
    with pytest.raises(NotIdentified):
        tokens.subject_of(".".join(encoded(bytes(each)) for each in parts), NOW)


def test_time_is_looked_at_each_time(tmp_path: Path) -> None:
    tokens, token = tokens_of(tmp_path, leeway_s=5.0), FIRST.token()
    good, bad = (NOW - 5, NOW, NOW + 604.9), (NOW - 5.1, NOW + 605)
    for _ in range(2):
        assert {tokens.subject_of(token, now) for now in good} == {"one"}
        for now in bad:
            with pytest.raises(NotIdentified, match=r"expired|not valid yet"):
                tokens.subject_of(token, now)


def test_a_remembered_token_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "VERIFIED_MAX", 2)
    tokens = tokens_of(tmp_path)
    verified = []
    verify = tokens._verify
    monkeypatch.setattr(tokens, "_verify", lambda token: verified.append(token) or verify(token))
    made = [FIRST.token(sub=str(number)) for number in range(3)]
    for token in (made[0], made[0], made[1], made[0], made[2], made[1]):
        tokens.subject_of(token, NOW)
    assert verified == made
    tokens.subject_of(made[0], NOW)  # forgotten for the third
    assert verified == [*made, made[0]]


REFUSED_KEYS: dict[str, tuple[Callable[[], object], str]] = {
    "not an object": (lambda: "x", "no JSON object"),
    "a shared secret": (lambda: {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, "secret"),
    "a private key": (lambda: FIRST.jwk(d="AAAA"), "secret"),
    "no kid": (lambda: FIRST.jwk(kid=ABSENT), "kid"),
    "an empty kid": (lambda: FIRST.jwk(kid=""), "kid"),
    "the kid of another": (lambda: FIRST.jwk(kid="second"), "kid"),
    "no point": (lambda: FIRST.jwk(x=ABSENT), "cannot be read"),
    "a point elsewhere": (lambda: FIRST.jwk(x=FIRST.jwk()["y"]), "cannot be read"),
    "a number for a point": (lambda: FIRST.jwk(x=5), "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED_KEYS)
def test_a_file_with_a_key_that_is_wrong_is_refused(tmp_path: Path, name: str) -> None:
    make, word = REFUSED_KEYS[name]
    file = write_keys(tmp_path / "jwks.json", SECOND.jwk(), make())
    with pytest.raises(InputError, match=word) as caught:
        read_keys(file)
    assert f"{file}: key 2 " in str(caught.value)


PASSED_OVER: list[dict[str, Any]] = [
    FIRST.jwk(use="enc"),
    FIRST.jwk(key_ops=["encrypt"]),
    FIRST.jwk(alg="ES384"),
    FIRST.jwk(alg="HS256"),
    FIRST.jwk(alg=""),
    FIRST.jwk(crv="P-384"),
    FIRST.jwk(kty="oct"),
    FIRST.jwk(kty=[]),
    FIRST.jwk(kty=ABSENT),
    {},
]


@pytest.mark.parametrize("entry", PASSED_OVER)
def test_keys_for_something_else_verify_nothing(tmp_path: Path, entry: dict[str, Any]) -> None:
    tokens = tokens_of(tmp_path, SECOND.jwk(), entry)
    with pytest.raises(NotIdentified):
        tokens.subject_of(FIRST.token(), NOW)
    with pytest.raises(InputError, match="no key"):
        tokens_of(tmp_path, entry)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"keys": {}}', '{"keys": null}', '{"keys": []}', "[" * 100_000]
)
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"jwks\.json"):
        read_keys(file)


def test_no_file_and_a_short_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "missing.json")
    short = Signer("short", "RS256")
    short.private = rsa.generate_private_key(65537, 1024)
    with pytest.raises(InputError, match="2,048 bits"):
        read_keys(write_keys(tmp_path / "jwks.json", short.jwk()))
