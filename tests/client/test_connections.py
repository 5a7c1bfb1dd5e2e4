"""Which replica is asked, over which connection, and with which certificate."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from client.fake_service import FakeService
from ndoo.client import CallFailed, Client, ClientClosed, Tls, Verdict
from ndoo.client.connections import Connection, Connections
from ndoo.client.job import Stop
from ndoo.client.tries import Tries
from ndoo.v1 import check_pb2_grpc

UNREACHED = CallFailed("Nobody there.", grpc.StatusCode.UNAVAILABLE, "", None)
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with openssl"
)


class Channel:
    def __init__(self, target: str, tls: Tls | None) -> None:
        self.target, self.is_closed = target, False

    def close(self) -> None:
        self.is_closed = True


def connections_to(*targets: str, tls: Tls | None = None) -> Connections[Channel]:
    return Connections(targets, tls, Channel, Channel.close)


def targets_of(pool: Connections[Channel], count: int) -> list[str]:
    taken = []
    for _ in range(count):
        with pool.lease(is_shared=True) as connection:
            taken.append(connection.target)
    return taken


def test_replicas_take_turns() -> None:
    assert targets_of(connections_to("a", "b", "c"), 6) == ["a", "b", "c", "a", "b", "c"]


def test_one_that_cannot_be_reached_is_passed_over_while_there_is_another() -> None:
    pool = connections_to("a", "b")
    with pytest.raises(CallFailed), pool.lease():
        raise UNREACHED
    assert targets_of(pool, 4) == ["b"] * 4
    with pytest.raises(CallFailed), pool.lease(avoiding={"a"}):
        raise UNREACHED
    assert set(targets_of(pool, 1)) <= {"a", "b"}, "better one of them than none"


def test_one_that_refused_is_still_reachable() -> None:
    pool = connections_to("a", "b")
    refusal = CallFailed("Not loaded.", grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", 1.0)
    with pytest.raises(CallFailed), pool.lease():
        raise refusal
    assert targets_of(pool, 2) == ["b", "a"]


def test_bulk_work_has_a_connection_alone_and_short_calls_share() -> None:
    pool = connections_to("a")
    with pool.lease() as one, pool.lease() as other:
        assert one.channel is not other.channel
        with pool.lease(is_shared=True) as third, pool.lease(is_shared=True) as fourth:
            assert third.channel is fourth.channel
            assert third.channel not in {one.channel, other.channel}
    with pool.lease() as again:
        assert again in {one, other}


def test_what_is_about_to_be_closed_is_taken_by_nobody_else() -> None:
    pool = connections_to("a")
    work = contextlib.ExitStack()

    def drop(connection: Connection[Channel]) -> None:
        work.close()  # its user is ready at this very moment
        with pool.lease() as taken:
            assert taken is not connection
            pool.drop(connection)
            assert not taken.channel.is_closed

    stop = Stop(SimpleNamespace(drop=drop))
    connection = work.enter_context(pool.lease())
    work.enter_context(stop.using(connection))
    stop.stop()
    assert connection.channel.is_closed


def test_closing_closes_all_and_for_good() -> None:
    pool = connections_to("a")
    with pool.lease() as used:
        pass
    with pool.lease() as in_use:
        pool.close()
        assert used.channel.is_closed
        assert in_use.channel.is_closed
    with pytest.raises(ClientClosed), pool.lease():
        pass


def test_pauses_double_and_end_with_the_time() -> None:
    tries = Tries(within_s=3600.0)
    pauses = [tries.pause_s(UNREACHED) for _ in range(12)]
    assert all(0 < pause <= 1.5 * 5.0 for pause in pauses)
    assert pauses[6] > pauses[0]
    with pytest.raises(CallFailed):
        Tries(within_s=0.0).pause_s(UNREACHED)
    told = CallFailed("Later.", grpc.StatusCode.UNAVAILABLE, "NOT_LOADED", 7.0)
    assert Tries(within_s=None).pause_s(told) >= 7.0
    with pytest.raises(CallFailed):
        Tries(within_s=60.0).pause_s(CallFailed("Later.", told.code, "NOT_LOADED", 2.0**60))


@pytest.mark.parametrize(
    "error",
    [
        CallFailed("No.", grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_NUMBERS", None),
        CallFailed("No.", grpc.StatusCode.UNAVAILABLE, "SOME_REASON", None),
        CallFailed("No.", grpc.StatusCode.DEADLINE_EXCEEDED, "", None),
        CallFailed("No.", grpc.StatusCode.INTERNAL, "", None),
        CallFailed("No.", grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_SPENT", 3600.0),
    ],
)
def test_what_another_try_cannot_help_is_raised(error: CallFailed) -> None:
    with pytest.raises(CallFailed) as caught:
        Tries(within_s=None).pause_s(error)
    assert caught.value is error


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="together"):
        Tls(certificate="mine.pem")


def test_renewed_files_mean_new_connections(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("old")
    pool = connections_to("a", tls=Tls(ca))
    with pool.lease() as before, pool.lease(is_shared=True) as shared:
        pass
    with pool.lease() as in_use:
        assert in_use is before
        ca.write_text("renewed")
        with pool.lease() as after:
            assert after.channel is not in_use.channel
            assert not in_use.channel.is_closed
            assert shared.channel.is_closed
    with pool.lease() as again:
        assert again is after
        assert before.channel.is_closed


def test_what_somebody_took_meanwhile_is_not_closed_as_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread looked at the files just before they were renewed, and takes what is left."""
    ca = tmp_path / "ca.pem"
    ca.write_text("old")
    pool = connections_to("a", tls=(tls := Tls(ca)))
    in_use = []

    def close(channel: Channel) -> None:
        channel.close()
        if not in_use:
            monkeypatch.setattr(Tls, "signature", lambda _tls: old)
            in_use.append(lease.enter_context(pool.lease()))

    with contextlib.ExitStack() as lease:
        with pool.lease(), pool.lease():
            old = tls.signature()
        pool.close_channel = close
        ca.write_text("renewed")
        with pool.lease():
            pass
        assert [each.channel.is_closed for each in in_use] == [False]


