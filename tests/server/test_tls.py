"""TLS over real sockets: who gets in, who does not, and certificates that change meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ndoo.client import Client, Tls, Verdict
from ndoo.errors import InputError
from ndoo.server import tls
from ndoo.server.access import OpenDoor
from ndoo.server.calls import SERVICE_NAME
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import NUMBERS, House, MakeHouse
from support.certificates import Authority, Certificate
from support.following import PATIENCE_S, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with openssl"
)

OUT, CLEARED = int(NUMBERS[0]), int(NUMBERS[1])
LOAD_THREADS = 3
ANSWERS_A_STEP = 20
CONNECTION_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def served(authority: Authority) -> Certificate:
    return authority.issue("server")


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Certificate:
    return authority.issue("caller", names="DNS:caller.example")


def settings_of(served: Certificate, authority: Authority | None = None) -> dict[str, str]:
    settings = {"tls_certificate": str(served.cert), "tls_key": str(served.key)}
    return settings | ({"tls_client_ca": str(authority.cert)} if authority else {})


@pytest.fixture
async def mutual(make_house: MakeHouse, served: Certificate, authority: Authority) -> House:
    """A house whose callers must show a certificate of *authority*."""
    house = await make_house(**settings_of(served, authority))
    house.publish({OUT})
    return house


@contextlib.asynccontextmanager
async def calling(
    house: House, ca: Authority, shown: Certificate | None = None
) -> AsyncIterator[check_pb2_grpc.OptOutCheckStub]:
    """Who trusts *ca* and shows a certificate."""
    pair = (shown.key.read_bytes(), shown.cert.read_bytes()) if shown else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.cert.read_bytes(), *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(house.address, credentials, options) as channel:
        yield check_pb2_grpc.OptOutCheckStub(channel)


async def verdict_on(stub: check_pb2_grpc.OptOutCheckStub, number: int) -> int:
    request = check_pb2.CheckRequest(nhs_number=str(number))
    return (await stub.Check(request, timeout=30)).verdict


async def refused(stub: check_pb2_grpc.OptOutCheckStub) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await verdict_on(stub, CLEARED)
    return error.value.code()


def calls_begun(house: House) -> float:
    metrics = house.metrics.registry.collect()
    samples = [each for metric in metrics for each in metric.samples]
    return sum(each.value for each in samples if each.name == "grpc_server_started_total")


async def test_whoever_shows_the_right_certificate_is_answered(
    mutual: House, authority: Authority, caller: Certificate
) -> None:
    async with calling(mutual, authority, caller) as stub:
        assert await verdict_on(stub, CLEARED) == check_pb2.VERDICT_CLEARED
        assert await verdict_on(stub, OUT) == check_pb2.VERDICT_OPTED_OUT
    assert calls_begun(mutual) == 2


async def test_nobody_else_reaches_a_handler(
    mutual: House, authority: Authority, stranger: Authority
) -> None:
    strangers = [
        None,
        stranger.issue("caller", names="DNS:caller.example"),
        authority.issue("late", names="DNS:caller.example", days=-1),
    ]
    for shown in strangers:
        async with calling(mutual, authority, shown) as stub:
            assert await refused(stub) is grpc.StatusCode.UNAVAILABLE
    assert await refused(mutual.stub) is grpc.StatusCode.UNAVAILABLE, "in plaintext"
    assert calls_begun(mutual) == 0


async def test_without_authorities_no_certificate_is_asked_for(
    make_house: MakeHouse, served: Certificate, authority: Authority, stranger: Authority
) -> None:
    house = await make_house(**settings_of(served))
    house.publish({OUT})
    async with calling(house, authority) as stub:
        assert await verdict_on(stub, CLEARED) == check_pb2.VERDICT_CLEARED
    async with calling(house, stranger) as stub:
        assert await refused(stub) is grpc.StatusCode.UNAVAILABLE, "the caller refuses us"
    assert await refused(house.stub) is grpc.StatusCode.UNAVAILABLE, "in plaintext"


async def test_nobody_serves_with_files_that_are_not_good(
    make_house: MakeHouse, authority: Authority, served: Certificate
) -> None:
    late = authority.issue("late-server", days=-1)
    with pytest.raises(InputError, match="expired"):
        await make_house(**settings_of(late))
    with pytest.raises(InputError, match="not the key"):
        await make_house(**settings_of(Certificate(served.cert, late.key)))


def shake_hands(
    house: House, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession, bool]:
    """Connect as far as the first bytes of HTTP/2. Returns the session, and if it was resumed."""
    host, _, port = house.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as connection,
    ):
        connection.sendall(CONNECTION_PREFACE)
        if not connection.recv(100):
            raise ssl.SSLError("the server ended the connection")
        return connection.session, connection.session_reused


def context_of(authority: Authority, caller: Certificate, newest: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(caller.cert, caller.key)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is not this side that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest
    return context


async def test_no_tls_before_1_2(mutual: House, authority: Authority, caller: Certificate) -> None:
    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = context_of(authority, caller, newest)
        await asyncio.to_thread(shake_hands, mutual, context)
    context = context_of(authority, caller, ssl.TLSVersion.TLSv1_1)
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(shake_hands, mutual, context)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_is_resumed_when_its_time_is_over(
    mutual: House,
    authority: Authority,
    caller: Certificate,
    newest: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even the end of a certificate would end it: a caller is verified once in that time."""
    context = context_of(authority, caller, newest)
    session, _ = await asyncio.to_thread(shake_hands, mutual, context)
    _, is_resumed = await asyncio.to_thread(shake_hands, mutual, context, session)
    assert is_resumed
    monkeypatch.setattr(tls, "SESSIONS_S_MAX", 0.0)
    _, is_resumed = await asyncio.to_thread(shake_hands, mutual, context, session)
    assert not is_resumed


