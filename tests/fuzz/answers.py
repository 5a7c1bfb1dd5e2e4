"""What callers ask: messages, numbers, sets. Each answer is worked out a second, plain way."""

from __future__ import annotations

import string
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from pyroaring import BitMap

from core import hostile, reference
from fuzz.target import Target, refused
from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, NOT_A_NUMBER, NUMBER_MAX, REPDIGIT
from ndoo.register import sets
from ndoo.register.view import Verdict, View
from ndoo.revision import Revision
from ndoo.server import sample
from ndoo.server.caller import caller_of, may_be_kept
from ndoo.server.wire import read_check, read_numbers, read_register, read_set
from ndoo.v1 import check_pb2
from support.people import KEYS

OPTED_OUT = np.array(KEYS[::7] + list(range(BASE := 999_030_000, BASE + 9_000, 2)), dtype=np.uint32)
OPTED_OUT = np.unique(OPTED_OUT[nhs_number.check_digits(OPTED_OUT) != 10])
OUT = BitMap(OPTED_OUT)
VIEW = View.of(OPTED_OUT, Revision("fuzz", 1))
ANSWER_BYTES_MAX = 1024 * 1024
NUMBERS = nhs_number.numbers_of(np.array(KEYS[:400], dtype=np.uint32))
ENTITY = "\N{ARABIC-INDIC DIGIT NINE}\N{FULLWIDTH DIGIT FOUR}"


