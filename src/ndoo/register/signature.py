"""Signatures of snapshots (Ed25519): who can only write to the feed cannot make up a register.

Keys are PEM files, as `openssl genpkey -algorithm ed25519` writes them. There may be several public
ones in a file, so that readers know a new key before anybody signs with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from ndoo.errors import InputError

_BEGIN = b"-----BEGIN PUBLIC KEY-----"
_PUBLIC_KEY = re.compile(_BEGIN + rb"[^-]+-----END PUBLIC KEY-----")


class Signer:
    """Signs with the private key in *path*. Raises InputError."""

    def __init__(self, path: str) -> None:
        try:
            key = load_pem_private_key(_bytes_of(path), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(
                f"{path} holds no Ed25519 private key in PEM without a password; make one with "
                "'openssl genpkey -algorithm ed25519'."
            )
        self.sign = key.sign
        self.verify = Verifier([key.public_key()])


class Verifier:
    """Tells whether a signature was made with one of *keys*."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def of(cls, path: str) -> Verifier:
        """By the public keys in the file at *path*. Raises InputError."""
        raw = _bytes_of(path)
        try:
            keys = [load_pem_public_key(found[0]) for found in _PUBLIC_KEY.finditer(raw)]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        known = [key for key in keys if isinstance(key, Ed25519PublicKey)]
        if not known or len(known) != raw.count(_BEGIN):
            raise InputError(
                f"{path} does not hold Ed25519 public keys in PEM; write one with "
                "'openssl pkey -pubout'."
            )
        return cls(known)

    def __call__(self, signature: bytes, message: bytes) -> bool:
        return any(_is_by(key, signature, message) for key in self._keys)


def _is_by(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else type(error).__name__
        raise InputError(f"{path} cannot be read: {cause}.") from None
