"""Tokens: JSON Web Tokens, checked against the public keys in a local file.

What a token says of itself decides nothing. The key it names must be in the file, and the algorithm
is one that this key is for: so neither "none" nor a public key taken for a shared secret gets
anybody in. Whatever is missing in a token is wrong with it. No token, and nothing out of one, goes
into an error or a log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ndoo.errors import InputError
from ndoo.server.files import read_small
from ndoo.server.policy import TokenRules
from ndoo.server.status import NotIdentified

TOKEN_CHARS_MAX = 8192
JWKS_BYTES_MAX = 1024 * 1024
RSA_BITS_MIN = 2048
VERIFIED_MAX = 4096
"""How many verified tokens are remembered; checking a signature takes some 100 µs."""

_ALGORITHMS = {"RSA": ("RS256", "PS256"), "EC P-256": ("ES256",), "OKP Ed25519": ("EdDSA",)}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, RecursionError)
_MOMENT_MAX = 2.0**53
_CLAIMS = ("exp", "iat", "iss", "aud", "sub")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the algorithms that it may be used with."""

    public: Any
    algorithms: tuple[str, ...]


Keys = Mapping[str, Key]
"""By the name that tokens call them by, their `kid`."""


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token says that was verified; times are Unix seconds."""

    subject: str
    issued_at: float
    not_before: float
    expires_at: float


def read_keys(path: Path) -> Keys:
    """The keys in the JWKS file at *path* that tokens may be signed by. Raises InputError.

    Keys for other uses and algorithms are passed over, as issuers publish them along. Secrets are
    refused: they do not belong into such a file.
    """
    keys: dict[str, Key] = {}
    for number, entry in enumerate(_read_entries(path), 1):
        place = f"{path}: key {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{place} is no JSON object.")
        if _PRIVATE & entry.keys():
            raise InputError(f"{place} is secret; the file must hold public keys alone.")
        algorithms = _algorithms_of(entry)
        if not algorithms:
            continue
        name = entry.get("kid")
        if not isinstance(name, str) or not name:
            raise InputError(f"{place} has no 'kid' that tokens could name it by.")
        if name in keys:
            raise InputError(f"{place} has the 'kid' of another key.")
        keys[name] = Key(_public_key(place, entry, algorithms[0]), algorithms)
    if not keys:
        raise InputError(f"{path} holds no key for RS256, PS256, ES256 or EdDSA.")
    return keys


class Tokens:
    """Verifies tokens by *rules* and *keys*. For one event loop."""

    def __init__(self, rules: TokenRules, keys: Keys) -> None:
        self._rules = rules
        self._keys = keys
        self._verified: dict[bytes, _Verified] = {}

    def subject_of(self, token: str, now: float) -> str:
        """Whom *token* was issued to. Raises NotIdentified unless it counts at *now* (Unix s)."""
        # By digest, so that no token stays in memory, and none is compared byte by byte.
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        verified = self._verified.get(digest)
        if verified is None:
            verified = self._verify(token)
            if len(self._verified) >= VERIFIED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = verified
        self._refuse_untimely(verified, now)
        return verified.subject

    def _verify(self, token: str) -> _Verified:
        key = self._key_of(token)
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=list(key.algorithms),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                # Times are checked below, at each call and by the service's own clock.
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            raise _refused("is not one that is signed by a key known here") from None
        except _UNREADABLE:
            raise _refused("is incomplete, of another issuer or for another service") from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject:
            raise _refused("names nobody")
        issued_at, expires_at = _moment(claims["iat"]), _moment(claims["exp"])
        not_before = _moment(claims["nbf"]) if "nbf" in claims else issued_at
        return _Verified(subject, issued_at, not_before, expires_at)

    def _key_of(self, token: str) -> Key:
        if len(token) > TOKEN_CHARS_MAX:
            raise _refused("is too long")
        try:
            header = jwt.get_unverified_header(token)
        except _UNREADABLE:
            raise _refused("cannot be read") from None
        name = header.get("kid")
        key = self._keys.get(name) if isinstance(name, str) and name else None
        if key is None or header.get("alg") not in key.algorithms or "crit" in header:
            raise _refused("is not one that is signed by a key known here")
        return key

    def _refuse_untimely(self, verified: _Verified, now: float) -> None:
        leeway_s = self._rules.leeway_s
        if verified.expires_at - verified.issued_at > self._rules.lifetime_s_max:
            raise _refused("is valid for longer than is allowed here")
        if now >= verified.expires_at + leeway_s:
            raise _refused("has expired")
        if now < max(verified.not_before, verified.issued_at) - leeway_s:
            raise _refused("is not valid yet")


def _read_entries(path: Path) -> list[object]:
    raw = read_small(path, JWKS_BYTES_MAX)
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON.") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path} has no list 'keys'; it must be a JSON Web Key Set.")
    return entries


def _algorithms_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """Which of our algorithms the key in *entry* is for, by its own word; empty if none is."""
    if entry.get("use", "sig") != "sig" or "verify" not in str(entry.get("key_ops", "verify")):
        return ()
    kind, curve = entry.get("kty"), entry.get("crv")
    fitting = _ALGORITHMS.get("RSA" if kind == "RSA" else f"{kind} {curve}", ())
    named = entry.get("alg")
    return fitting if named is None else tuple(each for each in fitting if each == named)


def _public_key(place: str, entry: dict[str, Any], algorithm: str) -> Any:
    try:
        public = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise InputError(f"{place} cannot be read.") from None
    if isinstance(public, RSAPublicKey) and public.key_size < RSA_BITS_MIN:
        raise InputError(f"{place} has fewer than {RSA_BITS_MIN:,} bits.")
    return public


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused("has a time in it that is none")
    if not 0 <= value <= _MOMENT_MAX:  # which also refuses NaN
        raise _refused("has a time in it that is none")
    return float(value)


def _refused(why: str) -> NotIdentified:
    return NotIdentified(f"The token {why}; show one that counts here.")
