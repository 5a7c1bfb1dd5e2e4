"""The files of TLS: what is good is taken up, whatever else changes nothing but an alarm."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.server.tls import CLIENT_CA, SERVING, Certificates
from support.certificates import Authority, Certificate

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with openssl"
)


class Observer:
    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self.refused: dict[str, bool] = {}

    def on_certificate(self, name: str, not_after: float) -> None:
        self.ends[name] = not_after

    def on_certificate_refused(self, name: str, refused: bool) -> None:
        self.refused[name] = refused


class Files:
    """What the service reads, and what it makes of it."""

    def __init__(self, directory: Path, pair: Certificate, authority: Authority) -> None:
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        self.ca = directory / "ca.crt"
        self.put(pair)
        self.ca.write_bytes(authority.cert.read_bytes())
        self.observer = Observer()
        self.now = time.time()
        self.certificates = self.begin()
        self.in_use()

    def begin(self) -> Certificates:
        settings = Settings.from_env(
            {},
            feed="dir:unused",
            tls_certificate=str(self.certificate),
            tls_key=str(self.key),
            tls_client_ca=str(self.ca),
        )
        return Certificates(settings, self.observer, lambda: self.now)

    def put(self, pair: Certificate) -> None:
        self.certificate.write_bytes(pair.cert.read_bytes())
        self.key.write_bytes(pair.key.read_bytes())
        self.key.chmod(0o600)

    def in_use(self) -> tuple[bytes, bytes, bytes]:
        self.certificates._look()
        certificate, key = self.certificates._serving._files
        return certificate, key, self.certificates._authorities._files[0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> tuple[Certificate, Certificate]:
    return authority.issue("first"), authority.issue("second")


@pytest.fixture
def files(tmp_path: Path, authority: Authority, pairs: tuple[Certificate, Certificate]) -> Files:
    return Files(tmp_path, pairs[0], authority)


def test_a_new_pair_is_taken_up_when_both_files_fit(
    files: Files, pairs: tuple[Certificate, Certificate], caplog: pytest.LogCaptureFixture
) -> None:
    old = files.in_use()
    caplog.set_level("INFO", "ndoo")
    files.certificate.write_bytes(pairs[1].cert.read_bytes())
    assert files.in_use() == old
    assert files.in_use() == old
    assert files.observer.refused == {SERVING: True, CLIENT_CA: False}
    files.put(pairs[1])
    assert files.in_use()[:2] == (pairs[1].cert.read_bytes(), pairs[1].key.read_bytes())
    assert files.observer.refused == {SERVING: False, CLIENT_CA: False}
    events = [record.getMessage() for record in caplog.records]
    assert events == ["certificate_refused", "certificate_accepted"], "each once"
    expires = x509.load_pem_x509_certificate(pairs[1].cert.read_bytes()).not_valid_after_utc
    assert dt.datetime.fromisoformat(caplog.records[-1].fields["until"]) == expires


def expired(files: Files, authority: Authority) -> None:
    files.put(authority.issue("expired", days=-1))


def of_another_kind(files: Files, authority: Authority) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=x"]
    subprocess.run(
        [*command, "-keyout", files.key, "-out", files.certificate], check=True, capture_output=True
    )


def in_disorder(files: Files, authority: Authority) -> None:
    pair = authority.issue("unordered")
    files.put(pair)
    files.certificate.write_bytes(pair.cert.read_bytes() * 2)


def cut_short_in_its_chain(files: Files, authority: Authority) -> None:
    pair = authority.issue("chained")
    files.put(pair)
    files.certificate.write_bytes(pair.cert.read_bytes() + authority.cert.read_bytes()[:-40])


HARMS: dict[str, Callable[[Files, Authority], object]] = {
    "certificate missing": lambda files, _: files.certificate.unlink(),
    "certificate empty": lambda files, _: files.certificate.write_bytes(b""),
    "certificate cut": lambda files, _: files.certificate.write_bytes(
        files.certificate.read_bytes()[:-50]
    ),
    "certificate no text": lambda files, _: files.certificate.write_bytes(bytes(range(256))),
    "certificate a folder": lambda files, _: (
        files.certificate.unlink(),
        files.certificate.mkdir(),
    ),
    "key missing": lambda files, _: files.key.unlink(),
    "key cut": lambda files, _: files.key.write_bytes(files.key.read_bytes()[:-50]),
    "key is a certificate": lambda files, _: files.key.write_bytes(files.certificate.read_bytes()),
    "key of another": lambda files, other: files.key.write_bytes(other._key.read_bytes()),
    "expired": expired,
    "kind of key": of_another_kind,
    "in disorder": in_disorder,
    "chain cut short": cut_short_in_its_chain,
    "authority missing": lambda files, _: files.ca.unlink(),
    "authority empty": lambda files, _: files.ca.write_bytes(b"none"),
    "authority cut short": lambda files, _: files.ca.write_bytes(
        files.ca.read_bytes() + files.ca.read_bytes()[:100]
    ),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_what_is_broken_changes_nothing_but_an_alarm(
    files: Files, authority: Authority, harm: Callable[[Files, Authority], object]
) -> None:
    before, ends = files.in_use(), dict(files.observer.ends)
    assert not any(files.observer.refused.values())
    harm(files, authority)
    assert files.in_use() == before
    assert sum(files.observer.refused.values()) == 1
    assert files.observer.ends == ends
    with pytest.raises(InputError):  # and nobody begins with it
        files.begin()


def test_what_is_not_valid_yet_waits(files: Files, pairs: tuple[Certificate, Certificate]) -> None:
    before = files.in_use()
    files.now -= 86_400
    files.put(pairs[1])
    assert files.in_use() == before
    files.now += 86_400
    assert files.in_use()[0] == pairs[1].cert.read_bytes()


def test_the_first_end_is_told_and_an_authority_that_ended_is_passed_over(
    files: Files, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    ca = Authority(tmp_path / "other").cert.read_bytes()
    files.ca.write_bytes(files.ca.read_bytes() + ca)
    files.in_use()
    serving = _end_of(files.certificate.read_bytes())
    first, last = sorted(map(_end_of, (ca, files.ca.read_bytes())))
    assert files.observer.ends == {SERVING: serving, CLIENT_CA: first}
    files.now = last - 1e-3 if first < last else first - 1
    files.in_use()
    assert files.observer.ends[CLIENT_CA] == last
    files.now = last + 100
    files.in_use()
    assert files.observer.ends == {SERVING: serving, CLIENT_CA: last}, "over, and it shows"
    assert not any(files.observer.refused.values()), "what is in use is not refused"


def test_a_key_that_others_may_read_is_told(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    assert "certificate_key_exposed" not in [record.getMessage() for record in caplog.records]
    files.key.chmod(0o644)
    files.begin()
    assert "certificate_key_exposed" in [record.getMessage() for record in caplog.records]


def _end_of(pem: bytes) -> float:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
