"""Many who connect at the same moment: gRPC must not lose hold of its configuration of TLS."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.certificates import Authority
from support.places import Place
from support.service import Service

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with openssl"
)

CALLERS = 12
CONNECTIONS = 100
"""Of each; while each of them was given another configuration, 30 to 1,300 ended the process."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def served(tmp_path: Path) -> tuple[Path, Path]:
    """The certificate and the key, as the service is to read them."""
    return tmp_path / "tls.crt", tmp_path / "tls.key"


@pytest.fixture
def service(
    directory_place: Place, authority: Authority, served: tuple[Path, Path]
) -> Iterator[Service]:
    directory_place.loaded(1)
    put(authority, served, "first")
    flags = "--tls-certificate", str(served[0]), "--tls-key", str(served[1])
    service = Service(directory_place.url, *flags)
    yield service
    with contextlib.suppress(ProcessLookupError):
        service.kill()


def put(authority: Authority, served: tuple[Path, Path], name: str) -> None:
    pair = authority.issue(name)
    for path, content in zip(served, (pair.cert, pair.key), strict=True):
        path.write_bytes(content.read_bytes())


def connect(service: Service, authority: Authority) -> None:
    host, _, port = service.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.set_alpn_protocols(["h2"])
    for _ in range(CONNECTIONS):
        with (
            socket.create_connection((host, int(port)), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="localhost"),
        ):
            pass


def test_many_at_once_harm_nothing_also_while_certificates_change(
    service: Service, authority: Authority, served: tuple[Path, Path]
) -> None:
    with ThreadPoolExecutor(CALLERS) as callers:
        done = [callers.submit(connect, service, authority) for _ in range(CALLERS)]
        for name in ("second", "third"):
            put(authority, served, name)
    for each in done:
        each.result()
    service.stop()
