"""Tokens, and the keys that sign them, made while the tests run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example", "ndoo"
NOW = 1_800_000_000.0
"""Unix seconds at which tokens are issued unless a test says otherwise."""

_MAKERS = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
ABSENT = object()


class Signer:
    """Who issues tokens, with one key named *kid*."""

    def __init__(self, kid: str = "first", algorithm: str = "ES256") -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private = _MAKERS[algorithm]()

    @property
    def public(self) -> Any:
        return self.private.public_key()

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """The public key as it is published, with *changes*; ABSENT takes an entry out."""
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.public, as_dict=True)
        return _changed(made | {"kid": self.kid, "use": "sig", "alg": self.algorithm}, changes)

    def token(
        self, *, header: Mapping[str, Any] | None = None, now: float = NOW, **claims: Any
    ) -> str:
        """A token that counts for ten minutes from *now*, with *claims* in place of its own."""
        standard = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "one", "iat": now, "nbf": now, "exp": now + 600,
        }  # fmt: skip
        signing = jwt.PyJWS()
        payload = json.dumps(_changed(standard, claims)).encode()
        headers = _changed({"kid": self.kid, "typ": "JWT"}, header or {})
        return signing.encode(payload, self.private, headers.pop("alg", self.algorithm), headers)


def write_keys(path: Path, *keys: Mapping[str, Any]) -> Path:
    """A JWKS file, put in place whole."""
    return replace_file(path, json.dumps({"keys": keys}))


def replace_file(path: Path, text: str) -> Path:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    return aside.replace(path)


def _changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(given) | dict(changes)
    return {key: value for key, value in merged.items() if value is not ABSENT}
