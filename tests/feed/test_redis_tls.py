"""Redis over TLS: who is trusted, who is not, and what is said then."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndoo.errors import FeedUnavailable
from ndoo.feed.url import open_feed
from ndoo.publish.open import open_publisher
from support.certificates import Authority
from support.people import opt_out
from support.places import Place
from support.redis_server import RedisServer, executable


def _speaks_tls() -> bool:
    # Where TLS is not built in, its directives are unknown, and that is said before anything else.
    ran = subprocess.run(
        [executable(), "--port", "0", "--tls-auth-clients", "optional", "--tls-cluster", "maybe"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "tls-cluster" in ran.stdout + ran.stderr


pytestmark = [
    pytest.mark.skipif(not _speaks_tls(), reason="this Redis server was built without TLS"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made with openssl"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with _serving(authority, tmp_path_factory.mktemp("tls")) as server:
        yield server


@contextlib.contextmanager
def _serving(
    authority: Authority, directory: Path, *options: str, **issued: object
) -> Iterator[RedisServer]:
    certificate = authority.issue(directory.name, **issued)
    server = RedisServer(directory, *options, tls=certificate, authority=authority)
    try:
        yield server
    finally:
        server.kill()


def url_of(server: RedisServer, authority: Authority, more: str = "") -> str:
    return f"rediss://localhost:{server.port}/0?ca={authority.cert}{more}"


def trouble_of(url: str) -> str:
    with (
        contextlib.closing(open_feed(url)) as feed,
        pytest.raises(FeedUnavailable) as refused,
    ):
        feed.load()
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_a_verified_server_is_written_and_read(server: RedisServer, authority: Authority) -> None:
    with contextlib.ExitStack() as stack:
        place = Place(url_of(server, authority), None, stack)
        place.loaded(0).append([opt_out(1)])
        assert len(place.register()) == 2


def test_what_tls_sends_by_itself_is_not_taken_for_an_answer(
    server: RedisServer, authority: Authority
) -> None:
    with contextlib.ExitStack() as stack:
        Place(url_of(server, authority), None, stack).loaded(0)
    for _ in range(30):  # it comes a moment after the handshake, or a moment later
        with contextlib.closing(open_publisher(url_of(server, authority))) as publisher:
            publisher.append([opt_out(1)])


def test_the_address_may_be_named_in_the_certificate(
    server: RedisServer, authority: Authority
) -> None:
    url = url_of(server, authority).replace("localhost", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        Place(url, None, stack).loaded(0)


def test_an_unknown_authority_is_refused(server: RedisServer) -> None:
    assert "name that one with 'ca'" in trouble_of(f"rediss://localhost:{server.port}")


def test_only_the_named_authority_is_trusted(
    server: RedisServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))  # as if the system trusted it
    with contextlib.ExitStack() as stack:
        Place(f"rediss://localhost:{server.port}", None, stack).loaded(0)
    other = Authority(tmp_path, "other")
    assert "name that one with 'ca'" in trouble_of(url_of(server, other))


def test_a_certificate_for_another_host_is_refused(authority: Authority, tmp_path: Path) -> None:
    with _serving(authority, tmp_path, names="DNS:elsewhere") as server:
        assert "is for another host name" in trouble_of(url_of(server, authority))
        by_address = url_of(server, authority).replace("localhost", "127.0.0.1")
        assert "is for another" in trouble_of(by_address)


def test_an_expired_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    with _serving(authority, tmp_path, days=-1) as server:
        assert "has expired" in trouble_of(url_of(server, authority))


def test_a_server_may_want_to_know_who_calls(authority: Authority, tmp_path: Path) -> None:
    reader = authority.issue("reader")
    with _serving(authority, tmp_path, "--tls-auth-clients", "yes") as server:
        known = url_of(server, authority, f"&cert={reader.cert}&key={reader.key}")
        with contextlib.ExitStack() as stack:
            Place(known, None, stack).loaded(0)
        assert "may want a certificate" in trouble_of(url_of(server, authority))


def test_a_file_that_is_not_there_is_told(server: RedisServer, authority: Authority) -> None:
    for url in (
        f"rediss://localhost:{server.port}?ca=/nowhere",
        url_of(server, authority, "&cert=/nowhere"),
        f"rediss://localhost:{server.port}?ca={__file__}",
    ):
        assert "'ca', 'cert' or 'key' cannot be used" in trouble_of(url)


def test_tls_towards_a_server_without_it_is_told(redis_server: RedisServer) -> None:
    assert "does not answer in TLS" in trouble_of(f"rediss://127.0.0.1:{redis_server.port}")


def test_no_tls_towards_a_server_that_wants_it_is_told(server: RedisServer) -> None:
    assert "wants TLS" in trouble_of(f"redis://127.0.0.1:{server.port}")
