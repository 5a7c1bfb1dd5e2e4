"""Certificates of one's own, made while the tests run: no key is ever stored."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_DAYS = 2
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_OF_AUTHORITY = "keyUsage=critical,keyCertSign,cRLSign"
_EXTENSIONS = """
subjectAltName={names}
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


@dataclass(frozen=True)
class Certificate:
    """PEM files: of the certificate and of its key."""

    cert: Path
    key: Path


class Authority:
    """Whoever trusts *cert* trusts what it issues. Its files lie in *directory*."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self.cert, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.cert),
            *("-days", _DAYS, "-subj", f"/CN={name}", "-addext", _OF_AUTHORITY),
        )

    def issue(
        self, name: str, *, names: str = "DNS:localhost,IP:127.0.0.1", days: int = _DAYS
    ) -> Certificate:
        """For a server or a client at *names*, valid for *days*: of fewer than none, expired."""
        path = self._directory / name
        cert, key, request, extensions = (
            path.with_name(f"{name}.{kind}") for kind in ("pem", "key", "csr", "ext")
        )
        extensions.write_text(_EXTENSIONS.format(names=names))
        _openssl("req", "-new", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key),
            *("-CAcreateserial", "-days", days, "-extfile", extensions, "-out", cert),
        )
        return Certificate(cert, key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
