"""Keys to sign with, made while the tests run: none is ever stored."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


class KeyPair:
    """PEM files of a key and of its public half, in *directory*."""

    def __init__(self, directory: Path, name: str = "snapshot") -> None:
        key = Ed25519PrivateKey.generate()
        self.key, self.public = directory / f"{name}.key", directory / f"{name}.pub"
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
