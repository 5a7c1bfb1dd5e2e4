"""Everything that can be asked of a service, with numbers planted in it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import grpc
from click.testing import CliRunner
from pyroaring import BitMap

from leaks.canaries import PEOPLE, PLACES, digits, grouped
from ndoo.cli.main import commands
from ndoo.v1 import check_pb2
from support.people import KEYS
from support.tokens import Signer

SERVICE = "/ndoo.v1.OptOutCheck/"
METHODS = ("Check", "BatchCheck", "StreamCheck", "CheckSet", "GetRegister")
RAW = digits("raw").encode()


def messages() -> Iterator[tuple[str, bytes]]:
    """Questions, well put and not, with the method each is for."""
    for text in (
        digits("asked"), grouped("asked"), grouped("asked", "-"), digits("malformed") + "x",
        digits("malformed") + "0", " " + digits("malformed"), grouped("malformed", ". "),
        digits("malformed")[:9],
    ):  # fmt: skip
        yield "Check", check_pb2.CheckRequest(nhs_number=text).SerializeToString()
    for field in ("at_least_as_fresh", "exactly_at"):
        token = {field: digits("token")}
        numbers = [int(digits("asked"))]
        yield (
            "Check",
            check_pb2.CheckRequest(nhs_number=digits("asked"), **token).SerializeToString(),
        )
        for method in ("BatchCheck", "StreamCheck"):
            request = check_pb2.BatchCheckRequest(nhs_numbers=numbers, **token)
            yield method, request.SerializeToString()
        keys = BitMap([KEYS[PEOPLE["asked"]]]).serialize()
        yield "CheckSet", check_pb2.CheckSetRequest(keys=keys, **token).SerializeToString()
    numbers = [int(digits(place)) for place in PLACES] + [int(digits("malformed")) + 1]
    for method in ("BatchCheck", "StreamCheck"):
        yield method, check_pb2.BatchCheckRequest(nhs_numbers=numbers).SerializeToString()
    yield "CheckSet", check_pb2.CheckSetRequest(keys=RAW).SerializeToString()
    yield (
        "CheckSet",
        check_pb2.CheckSetRequest(keys=BitMap([2**32 - 1]).serialize()).SerializeToString(),
    )
    for method in METHODS:
        yield method, RAW
        yield method, b"\x0a\x0b" + RAW  # a text that is longer than the message
        yield method, b"\x0a\x0a" + RAW
        yield method, b"\xfa\x01\x0a" + RAW  # a field that is not known
    yield digits("method"), RAW


def metadata() -> Iterator[tuple[tuple[str, str | bytes], ...]]:
    """What callers write beside their questions; the first of it is as it should be."""
    yield ()
    for name in ("ndoo-call-id", "ndoo-purpose", "ndoo-reference", "user-agent", "traceparent"):
        yield ((name, digits("metadata")),)
        yield ((name, f"study {grouped('metadata')} b"),)
    for value in (digits("metadata"), f"Bearer {digits('metadata')}", f"Bearer a.{RAW.hex()}.b"):
        yield (("authorization", value),)
    token = Signer().token(sub=digits("metadata"), header={"kid": digits("metadata")})
    yield (("authorization", f"Bearer {token}"),)
    yield ((f"x-{digits('metadata')}", digits("metadata")), ("ndoo-x-bin", RAW))


def ask(
    address: str, method: str, message: bytes, given: tuple[tuple[str, str | bytes], ...]
) -> str:
    """All that the caller is told beside the answer itself."""
    agent = [("grpc.primary_user_agent", digits("metadata"))]
    with grpc.insecure_channel(address, options=agent) as channel:
        call = channel.stream_stream(SERVICE + method)(iter([message]), metadata=given, timeout=60)
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        said = [call.details() or "", call.code().name]
        said += [f"{name} {value!r}" for name, value in call.trailing_metadata() or ()]
        said += [f"{name} {value!r}" for name, value in call.initial_metadata() or ()]
        return "\n".join(said)


def ask_everything(address: str) -> list[str]:
    said = [ask(address, method, message, ()) for method, message in messages()]
    question = check_pb2.CheckRequest(nhs_number=digits("asked")).SerializeToString()
    said += [ask(address, "Check", question, given) for given in metadata()]
    said += [ask(address, "StreamCheck", RAW, given) for given in metadata()]
    return said


def ask_over_http(address: str) -> list[str]:
    """What /metrics and its like answer, and to nonsense."""
    number = digits("http")
    said = []
    for method, path in (("GET", "/metrics"), ("GET", f"/metrics?{number}"), ("GET", f"/{number}"),
                         (number, "/livez"), ("POST", f"/readyz/{number}")):  # fmt: skip
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request(method, path, headers={"X-Number": number, "User-Agent": number})
        response = connection.getresponse()
        said.append(f"{response.status} {response.headers} {response.read().decode()}")
        connection.close()
    host, _, port = address.rpartition(":")
    for raw in (
        f"{number}\r\n\r\n",
        f"GET /livez HTTP/{number}\r\n\r\n",
        f"GET / {number}: \r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(raw.encode())
            connection.shutdown(socket.SHUT_WR)
            said.append(b"".join(iter(lambda: connection.recv(4096), b"")).decode())
    return said


def command(*arguments: object, text: str = "") -> str:
    """All that a command says, with *text* as its standard input."""
    result = CliRunner().invoke(commands, [str(each) for each in arguments], input=text)
    return result.output