def authority(folder: Path, name: str) -> Path:
    """An authority, and a certificate of it for 127.0.0.1, in *folder*."""
    subject = ["-subj", f"/CN={name}"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
           "-nodes", "-days", "2"]  # fmt: skip
    ca = ["-keyout", folder / f"{name}-ca.key", "-out", folder / f"{name}-ca.pem"]
    subprocess.run([*new, *subject, *ca], check=True, capture_output=True)
    signed = ["-CA", folder / f"{name}-ca.pem", "-CAkey", folder / f"{name}-ca.key"]
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    own = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
    subprocess.run([*new, *subject, *signed, *extra, *own], check=True, capture_output=True)
    return folder / name


@contextlib.contextmanager
def serving_tls(name: Path, callers: Path) -> Iterator[str]:
    """A service with the certificate of *name*, which demands one by *callers*."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    check_pb2_grpc.add_OptOutCheckServicer_to_server(FakeService(), server)
    pair = (name.with_suffix(".key").read_bytes(), name.with_suffix(".pem").read_bytes())
    ca = Path(f"{callers}-ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@needs_openssl
def test_both_sides_show_certificates_and_renewed_ones_are_used(tmp_path: Path) -> None:
    service, caller, stranger = (authority(tmp_path, name) for name in ("svc", "me", "other"))
    mine = Tls(f"{service}-ca.pem", f"{caller}.pem", f"{caller}.key")
    with serving_tls(service, caller) as address:
        with Client(address, tls=mine) as client:
            assert client.check(5) is Verdict.INVALID
        for refused in (
            Tls(f"{stranger}-ca.pem", f"{caller}.pem", f"{caller}.key"),
            Tls(f"{service}-ca.pem", f"{stranger}.pem", f"{stranger}.key"),
            Tls(f"{service}-ca.pem"),
            None,
        ):
            with Client(address, tls=refused, timeout_s=0.5) as client, pytest.raises(CallFailed):
                client.check(5)
        renewed = Tls(*(tmp_path / name for name in ("now-ca.pem", "now.pem", "now.key")))
        put_in_place(stranger, tmp_path / "now", ca=stranger)
        with Client(address, tls=renewed, timeout_s=0.5) as client:
            with pytest.raises(CallFailed):
                client.check(5)
            put_in_place(caller, tmp_path / "now", ca=service)
            assert client.check(5) is Verdict.INVALID


def put_in_place(name: Path, place: Path, ca: Path) -> None:
    for source, target in ((f"{ca}-ca.pem", f"{place}-ca.pem"), (f"{name}.pem", f"{place}.pem"),
                           (f"{name}.key", f"{place}.key")):  # fmt: skip
        shutil.copy(source, target)
