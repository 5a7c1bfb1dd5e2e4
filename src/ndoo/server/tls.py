"""The certificates that the service shows and trusts, read again whenever somebody connects.

Two sets of files are watched, each for itself: the certificate with its key, and the authorities
whose certificates callers must show. What is read anew is proven before it is used; while it is
broken, missing or half-written, the last that was good stays in use and an alarm stands. So a pair
that is replaced one file after the other is taken up when both fit.

gRPC asks at every connection whether its configuration is to be another. It frees the old one while
connections that came just before may not have taken hold of it yet, which ends the process or harms
its memory (https://github.com/grpc/grpc/issues/36693). So it gets another only when files changed,
or sessions grow old, and after a pause in which nobody comes between. Sessions end with their
configuration: they would be good for two days after the caller's certificate expired.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.ops.audit_chain import rfc_3339
from ndoo.ops.logs import log_event

SERVING = "serving"
CLIENT_CA = "client_ca"

LOOK_S = 10.0
"""How often the files are looked at while nobody connects, so that a broken one alarms in time."""

SESSIONS_S_MAX = 300.0
"""How long a caller may resume a session, and not show a certificate that is still good."""

SETTLE_S = 0.25
"""What gRPC needs, by far, to take hold of its configuration for a connection that has come."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_RSA_BITS_MIN = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_FOR_OTHERS = 0o007

Files = tuple[bytes, ...]
Ends = tuple[float, ...]
"""When what was read ends to be good, in Unix seconds: the whole, or one part after the other."""


class CertificateObserver(Protocol):
    """Who counts. Called from any thread; must not block."""

    def on_certificate(self, name: str, not_after: float) -> None:
        """What is in use under *name* is good until *not_after* (Unix seconds)."""

    def on_certificate_refused(self, name: str, refused: bool) -> None:
        """Newer files are *refused*, and the older ones in use; or that is over."""


class Certificates:
    """All that TLS needs. Raises InputError if the files are not good to begin with."""

    def __init__(
        self,
        settings: Settings,
        observer: CertificateObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        pair = (Path(settings.tls_certificate), Path(settings.tls_key))
        self._clock = clock
        self._handed: list[Files] = []
        self._handed_at = 0.0
        self._serving = _Watched(SERVING, pair, _read_pair, observer, clock)
        self._authorities: _Watched | None = None
        if settings.tls_client_ca:
            ca = (Path(settings.tls_client_ca),)
            self._authorities = _Watched(CLIENT_CA, ca, _read_authorities, observer, clock)

    def credentials(self) -> grpc.ServerCredentials:
        """For one port: each connection gets the files as they are when it comes."""
        return grpc.dynamic_ssl_server_credentials(
            self._handed_out(self._look()),
            self._news,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=self._authorities is not None,
        )

    async def watch(self) -> None:
        """Look at the files every LOOK_S seconds, until cancelled."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(LOOK_S)

    def _look(self) -> list[Files]:
        watched = (self._serving, self._authorities)
        return [each.look() for each in watched if each is not None]

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, which calls it at each connection, one at a time; None if nothing changes."""
        files = self._look()
        age_s = self._clock() - self._handed_at
        if files == self._handed and 0 <= age_s < SESSIONS_S_MAX:
            return None
        time.sleep(SETTLE_S)  # in the thread that all calls go through
        return self._handed_out(files)

    def _handed_out(self, files: list[Files]) -> grpc.ServerCertificateConfiguration:
        self._handed, self._handed_at = files, self._clock()
        certificate, key = files[0]
        authorities = files[1][0] if len(files) > 1 else None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)


class _Watched:
    """Files that belong together. *read* proves them at a moment, or raises InputError."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        read: Callable[[Files, float], Ends],
        observer: CertificateObserver,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._paths = paths
        self._read = read
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._trouble = ""
        self._take(self._found())
        self._log()

    def look(self) -> Files:
        """The newest good content of the files. Raises nothing."""
        with self._lock:
            in_use = self._files
            trouble = self._trouble_of_news()
            self._observer.on_certificate(self._name, self._not_after())
            self._observer.on_certificate_refused(self._name, bool(trouble))
            if trouble != self._trouble or self._files is not in_use:
                self._trouble = trouble
                self._log()
            return self._files

    def _trouble_of_news(self) -> str:
        """Take up what is new. Returns what keeps it from being used, or ""."""
        try:
            found = self._found()
            if found != self._files:
                self._take(found)
        except InputError as refused:
            return str(refused)
        except Exception as fault:  # noqa: BLE001  (no file may keep callers from being served)
            return f"Reading it failed unexpectedly ({type(fault).__name__})."
        return ""

    def _found(self) -> Files:
        try:
            return tuple(path.read_bytes() for path in self._paths)
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else type(error).__name__
            raise InputError(f"{error.filename} cannot be read: {cause}.") from None

    def _take(self, found: Files) -> None:
        ends = self._read(found, self._clock())
        exposed = any(path.stat().st_mode & _FOR_OTHERS for path in self._paths[1:])
        self._files, self._ends, self._is_exposed = found, ends, exposed

    def _not_after(self) -> float:
        now = self._clock()
        return next((end for end in self._ends if end > now), self._ends[-1])

    def _log(self) -> None:
        if self._trouble:
            log_event("warning", "certificate_refused", name=self._name, why=self._trouble)
            return
        until = rfc_3339(self._not_after())
        log_event("info", "certificate_accepted", name=self._name, until=until)
        if self._is_exposed:
            log_event("warning", "certificate_key_exposed", name=self._name)


def _read_pair(files: Files, now: float) -> Ends:
    """A certificate with its chain, and its key, as they can be served."""
    chain = _read_certificates("NDOO_TLS_CERTIFICATE", files[0])
    key = _read_key(files[1])
    if chain[0].public_key() != key.public_key():
        raise InputError(
            "NDOO_TLS_KEY is not the key of the first certificate in NDOO_TLS_CERTIFICATE."
        )
    if not all(map(_is_issued_by, chain, chain[1:])):
        raise InputError(
            "NDOO_TLS_CERTIFICATE is no chain: each certificate in it must be issued by the next."
        )
    end = min(map(_end_of, chain))
    begin = max(each.not_valid_before_utc.timestamp() for each in chain)
    if not begin <= now < end:
        raise InputError(
            "NDOO_TLS_CERTIFICATE, or one in its chain, has expired or is not valid yet; renew it."
        )
    return (end,)


def _read_key(raw: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(raw, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            "NDOO_TLS_KEY holds no private key in PEM, or one behind a password; name one without."
        ) from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _RSA_BITS_MIN:
        return key
    raise InputError(
        "NDOO_TLS_KEY is of a kind that is not served; use EC P-256 or P-384, or RSA of "
        f"{_RSA_BITS_MIN:,} bits or more."
    )


def _read_authorities(files: Files, now: float) -> Ends:
    ends = tuple(sorted(map(_end_of, _read_certificates("NDOO_TLS_CLIENT_CA", files[0]))))
    if not now < ends[-1]:
        raise InputError("NDOO_TLS_CLIENT_CA holds no authority that has not expired; renew it.")
    return ends


def _read_certificates(env: str, raw: bytes) -> Sequence[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(raw)
    except ValueError:
        certificates = []
    # A block that is cut short at the end is passed over in silence by those who read PEM.
    if not certificates or {raw.count(_BEGIN), raw.count(_END)} != {len(certificates)}:
        raise InputError(f"{env} holds no certificate in PEM, or one that is cut short.")
    return certificates


def _end_of(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