class Mounted:
    """Files that are replaced all at once, as Kubernetes does it: behind a link to their folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._versions = 0
        directory.mkdir()

    def put(self, pair: Certificate, *authorities: Authority) -> None:
        self._versions += 1
        version = self._directory / str(self._versions)
        version.mkdir()
        (version / "tls.crt").write_bytes(pair.cert.read_bytes())
        (version / "tls.key").write_bytes(pair.key.read_bytes())
        (version / "ca.crt").write_bytes(b"".join(each.cert.read_bytes() for each in authorities))
        link = self._directory / "next"
        link.symlink_to(version)
        link.rename(self._directory / "now")

    def spoil(self, name: str, raw: bytes | None = None) -> None:
        """Write *raw* over a file, or take it away."""
        path = self._directory / "now" / name
        path.unlink() if raw is None else path.write_bytes(raw)

    def __getitem__(self, name: str) -> str:
        return str(self._directory / "now" / name)


class Load:
    """Callers that do not rest; the first failure of any is kept."""

    def __init__(self, house: House, files: Mounted) -> None:
        self._files = Tls(files["ca.crt"], files["tls.crt"], files["tls.key"])
        self._address = house.address.replace("127.0.0.1", "localhost")
        self._is_over = False
        self._news = threading.Condition()
        self._answered = 0
        self._errors: list[Exception] = []

    async def __aenter__(self) -> Self:
        self._client = Client(self._address, tls=self._files)
        self._pool = ThreadPoolExecutor(LOAD_THREADS)
        for _ in range(LOAD_THREADS):
            self._pool.submit(self._ask)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.to_thread(self._pool.shutdown)
        self._client.close()

    async def goes_on(self) -> None:
        """Until there were answers to questions that were asked from now on."""
        enough = self._answered + ANSWERS_A_STEP
        await asyncio.to_thread(self._wait, lambda: self._errors or self._answered > enough)
        assert not self._errors

    def _wait(self, condition: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE_S)

    def _ask(self) -> None:
        try:
            while not self._is_over and not self._errors:
                assert self._client.check(CLEARED) is Verdict.CLEARED
                column = self._client.check_many(NUMBERS[:20_000])
                assert column.cleared.sum() == 20_000 - 1
                self._tell(1)
        except Exception as error:  # noqa: BLE001
            self._errors.append(error)
            self._tell(0)

    def _tell(self, answered: int) -> None:
        with self._news:
            self._answered += answered
            self._news.notify_all()


async def test_certificates_and_authorities_are_rotated_under_load(
    make_house: MakeHouse, tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    old, new = authority, stranger
    ours, theirs = Mounted(tmp_path / "ours"), Mounted(tmp_path / "theirs")
    ours.put(old.issue("server-1"), old)
    theirs.put(caller := old.issue("caller-1"), old)
    house = await make_house(
        tls_certificate=ours["tls.crt"],
        tls_key=ours["tls.key"],
        tls_client_ca=ours["ca.crt"],
        connection_age_s=1.0,
    )
    house.publish({OUT})
    async with Load(house, theirs) as load:
        await load.goes_on()
        for step in (
            lambda: ours.put(old.issue("server-2"), old),
            lambda: (ours.spoil("tls.crt", b"broken"), ours.spoil("ca.crt")),
            lambda: ours.put(old.issue("server-3"), old, new),
            lambda: theirs.put(old.issue("caller-2"), old, new),
            lambda: ours.put(new.issue("server-4"), old, new),
            lambda: theirs.put(new.issue("caller-3"), new),
        ):
            step()
            await load.goes_on()
        async with calling(house, new, caller) as stub:
            assert await verdict_on(stub, CLEARED) == check_pb2.VERDICT_CLEARED
            ours.put(new.issue("server-5"), new)
            await load.goes_on()
            async with calling(house, new, caller) as later:
                assert await refused(later) is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError):  # with the age of its connection
                while await verdict_on(stub, CLEARED):
                    pass


def sample(house: House, name: str, certificate: str) -> float | None:
    return house.metrics.registry.get_sample_value(name, {"certificate": certificate})


async def test_a_broken_file_alarms_though_nobody_connects(
    make_house: MakeHouse,
    tmp_path: Path,
    authority: Authority,
    served: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "LOOK_S", 0.01)
    mounted = Mounted(tmp_path / "mounted")
    mounted.put(served, authority)
    house = await make_house(
        tls_certificate=mounted["tls.crt"],
        tls_key=mounted["tls.key"],
        tls_client_ca=mounted["ca.crt"],
    )

    def alarms() -> tuple[float | None, ...]:
        names = (tls.SERVING, tls.CLIENT_CA)
        return tuple(sample(house, "ndoo_certificate_refused", name) for name in names)

    async def until(expected: Callable[[], bool]) -> None:
        await asyncio.to_thread(wait_for, expected)

    await until(lambda: alarms() == (0, 0))
    assert sample(house, "ndoo_certificate_expiry_timestamp_seconds", tls.SERVING) > 1e9
    mounted.spoil("tls.key", b"half of a")
    await until(lambda: alarms() == (1, 0))
    mounted.spoil("ca.crt")
    await until(lambda: alarms() == (1, 1))
    mounted.put(served, authority)
    await until(lambda: alarms() == (0, 0))


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


async def test_beside_tls_health_alone_is_served_in_plaintext(
    make_house: MakeHouse, served: Certificate, authority: Authority
) -> None:
    settings = settings_of(served, authority) | {"health_listen": "127.0.0.1:0"}
    house = await make_house(**settings, reflection="true")
    service = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    async with grpc.aio.insecure_channel(house.server.health_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(service)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await health.Check(service)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        house.publish({OUT})
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await refused(check_pb2_grpc.OptOutCheckStub(channel)) is UNIMPLEMENTED
        assert not await offers_reflection(channel)
        await house.server.stop()
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


async def offers_reflection(channel: grpc.aio.Channel) -> bool:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    try:
        answer = await stub.ServerReflectionInfo(iter([request])).read()
    except grpc.aio.AioRpcError as error:
        if error.code() is not UNIMPLEMENTED:
            raise
        return False
    return bool(answer.list_services_response.service)


@pytest.mark.parametrize(
    ("reflection", "clients", "offered"),
    [
        ("auto", "", True),
        ("auto", "clients.toml", False),
        ("true", "clients.toml", True),
        ("false", "", False),
    ],
)
async def test_reflection_is_for_when_everybody_may_ask(
    make_house: MakeHouse, reflection: str, clients: str, offered: bool
) -> None:
    house = await make_house(reflection=reflection, clients=clients, door=OpenDoor())
    assert await offers_reflection(house.channel) is offered


async def test_only_some_may_call_and_nobody_knows_them_is_never_open(
    make_house: MakeHouse,
) -> None:
    with pytest.raises(RuntimeError, match="no door"):
        await make_house(clients="clients.toml")


async def test_a_health_port_that_is_taken_is_told(make_house: MakeHouse, free_port: int) -> None:
    with pytest.raises(InputError, match="--health-listen"):
        await make_house(health_listen=f"127.0.0.1:{free_port}")
