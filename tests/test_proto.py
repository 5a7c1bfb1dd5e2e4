"""The contract on the wire: what is generated, how it looks in bytes, and what silence means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from golden import VERSIONS
from golden.messages import MESSAGES
from ndoo.register.replica import Phase
from ndoo.register.view import Verdict
from ndoo.v1 import check_pb2

ROOT = Path(__file__).resolve().parent.parent
WIRE = VERSIONS[-1] / "wire.json"

FIELDS = {
    "Revision": ["string token", "message as_of"],
    "Counts": ["uint64 received", "uint64 cleared", "uint64 opted_out", "uint64 invalid"],
    "CheckRequest": ["string nhs_number", "string at_least_as_fresh", "string exactly_at"],
    "CheckResponse": ["enum verdict", "message revision"],
    "BatchCheckRequest": [
        "repeated fixed64 nhs_numbers", "string at_least_as_fresh", "string exactly_at",
    ],
    "BatchCheckResponse": ["bytes cleared", "bytes invalid", "message counts", "message revision"],
    "StreamCheckRequest": [
        "repeated fixed64 nhs_numbers", "string at_least_as_fresh", "string exactly_at",
    ],
    "StreamCheckResponse": ["message chunk", "message summary"],
    "Chunk": [
        "uint64 offset", "uint32 count", "bytes cleared", "bytes invalid", "message revision",
    ],
    "Summary": ["message counts", "message revision"],
    "CheckSetRequest": ["bytes keys", "string at_least_as_fresh", "string exactly_at"],
    "CheckSetResponse": ["message chunk", "message summary"],
    "SetChunk": ["bytes cleared", "message counts"],
    "GetRegisterRequest": ["string exactly_at", "bool with_digest"],
    "GetRegisterResponse": [
        "enum phase", "message revision", "uint64 opt_outs", "message limits", "string version",
        "bytes digest", "message activity",
    ],
    "Activity": [
        "uint64 numbers", "uint64 calls", "uint32 streams", "uint64 changes", "message started_at",
    ],
    "Limits": ["uint64 numbers_per_message", "uint64 bytes_per_message", "uint64 streams"],
}  # fmt: skip

METHODS = {
    "Check": ("CheckRequest", "CheckResponse", False),
    "BatchCheck": ("BatchCheckRequest", "BatchCheckResponse", False),
    "StreamCheck": ("StreamCheckRequest", "StreamCheckResponse", True),
    "CheckSet": ("CheckSetRequest", "CheckSetResponse", True),
    "GetRegister": ("GetRegisterRequest", "GetRegisterResponse", False),
}

TYPES = {
    getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name
    for name in ("string", "bool", "bytes", "uint32", "uint64", "fixed64", "enum", "message")
}


def described(field: FieldDescriptor) -> str:
    return f"{'repeated ' if field.is_repeated else ''}{TYPES[field.type]} {field.name}"


def test_the_committed_code_is_what_the_proto_generates(tmp_path: Path):
    generator = ROOT / "scripts" / "generate_proto.py"
    subprocess.run([sys.executable, generator, tmp_path], check=True)
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert {path.name for path in generated} == {
        "check_pb2.py", "check_pb2.pyi", "check_pb2_grpc.py",
    }  # fmt: skip
    for path in generated:
        assert (ROOT / "src" / path).read_text() == (tmp_path / path).read_text(), path


def test_fields_have_the_numbers_and_types_of_the_contract():
    messages = check_pb2.DESCRIPTOR.message_types_by_name
    assert {
        name: {field.number: described(field) for field in message.fields}
        for name, message in messages.items()
    } == {name: dict(enumerate(fields, 1)) for name, fields in FIELDS.items()}


def test_methods_are_those_of_the_contract():
    service = check_pb2.DESCRIPTOR.services_by_name["OptOutCheck"]
    assert service.full_name == "ndoo.v1.OptOutCheck"
    assert {
        method.name: (method.input_type.name, method.output_type.name, method.client_streaming)
        for method in service.methods
    } == METHODS
    assert all(method.client_streaming == method.server_streaming for method in service.methods)


def test_enums_are_those_of_the_contract_and_of_the_core():
    assert dict(check_pb2.Verdict.items()) == {
        "VERDICT_UNSPECIFIED": 0, "VERDICT_CLEARED": 1, "VERDICT_OPTED_OUT": 2,
        "VERDICT_INVALID": 3,
    }  # fmt: skip
    assert dict(check_pb2.Phase.items()) == {
        "PHASE_UNSPECIFIED": 0, "PHASE_LOADING": 1, "PHASE_CATCHING_UP": 2, "PHASE_LIVE": 3,
        "PHASE_STALE": 4, "PHASE_SUSPENDED": 5,
    }  # fmt: skip
    for prefix, wire, core in (
        ("VERDICT_", check_pb2.Verdict, Verdict),
        ("PHASE_", check_pb2.Phase, Phase),
    ):
        named = {prefix + member.name: member.value for member in core}
        assert named | {f"{prefix}UNSPECIFIED": 0} == dict(wire.items())


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_look_as_they_always_did(name: str):
    golden = bytes.fromhex(json.loads(WIRE.read_text())[name])
    message = MESSAGES[name]
    assert message.SerializeToString(deterministic=True) == golden
    assert type(message).FromString(golden) == message


def test_every_golden_message_is_looked_at():
    assert list(json.loads(WIRE.read_text())) == list(MESSAGES)
    shown = {name.partition(" ")[0] for name in MESSAGES}
    assert shown == {
        part for request, response, _ in METHODS.values() for part in (request, response)
    }


def fields_in(message: Message) -> set[tuple[str, str]]:
    """The fields that are set in *message* and in those within it, each with its message."""
    found = set()
    for field, value in message.ListFields():
        found.add((message.DESCRIPTOR.name, field.name))
        if field.message_type is not None and not field.is_repeated:
            found |= fields_in(value)
    return found


def test_every_field_stands_in_a_golden_message():
    shown = {field for message in MESSAGES.values() for field in fields_in(message)}
    wanted = {
        (name, described.split()[-1]) for name, fields in FIELDS.items() for described in fields
    }
    assert wanted <= shown


def cleared_bits(message: Message) -> int:
    return int.from_bytes(message.cleared, "little")


@pytest.mark.parametrize("name", ["BatchCheckResponse", "Chunk", "SetChunk"])
def test_an_empty_answer_clears_nobody(name: str):
    message = getattr(check_pb2, name)()
    message.ParseFromString(b"")
    assert cleared_bits(message) == 0
    assert message.SerializeToString() == b""


def test_an_empty_verdict_is_not_cleared():
    empty = check_pb2.CheckResponse.FromString(b"")
    assert empty.verdict == check_pb2.VERDICT_UNSPECIFIED != check_pb2.VERDICT_CLEARED
    assert not empty.HasField("revision")


def test_an_empty_message_of_a_stream_is_neither_chunk_nor_summary():
    for response in (check_pb2.StreamCheckResponse, check_pb2.CheckSetResponse):
        empty = response.FromString(b"")
        assert empty.WhichOneof("message") is None
        assert empty.summary.counts.received == empty.summary.counts.cleared == 0


def test_a_verdict_of_a_later_version_is_not_cleared():
    for number in (4, 7, 127):
        verdict = check_pb2.CheckResponse.FromString(bytes([8, number])).verdict
        assert verdict == number != check_pb2.VERDICT_CLEARED


@pytest.mark.parametrize(
    "name", ["CheckResponse", "BatchCheckResponse", "StreamCheckResponse with chunk"]
)
def test_a_message_cut_short_clears_nobody_that_the_whole_does_not(name: str):
    whole = MESSAGES[name]
    raw = whole.SerializeToString()
    for size in range(len(raw)):
        try:
            cut = type(whole).FromString(raw[:size])
        except DecodeError:
            continue
        if name == "CheckResponse":
            assert cut.verdict in {whole.verdict, 0}
        elif name == "BatchCheckResponse":
            assert cut.cleared in {whole.cleared, b""}
        else:
            assert size == 0
            assert cut.WhichOneof("message") is None


def test_fields_of_a_later_version_change_nothing():
    later = bytes([0xFA, 0x07, 0x03]) + b"new"  # field 127, of bytes
    for message in MESSAGES.values():
        read = type(message).FromString(message.SerializeToString() + later)
        assert [(field.name, value) for field, value in read.ListFields()] == [
            (field.name, value) for field, value in message.ListFields()
        ]