def _parsed(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def wire_numbers(data: bytes) -> None:
    """Numbers are read from the bytes as the generated classes read them."""
    ours = refused(read_numbers, data)
    for kind in (check_pb2.StreamCheckRequest, check_pb2.BatchCheckRequest):
        theirs = _parsed(kind, data)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.numbers.dtype == np.dtype("<u8")
            assert ours.numbers.tolist() == list(theirs.nhs_numbers)
            assert ours.at_least_as_fresh == theirs.at_least_as_fresh
            assert ours.exactly_at == theirs.exactly_at


def wire_set(data: bytes) -> None:
    """Keys are read from the bytes as the generated class reads them."""
    ours, theirs = refused(read_set, data), _parsed(check_pb2.CheckSetRequest, data)
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.keys.tobytes() == theirs.keys
        assert ours.at_least_as_fresh == theirs.at_least_as_fresh
        assert ours.exactly_at == theirs.exactly_at
        assert ours.count >= 0
        assert sets.answer_bytes_max(ours.keys) >= 8


def wire_check(data: bytes) -> None:
    """A single check, and a question about the register."""
    ours = refused(read_check, data)
    assert ours == _parsed(check_pb2.CheckRequest, data)
    if ours is not None:
        number = nhs_number.parse(ours.nhs_number)
        verdict = VIEW.check(number)
        assert (verdict is Verdict.CLEARED) == (
            nhs_number.fault_of(ours.nhs_number) is None and number // 10 not in OUT
        )
    assert refused(read_register, data) == _parsed(check_pb2.GetRegisterRequest, data)


def numbers(data: bytes) -> None:
    """Integers: the compiled loop, arrays and single numbers say what digits on paper say."""
    array = np.frombuffer(data[: len(data) // 8 * 8], dtype="<u8")
    valid = reference.is_valid(array)
    opted_out = np.array(
        [number <= NUMBER_MAX and number // 10 in OUT for number in array.tolist()], dtype=bool
    )
    expected = reference.Expected(valid & ~opted_out, ~valid)
    reference.agree(VIEW.check_many(array), expected)
    keys, is_valid = nhs_number.keys_of(array)
    assert is_valid.tolist() == valid.tolist()
    assert keys[valid].tolist() == (array[valid] // 10).tolist()
    for number, good in zip(array[:50].tolist(), valid.tolist()):
        assert nhs_number.is_valid(number) == good
        assert VIEW.check(number) == _verdict(number, good)
    assert set(sample.of_numbers(array).tolist()) <= {each // 10 for each in array.tolist()}


def _verdict(number: int, valid: bool) -> Verdict:
    if not valid:
        return Verdict.INVALID
    return Verdict.OPTED_OUT if number // 10 in OUT else Verdict.CLEARED


def texts(data: bytes) -> None:
    """Texts: one by one, as a column and as fields of a buffer they are the same numbers."""
    column = data.decode("utf-8", errors="replace").split("\n")
    plain = [_digits(text) for text in column]
    assert [nhs_number.parse(text) for text in column] == plain
    assert nhs_number.from_texts(column).tolist() == [_in_column(text) for text in column]
    for text, number in zip(column, plain):
        valid = number is not None and bool(reference.is_valid(np.array([number], np.uint64))[0])
        assert (nhs_number.fault_of(text) is None) == valid
        assert nhs_number.key_of(text) == (number // 10 if valid else None)
        assert nhs_number.may_be_in(text) or not valid
        assert nhs_number.may_be_in(text) == _may_be_in(text)
    fields = [each.decode("latin-1") for each in data.split(b"\n")]
    assert nhs_number.from_texts(np.array(fields)).tolist() == [
        _in_column(text.rstrip("\0")) for text in fields
    ]


def _digits(text: str) -> int | None:
    """Ten ASCII digits, bare or with one separator after the third and the sixth."""
    if len(text) == 12 and text[3] == text[7] and text[3] in " -":
        text = text[:3] + text[4:7] + text[8:]
    if len(text) != 10 or any(char not in string.digits for char in text):
        return None
    return int(text)


def _in_column(text: str) -> int:
    number = _digits(text)
    return NOT_A_NUMBER if number is None else number


def _may_be_in(text: str) -> bool:
    """Any ten digits in a row that are a valid number, single spaces and hyphens aside."""
    for start, char in enumerate(text):
        row = ""
        for place in range(start, min(len(text), start + 20)):
            if text[place] in string.digits:
                row += text[place]
            elif not row or text[place] not in " -" or text[place - 1] in " -":
                break
            if len(row) == 10:
                break
        if char in string.digits and len(row) == 10 and nhs_number.is_valid(int(row)):
            return True
    return False


def roaring(data: bytes) -> None:
    """A set that is answered holds what a bitmap library reads in it, and is answered rightly."""
    array = np.frombuffer(data, dtype=np.uint8)
    claimed = sets.claimed_count(array)
    if sets.answer_bytes_max(array) > ANSWER_BYTES_MAX:
        return  # refused before any work is done
    answers = refused(VIEW.check_set, array)
    if answers is None:
        assert not _is_canonical(data), "a sound set was refused"
        return
    keys = BitMap.deserialize(data) if data else BitMap()
    listed = np.array(keys.to_array(), dtype=np.uint64)
    issued = (nhs_number.check_digits(listed) != 10) & (listed % (REPDIGIT // 10) != 0)
    valid = BitMap(listed[issued].astype(np.uint32))
    assert BitMap.deserialize(answers.cleared) == valid - OUT
    assert claimed == answers.count == len(keys)
    assert answers.cleared_count == len(valid - OUT)
    assert answers.invalid_count == len(keys) - len(valid)
    some = sample.of_set(array)
    assert len(some) <= sample.KEYS_MAX
    assert all(key in keys for key in some.tolist())


def _is_canonical(data: bytes) -> bool:
    try:
        keys = BitMap.deserialize(data)
        return keys.serialize() == data and (not keys or keys.max() <= KEY_MAX)
    except (ValueError, IndexError):
        return False


def metadata(data: bytes) -> None:
    """What callers write of themselves is kept only if nothing in it can do harm."""
    peer, *rest = data.decode("utf-8", errors="surrogateescape").split("\n")
    pairs = [tuple(line.partition("=")[::2]) for line in rest]
    certificate = {"x509_subject": [data[:64]], "peer_uri": [data[:64], data[64:128]]}
    context: Any = SimpleNamespace(
        invocation_metadata=lambda: pairs, auth_context=lambda: certificate, peer=lambda: peer
    )
    caller = refused(caller_of, context)
    given = dict(pairs)
    if caller is None:
        assert not all(
            may_be_kept(given[name])
            for name in ("ndoo-purpose", "ndoo-reference")
            if given.get(name)
        )
        return
    for text in (caller.purpose, caller.reference, caller.call_id):
        assert not text or (may_be_kept(text) and text.isascii() and text.isprintable())
    assert caller.purpose == given.get("ndoo-purpose", "")
    assert caller.reference == given.get("ndoo-reference", "")
    assert caller.token in given.get("authorization", "")
    assert "token=" not in repr(caller)


def _tag(data: bytes) -> bytes:
    return b"\x0a" + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def _wire_seeds() -> Iterator[bytes]:
    packed = NUMBERS[:20].tobytes()
    yield b""
    for count in (1, 3, 20):
        yield _tag(packed[: 8 * count])
    yield _tag(packed[:12])
    yield _tag(packed)[:-3]
    yield _tag(packed[:8]) + _tag(packed[8:24])
    yield b"".join(b"\x09" + packed[at : at + 8] for at in range(0, 24, 8))
    yield b"\x0a\x88\x80\x00" + packed[:8]
    yield b"\x0a\x88\x80\x80\x80\x80\x00" + packed[:8]
    token = Revision("fuzz", 7).token
    full = check_pb2.StreamCheckRequest(nhs_numbers=NUMBERS[:3], at_least_as_fresh=token)
    yield full.SerializeToString()
    yield full.SerializeToString() + b"\xfa\x07\x03abc" + b"\x12\x02\xff\xfe"


def _wire_set_seeds() -> Iterator[bytes]:
    for keys in _set_seeds():
        if len(keys) < 600:
            yield _tag(keys)
            yield check_pb2.CheckSetRequest(keys=keys, exactly_at="x").SerializeToString()


def _wire_check_seeds() -> Iterator[bytes]:
    for text in ("", "9990000018", "999 000 0018", "999-000-0026", "9990000019", ENTITY):
        yield check_pb2.CheckRequest(nhs_number=text, at_least_as_fresh="x").SerializeToString()
    yield check_pb2.GetRegisterRequest().SerializeToString()


def _numbers_seeds() -> Iterator[bytes]:
    yield b""
    yield NUMBERS[:3].tobytes()
    yield np.concatenate([NUMBERS[:70], NUMBERS[:70] + np.uint64(1)]).tobytes()
    yield struct.pack("<6Q", 0, 9_999_999_999, 10**10, 2**63, 2**64 - 1, 1_111_111_111)


def _texts_seeds() -> Iterator[bytes]:
    yield b""
    yield b"9990000018\n999 000 0026\n999-000-0026\n999 000-0026\n 9990000018\n9990000019"
    yield b"x 99 9000 0018 y\n09990000018\n999  000 0018\n9999999999\n0000000000"
    yield f"{ENTITY}\n99900000\N{SUPERSCRIPT TWO}8".encode()
    yield "999\N{NO-BREAK SPACE}000\N{NO-BREAK SPACE}0018".encode()
    yield b"\xff\xfe9990000018\n\x009990000018\x00"


def _set_seeds() -> Iterator[bytes]:
    yield b""
    yield BitMap().serialize()
    yield BitMap(KEYS[:30]).serialize()
    yield BitMap([0, 65_535, 65_536, KEY_MAX]).serialize()
    dense = BitMap(range(999_030_000, 999_037_000))
    dense.run_optimize()
    yield dense.serialize()
    yield BitMap(range(999_030_000, 999_040_000, 2)).serialize()
    mixed = BitMap(KEYS[:30]) | dense | BitMap([KEY_MAX + 1])
    mixed.run_optimize()
    yield mixed.serialize()
    spread = BitMap(range(0, KEY_MAX, 99_999_999)) | BitMap(range(5, 50))
    spread.run_optimize()
    yield spread.serialize()
    for _, raw, _ in hostile.inconsistent_bitmaps():
        if len(raw) < 200:
            yield raw


def _metadata_seeds() -> Iterator[bytes]:
    yield b"ipv4:127.0.0.1:5\nndoo-purpose=research\nndoo-reference=18/CAG/0001\nndoo-call-id=a-1"
    yield b"x\nauthorization=Bearer a.b.c\nndoo-call-id=9990000018\nndoo-purpose=for 999 000 0018"
    yield "x\nndoo-purpose=\N{LATIN SMALL LETTER E WITH ACUTE}\nauthorization=bearer \n=".encode()


TARGETS = (
    Target(wire_numbers, _wire_seeds),
    Target(wire_set, _wire_set_seeds),
    Target(wire_check, _wire_check_seeds),
    Target(numbers, _numbers_seeds, compiled=True),
    Target(texts, _texts_seeds, bytes_max=512),
    Target(roaring, _set_seeds, bytes_max=12_000, compiled=True),
    Target(metadata, _metadata_seeds, bytes_max=1024),
)
