"""A client says who it is with every call, and shows its token to nobody on the way."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from client.fake_service import FakeService, serving
from ndoo.client import (
    AsyncClient,
    Client,
    ClientClosed,
    NoToken,
    Tls,
    check,
    check_stream,
    open_channel,
)
from ndoo.client.introduction import Introduction, metadata_of

ELSEWHERE = [
    "10.0.0.1:50551",
    "ndoo.example:50551",
    "dns:///localhost:50551",
    "unix:/ndoo",
    "[::]:1",
]
HERE = ["127.0.0.1:50551", "localhost:50551", "[::1]:50551", "127.9.9.9:1"]


@pytest.fixture
def address(service: FakeService) -> Iterator[str]:
    with serving(service) as address:
        yield address


def failing() -> str:
    raise OSError("the wrong file")


BAD_TOKENS: list[str | Callable[[], str]] = [
    "", " ", "\n", "a b", "a\nb", "tökén", "a\0", failing, lambda: "", lambda: None,
]  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_token_does_not_go_over_a_network_unprotected(target: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match="TLS"):
            make([HERE[0], target], token="x")
        make([HERE[0], target], purpose="research")
        make([HERE[0], target], tls=Tls(), token="x")
    with pytest.raises(ValueError, match="TLS"):
        open_channel(target, introduction={"token": "x"})


@pytest.mark.parametrize("target", HERE)
def test_ones_own_machine_is_no_network(target: str) -> None:
    Client(target, token="x").close()
    open_channel(target, introduction={"token": "x"}).close()


@pytest.mark.parametrize("text", ["Ünwritten", "a\nb", "\0", 5, None])
@pytest.mark.parametrize("key", ["purpose", "reference", "call_id"])
def test_what_cannot_be_sent_is_refused_at_once(key: str, text: object) -> None:
    with pytest.raises(ValueError, match=key.replace("_", " ")):
        Client(HERE[0], **{key: text})


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_without_a_token_nothing_is_asked(
    service: FakeService, address: str, token: str | Callable[[], str]
) -> None:
    with Client(address, token=token) as client:
        for ask in (lambda: client.check(9990000018), lambda: client.check_many([9990000018])):
            with pytest.raises(NoToken) as caught:
                ask()
    assert "wrong file" not in str(caught.value)

    async def ask_at_once() -> None:
        async with AsyncClient(address, token=token) as client:
            await client.check(9990000018)

    with pytest.raises(NoToken):
        asyncio.run(ask_at_once())
    with open_channel(address, introduction={"token": token}) as channel, pytest.raises(NoToken):
        check(channel, "9990000018")
    assert not service.requests
    assert not service.batches


def test_what_is_sent() -> None:
    said = Introduction(token=lambda: " x.y.z\n", purpose="research", reference="1", call_id="2")
    assert sorted(metadata_of(said)) == [
        ("authorization", "Bearer x.y.z"), ("ndoo-call-id", "2"), ("ndoo-purpose", "research"),
        ("ndoo-reference", "1"),
    ]  # fmt: skip
    assert metadata_of({}) == metadata_of({"purpose": "", "reference": ""}) == ()
    plain = Introduction(token="x", purpose="research")
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_a_channel_of_nobody_is_grpcs_own(address: str) -> None:
    with open_channel(address) as channel:
        assert type(channel) is type(grpc.insecure_channel(address))


@pytest.mark.parametrize("introduction", [{}, {"purpose": "research"}])
def test_a_closed_channel_says_so_whoever_asks(address: str, introduction: Introduction) -> None:
    channel = open_channel(address, introduction=introduction)
    channel.close()
    with pytest.raises(ClientClosed):
        check(channel, "9990000018")
    numbers = np.array([9990000018], np.uint64)
    with pytest.raises(ClientClosed), check_stream(channel, [numbers]) as stream:
        list(stream)
