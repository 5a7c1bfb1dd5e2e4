"""Over real sockets: who is no client gets no answer, and a client gets what it may and no more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from ndoo.client import AsyncClient, CallFailed, Client, Tls, Verdict
from ndoo.client import client as client_module
from ndoo.config import Settings
from ndoo.ops.audit import AuditRecord, NoAudit
from ndoo.server.gate import Gate
from ndoo.server.policy import RPCS, ClientPolicy
from ndoo.server.rules import RulesFiles
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import NUMBERS, House, MakeHouse
from support.answers import Refused, refused
from support.certificates import Authority, Certificate
from support.policies import ABSENT, TOKENS, URI, client, write_policy
from support.tokens import NOW, Signer, write_keys

NUMBER = int(NUMBERS[1])
SIGNER, NEXT = Signer("first"), Signer("next")
ALL = sorted(RPCS)
REQUESTS: dict[str, Message] = {
    "Check": check_pb2.CheckRequest(nhs_number=str(NUMBER)),
    "BatchCheck": check_pb2.BatchCheckRequest(nhs_numbers=[NUMBER]),
    "StreamCheck": check_pb2.StreamCheckRequest(nhs_numbers=[NUMBER]),
    "CheckSet": check_pb2.CheckSetRequest(),
    "GetRegister": check_pb2.GetRegisterRequest(),
}
NOT_IDENTIFIED = (grpc.StatusCode.UNAUTHENTICATED, "NOT_IDENTIFIED")
WRONG_RPC = (grpc.StatusCode.PERMISSION_DENIED, "RPC_NOT_ALLOWED")
WRONG_PURPOSE = (grpc.StatusCode.PERMISSION_DENIED, "PURPOSE_NOT_ALLOWED")


class Records(NoAudit):
    def __init__(self) -> None:
        self.all: list[AuditRecord] = []

    def record(self, record: AuditRecord) -> None:
        self.all.append(record)


class Generous:
    """Quotas without end, that count what they are asked for, and for whom."""

    def __init__(self) -> None:
        self.limits: list[ClientPolicy] = []
        self.running = self.spent = 0
        self.marks = ("NOTICED",)

    def for_client(self, client: ClientPolicy) -> Generous:
        self.limits.append(client)
        return self

    def begin(self, rpc: str) -> Generous:
        self.running += 1
        return self

    def take_place(self) -> None:
        pass

    async def spend(self, numbers: int) -> None:
        self.spent += numbers

    def observe(self, answers: object, sample: object) -> None:
        pass

    def release(self) -> None:
        self.running -= 1


class Silent:
    def on_clients(self, names: Collection[str]) -> None:
        pass

    def on_policy(self, loaded_at: float) -> None:
        pass

    def on_policy_refused(self, refused: bool) -> None:
        pass


@dataclass
class Guarded:
    """A service with a door, the files that it goes by, and what it noted."""

    house: House
    path: Path
    files: RulesFiles
    records: Records
    quotas: Generous
    authority: Authority | None = None
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def allow(self, **clients: dict[str, Any]) -> None:
        write_policy(self.path / "clients.toml", clients, TOKENS)
        self.files.look()

    def stub(self, certificate: Certificate | None = None) -> check_pb2_grpc.OptOutCheckStub:
        if certificate is None:
            return self.house.stub
        ca, key, cert = (
            f.read_bytes() for f in (self.authority.cert, certificate.key, certificate.cert)
        )
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        channel = grpc.aio.secure_channel(self.house.address, credentials)
        self.channels.append(channel)
        return check_pb2_grpc.OptOutCheckStub(channel)

    async def refusal(
        self, rpc: str, certificate: Certificate | None = None, **metadata: str
    ) -> Refused:
        """How a call is refused. It must leave one record, and nothing running."""
        before, spent = len(self.records.all), self.quotas.spent
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(self.stub(certificate), rpc, **metadata)
        told = refused(caught.value)
        (record,) = self.records.all[before:]
        assert (record.rpc, record.status, record.reason) == (rpc, told.code.name, told.reason)
        assert (record.received, record.revision) == (0, "")
        assert (self.quotas.running, self.quotas.spent, told.retry_s) == (0, spent, None)
        return told

    @property
    def last(self) -> AuditRecord:
        return self.records.all[-1]


async def ask(stub: check_pb2_grpc.OptOutCheckStub, rpc: str, **metadata: str) -> list[Message]:
    sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    method, request = getattr(stub, rpc), REQUESTS[rpc]
    if rpc in {"StreamCheck", "CheckSet"}:
        return [each async for each in method(iter([request]), metadata=sent)]
    return [await method(request, metadata=sent)]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def kind(told: Refused) -> tuple[grpc.StatusCode, str]:
    return told.code, told.reason


MakeGuarded = Callable[..., Any]


@pytest.fixture
async def make_guarded(make_house: MakeHouse, tmp_path: Path) -> AsyncIterator[MakeGuarded]:
    made: list[Guarded] = []

    async def make(authority: Authority | None = None, **clients: dict[str, Any]) -> Guarded:
        write_policy(tmp_path / "clients.toml", clients, TOKENS)
        write_keys(tmp_path / "jwks.json", SIGNER.jwk())
        settings: dict[str, Any] = {"clients": str(tmp_path / "clients.toml")}
        if authority:
            server = authority.issue("server")
            settings |= {
                "tls_certificate": str(server.cert), "tls_key": str(server.key),
                "tls_client_ca": str(authority.cert),
            }  # fmt: skip
        files = RulesFiles(Settings.from_env({}, feed="dir:x", **settings), Silent())
        records, quotas = Records(), Generous()
        door = Gate(files, quotas, clock=lambda: NOW)
        house = await make_house(door=door, audit=records, **settings)
        house.publish({int(number) for number in NUMBERS[:1000:3]})
        made.append(Guarded(house, tmp_path, files, records, quotas, authority))
        return made[-1]

    yield make
    for guarded in made:
        for channel in guarded.channels:
            await channel.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def one(authority: Authority) -> Certificate:
    return authority.issue("one", names="URI:spiffe://trust.example/one,DNS:one.example")


BY_TOKEN = client(certificate_names=ABSENT, token_subjects=["one"], rpcs=ALL)


def test_every_method_there_is_can_be_asked_here() -> None:
    methods = check_pb2.DESCRIPTOR.services_by_name["OptOutCheck"].methods_by_name
    assert set(methods) == set(REQUESTS) == RPCS


async def test_a_certificate_in_the_policy(
    make_guarded: MakeGuarded, authority: Authority, one: Certificate
) -> None:
    guarded = await make_guarded(authority, one=client(rpcs=ALL))
    for rpc in ALL:
        assert await ask(guarded.stub(one), rpc)
        assert (guarded.last.client, guarded.last.rpc, guarded.last.status) == ("one", rpc, "OK")
        assert guarded.last.marks == ("NOTICED",)
    assert (guarded.quotas.running, guarded.quotas.spent) == (0, 3)


def uri_in_der(uri: bytes) -> str:
    """An alternative name as its bytes stand in a certificate; as text it could not hold all."""
    name = bytes([0x86, len(uri)]) + uri
    return f"DER:{(bytes([0x30, len(name)]) + name).hex(':')}"


STRANGERS = {
    "another name": "URI:spiffe://trust.example/two",
    "the name and more": "URI:spiffe://trust.example/one/more",
    "the name as an e-mail address": "email:spiffe://trust.example/one",
    "no name of a kind that is known": "RID:1.2.3.4",
    "the name up to a NUL": uri_in_der(b"spiffe://trust.example/one\0.other.example"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_a_good_certificate_that_is_not_in_the_policy(
    make_guarded: MakeGuarded, authority: Authority, stranger: str
) -> None:
    guarded = await make_guarded(authority, one=client(rpcs=ALL, token_subjects=["one"]))
    certificate = authority.issue("stranger", names=STRANGERS[stranger])
    for rpc in ALL:
        assert kind(await guarded.refusal(rpc, certificate)) == NOT_IDENTIFIED
        assert guarded.last.client == ""
        token = bearer(SIGNER.token())  # a good one, of which the certificate knows nothing
        assert kind(await guarded.refusal(rpc, certificate, **token)) == NOT_IDENTIFIED


@pytest.mark.parametrize("rpc", ALL)
async def test_nothing_of_a_strangers_message_is_waited_for(
    make_guarded: MakeGuarded, rpc: str
) -> None:
    """What waits for its end takes memory, and strangers are as many as they like."""
    guarded = await make_guarded(one=BY_TOKEN)
    call = guarded.house.channel.stream_unary(f"/ndoo.v1.OptOutCheck/{rpc}")(timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert kind(refused(caught.value)) == NOT_IDENTIFIED
    assert guarded.last.reason == "NOT_IDENTIFIED"


async def test_certificate_and_token_together(
    make_guarded: MakeGuarded, authority: Authority, one: Certificate
) -> None:
    two = client(rpcs=ALL, certificate_names=[URI.format("two")], token_subjects=["two"])
    guarded = await make_guarded(authority, one=client(rpcs=ALL, token_subjects=["one"]), two=two)
    assert await ask(guarded.stub(one), "Check", **bearer(SIGNER.token()))
    assert (
        kind(await guarded.refusal("Check", one, **bearer(SIGNER.token(sub="two"))))
        == NOT_IDENTIFIED
    )
    assert kind(await guarded.refusal("Check", one, **bearer("x"))) == NOT_IDENTIFIED


@pytest.mark.parametrize("allowed", ALL)
async def test_a_client_calls_what_is_listed_and_nothing_else(
    make_guarded: MakeGuarded, authority: Authority, one: Certificate, allowed: str
) -> None:
    guarded = await make_guarded(authority, one=client(rpcs=[allowed]))
    for rpc in sorted(RPCS - {allowed}):
        assert kind(await guarded.refusal(rpc, one)) == WRONG_RPC
        assert guarded.last.client == "one"
    assert await ask(guarded.stub(one), allowed)


PURPOSES: dict[str, tuple[dict[str, Any], dict[str, str], bool]] = {
    "none needed, none declared": ({}, {}, True),
    "none needed, an empty one declared": ({}, {"ndoo_purpose": ""}, True),
    "none needed, one declared": ({}, {"ndoo_purpose": "research"}, False),
    "missing": ({"purposes": ["research"]}, {}, False),
    "empty": ({"purposes": ["research"]}, {"ndoo_purpose": ""}, False),
    "another": ({"purposes": ["research"]}, {"ndoo_purpose": "planning"}, False),
    "in capitals": ({"purposes": ["research"]}, {"ndoo_purpose": "Research"}, False),
    "a part": ({"purposes": ["research"]}, {"ndoo_purpose": "res"}, False),
    "listed": ({"purposes": ["research"]}, {"ndoo_purpose": "research"}, True),
    "optional": ({"purposes": ["research"], "purpose_required": False}, {}, True),
    "reference missing": ({"reference_required": True}, {}, False),
    "reference empty": ({"reference_required": True}, {"ndoo_reference": ""}, False),
    "reference given": ({"reference_required": True}, {"ndoo_reference": "18/CAG/1"}, True),
}


@pytest.mark.parametrize("name", PURPOSES)
async def test_purpose_and_reference(
    make_guarded: MakeGuarded, authority: Authority, one: Certificate, name: str
) -> None:
    entries, metadata, is_allowed = PURPOSES[name]
    guarded = await make_guarded(authority, one=client(rpcs=ALL, **entries))
    for rpc in ALL:
        if is_allowed:
            assert await ask(guarded.stub(one), rpc, **metadata)
            assert guarded.last.purpose == metadata.get("ndoo_purpose", "")
            assert guarded.last.reference == metadata.get("ndoo_reference", "")
        else:
            assert kind(await guarded.refusal(rpc, one, **metadata)) == WRONG_PURPOSE
            assert guarded.last.client == "one"


TOKENS_REFUSED: dict[str, Callable[[], dict[str, str]]] = {
    "nothing": dict,
    "an empty header": lambda: {"authorization": ""},
    "no token": lambda: {"authorization": "Bearer"},
    "an empty token": lambda: {"authorization": "Bearer "},
    "blanks": lambda: {"authorization": "Bearer     "},
    "another scheme": lambda: {"authorization": f"Basic {SIGNER.token()}"},
    "no scheme": lambda: {"authorization": SIGNER.token()},
    "another header": lambda: {"x_token": SIGNER.token()},
    "expired": lambda: bearer(SIGNER.token(exp=NOW - 60)),
    "without an end": lambda: bearer(SIGNER.token(exp=None)),
    "for another service": lambda: bearer(SIGNER.token(aud="other")),
    "of another issuer": lambda: bearer(SIGNER.token(iss="https://other.example")),
    "of somebody unknown": lambda: bearer(SIGNER.token(sub="nobody")),
    "of nobody": lambda: bearer(SIGNER.token(sub="")),
    "forged": lambda: bearer(Signer("first").token()),
    "by another algorithm": lambda: bearer(Signer("first", "EdDSA").token()),
    "by an unknown key": lambda: bearer(NEXT.token()),
    "unsigned": lambda: bearer(SIGNER.token().rpartition(".")[0] + "."),
    "two of them": lambda: bearer(f"{SIGNER.token()}, {SIGNER.token()}"),
}


@pytest.mark.parametrize("name", TOKENS_REFUSED)
async def test_a_token_that_does_not_count(
    make_guarded: MakeGuarded, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded = await make_guarded(one=BY_TOKEN)
    metadata = TOKENS_REFUSED[name]()
    for rpc in ALL:
        told = await guarded.refusal(rpc, **metadata)
        assert kind(told) == NOT_IDENTIFIED
        assert guarded.last.client == ""
        logged = [vars(record) for record in caplog.records]
        everything = told.everything + repr(guarded.records.all) + repr(logged)
        secrets = [part for part in "".join(metadata.values()).split(".") if len(part) > 20]
        assert not [part for part in secrets if part in everything]
    assert await ask(guarded.stub(), "Check", **bearer(SIGNER.token()))
    assert guarded.last.client == "one"


async def test_a_key_that_is_taken_out_stops_its_tokens(make_guarded: MakeGuarded) -> None:
    guarded = await make_guarded(one=BY_TOKEN)
    old, new = bearer(SIGNER.token()), bearer(NEXT.token())
    assert await ask(guarded.stub(), "Check", **old)
    assert kind(await guarded_refusal(guarded, new)) == NOT_IDENTIFIED
    write_keys(guarded.path / "jwks.json", SIGNER.jwk(), NEXT.jwk())
    guarded.files.look()
    assert await ask(guarded.stub(), "Check", **old)
    assert await ask(guarded.stub(), "Check", **new)
    write_keys(guarded.path / "jwks.json", NEXT.jwk())
    guarded.files.look()
    assert kind(await guarded_refusal(guarded, old)) == NOT_IDENTIFIED
    assert await ask(guarded.stub(), "Check", **new)


async def guarded_refusal(guarded: Guarded, metadata: dict[str, str]) -> Refused:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(guarded.stub(), "Check", **metadata)
    return refused(caught.value)


OTHER = client(certificate_names=ABSENT, token_subjects=["other"], rpcs=ALL)
CHANGES: dict[str, tuple[dict[str, Any], tuple[grpc.StatusCode, str] | None]] = {
    "nothing": ({"one": BY_TOKEN}, None),
    "other limits": ({"one": BY_TOKEN | {"numbers_per_second": 5}}, None),
    "taken out": ({"two": OTHER}, NOT_IDENTIFIED),
    "another client": ({"two": BY_TOKEN}, NOT_IDENTIFIED),
    "another RPC": ({"one": BY_TOKEN | {"rpcs": ["Check"]}}, WRONG_RPC),
    "a purpose": ({"one": BY_TOKEN | {"purposes": ["research"]}}, WRONG_PURPOSE),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_running_stream_is_held_to_new_rules(make_guarded: MakeGuarded, name: str) -> None:
    clients, expected = CHANGES[name]
    guarded = await make_guarded(one=BY_TOKEN)
    request = REQUESTS["StreamCheck"]
    stream = guarded.stub().StreamCheck(metadata=[*bearer(SIGNER.token()).items()])
    await stream.write(request)
    assert (await stream.read()).chunk.count == 1
    guarded.allow(**clients)
    await stream.write(request)
    if expected is None:
        assert (await stream.read()).chunk.count == 1
        await stream.done_writing()
        assert (await stream.read()).summary.counts.received == 2
        assert guarded.quotas.limits[-1].numbers_per_second == clients["one"]["numbers_per_second"]
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert kind(refused(caught.value)) == expected
    assert (guarded.last.client, guarded.last.received, guarded.last.status) == (
        "one", 1, expected[0].name
    )  # fmt: skip
    while guarded.quotas.running:
        await asyncio.sleep(0)


async def test_a_running_stream_outlives_its_token_but_not_its_key(
    make_guarded: MakeGuarded,
) -> None:
    guarded = await make_guarded(one=BY_TOKEN)
    moments = [NOW]
    guarded.house.server._door._clock = lambda: moments[-1]
    stream = guarded.stub().StreamCheck(metadata=[*bearer(SIGNER.token()).items()])
    await stream.write(REQUESTS["StreamCheck"])
    assert (await stream.read()).chunk.count == 1
    moments.append(NOW + 3600)
    write_keys(guarded.path / "jwks.json", SIGNER.jwk(), NEXT.jwk())
    guarded.files.look()
    await stream.write(REQUESTS["StreamCheck"])
    assert (await stream.read()).chunk.count == 1
    write_keys(guarded.path / "jwks.json", NEXT.jwk())
    guarded.files.look()
    await stream.write(REQUESTS["StreamCheck"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert kind(refused(caught.value)) == NOT_IDENTIFIED


DECLARING = BY_TOKEN | {"purposes": ["research"], "reference_required": True}


async def test_the_client_introduces_itself_with_every_call(
    make_guarded: MakeGuarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SET_NUMBERS_MIN", 1)
    guarded = await make_guarded(one=DECLARING)
    given = []

    def token() -> str:
        given.append(SIGNER.token(jti=str(len(given))))
        return f"{given[-1]}\n"  # as it is read from a file

    said = {"token": token, "purpose": "research", "reference": "18/CAG/1", "call_id": "job-7"}

    def use() -> None:
        with Client(guarded.house.address, **said) as client:
            assert client.check(NUMBER) is Verdict.CLEARED
            assert client.check_many([NUMBER] * 10).cleared.all()
            assert client.check_set([NUMBER] * 10).cleared.all()
            assert list(client.check_each([[NUMBER], [NUMBER]]))

    await asyncio.to_thread(use)
    async with AsyncClient(guarded.house.address, **said) as client:
        assert await client.check(NUMBER) is Verdict.CLEARED
    records = guarded.records.all
    assert {each.rpc for each in records} == RPCS
    assert {
        (each.client, each.purpose, each.reference, each.call_id, each.status) for each in records
    } == {("one", "research", "18/CAG/1", "job-7", "OK")}
    assert len(given) == len(records)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, NOT_IDENTIFIED),
        ({"token": "x"}, NOT_IDENTIFIED),
        ({"token": SIGNER.token()}, WRONG_PURPOSE),
        ({"token": SIGNER.token(), "purpose": "other", "reference": "1"}, WRONG_PURPOSE),
    ],
)
async def test_the_client_tells_at_once_what_another_try_cannot_mend(
    make_guarded: MakeGuarded, said: dict[str, str], expected: tuple[grpc.StatusCode, str]
) -> None:
    guarded = await make_guarded(one=DECLARING)

    def use() -> list[CallFailed]:
        failures = []
        with Client(guarded.house.address, **said) as client:
            for question in (client.check, lambda number: client.check_many([number])):
                with pytest.raises(CallFailed) as caught:
                    question(NUMBER)
                failures.append(caught.value)
        return failures

    failures = await asyncio.to_thread(use)
    assert [(each.code, each.reason) for each in failures] == [expected] * 2
    assert len(guarded.records.all) == 2


async def test_the_client_shows_its_certificate(
    make_guarded: MakeGuarded, authority: Authority, one: Certificate
) -> None:
    guarded = await make_guarded(authority, one=client(rpcs=ALL, purposes=["research"]))
    tls = Tls(ca=authority.cert, certificate=one.cert, key=one.key)

    def use() -> bool:
        with Client(guarded.house.address, tls=tls, purpose="research") as client:
            return client.check(NUMBER) is Verdict.CLEARED

    assert await asyncio.to_thread(use)
    assert (guarded.last.client, guarded.last.purpose) == ("one", "research")


async def test_no_record_holds_a_number(make_guarded: MakeGuarded) -> None:
    guarded = await make_guarded(one=BY_TOKEN)
    for rpc in ALL:
        await ask(guarded.stub(), rpc, **bearer(SIGNER.token()))
    told = json.dumps([repr(each) for each in guarded.records.all])
    assert str(NUMBER) not in told
    assert str(NUMBER // 10) not in told
