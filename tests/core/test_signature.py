"""A signature holds for all that a snapshot claims, by a key that is trusted, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pyroaring import BitMap

from ndoo.errors import InputError, SnapshotRefused
from ndoo.register.signature import Signer, Verifier
from ndoo.register.snapshot import Packed, Snapshot, pack, unpack
from ndoo.revision import Revision
from support.people import KEYS
from support.signing import KeyPair

SNAPSHOT = Snapshot(
    Revision("g", 41),
    "5-1",
    "2026-01-02T00:00:00Z",
    BitMap(KEYS[:50]),
    links=((KEYS[0], KEYS[1]),),
    suspended=True,
    began_at="2026-01-01T00:00:00Z",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def packed(pair: KeyPair) -> Packed:
    return pack(SNAPSHOT, Signer(str(pair.key)).sign)


@pytest.fixture(scope="module")
def verify(pair: KeyPair) -> Verifier:
    return Verifier.of(str(pair.public))


def changed(packed: Packed, **fields: Any) -> Packed:
    """With other *fields*, and all digests as they have to be; None takes a field away."""
    header = json.loads(packed.header) | fields
    header = {name: value for name, value in header.items() if value is not None}
    header.pop("header_sha256")
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    header["header_sha256"] = hashlib.sha256(canonical).hexdigest()
    return replace(packed, header=json.dumps(header).encode())


def reason_of(packed: Packed, verify: Verifier) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        unpack(packed, verify)
    return refused.value.reason


def test_what_is_signed_is_read_by_all(packed: Packed, verify: Verifier) -> None:
    assert unpack(packed, verify) == unpack(packed) == SNAPSHOT
    assert pack(SNAPSHOT).header != packed.header


def test_what_is_not_signed_is_refused(packed: Packed, verify: Verifier) -> None:
    assert reason_of(pack(SNAPSHOT), verify) == "SNAPSHOT_UNSIGNED"
    assert reason_of(changed(packed, signature=None), verify) == "SNAPSHOT_UNSIGNED"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generation", "h"),
        ("seq", 40),
        ("stream_id", "5-0"),
        ("created_at", "2026-01-03T00:00:00Z"),
        ("began_at", "2026-01-03T00:00:00Z"),
        ("began_at", None),
        ("suspended", False),
        ("suspended", None),
        ("shrink_accepted", True),
        ("links_sha256", hashlib.sha256(b"").hexdigest()),
        ("last", {"seq": "41", "op": "resume"}),
        ("future", 1),
    ],
)
def test_no_claim_can_be_changed(packed: Packed, verify: Verifier, name: str, value: Any) -> None:
    forged = changed(packed, **{name: value})
    if name != "links_sha256":
        assert unpack(forged), "it is whole, but for the signature"
    assert reason_of(forged, verify) == "SNAPSHOT_SIGNATURE"


def test_no_other_register_can_be_put_under_a_signature(packed: Packed, verify: Verifier) -> None:
    other = pack(replace(SNAPSHOT, keys=BitMap(KEYS[:2])))
    told = json.loads(other.header)
    forged = changed(packed, sha256=told["sha256"], count=told["count"])
    forged = replace(forged, register=other.register)
    assert len(unpack(forged).keys) == 2, "it is whole, but for the signature"
    assert reason_of(forged, verify) == "SNAPSHOT_SIGNATURE"
    assert reason_of(replace(packed, register=other.register), verify) == "SNAPSHOT_DIGEST"


def test_no_other_signature_holds(packed: Packed, verify: Verifier) -> None:
    raw = base64.b64decode(json.loads(packed.header)["signature"])
    for place in range(len(raw)):
        bad = bytearray(raw)
        bad[place] ^= 1
        forged = changed(packed, signature=base64.b64encode(bad).decode())
        assert reason_of(forged, verify) == "SNAPSHOT_SIGNATURE"
    for nonsense in ("", "x", "é", 1, True, [], {}, raw.hex(), base64.b64encode(raw[:-1]).decode()):
        assert reason_of(changed(packed, signature=nonsense), verify) == "SNAPSHOT_SIGNATURE"


def test_a_signature_for_another_purpose_is_none(
    packed: Packed, pair: KeyPair, verify: Verifier
) -> None:
    """What is signed begins with words of its own: the key may sign other things, too."""
    header = json.loads(packed.header)
    del header["signature"], header["header_sha256"]
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    signer = Signer(str(pair.key))
    alike, other = (signer.sign(words + canonical) for words in (b"ndoo-snapshot ", b""))
    assert unpack(changed(packed, signature=base64.b64encode(alike).decode()), verify)
    forged = changed(packed, signature=base64.b64encode(other).decode())
    assert reason_of(forged, verify) == "SNAPSHOT_SIGNATURE"


def test_each_of_several_keys_is_trusted_and_no_other(
    packed: Packed, pair: KeyPair, tmp_path: Path
) -> None:
    new, stranger = KeyPair(tmp_path, "new"), KeyPair(tmp_path, "stranger")
    both = tmp_path / "both.pub"
    both.write_bytes(b"the new one:\n" + new.public.read_bytes() + pair.public.read_bytes())
    verify = Verifier.of(str(both))
    assert unpack(packed, verify)
    assert unpack(pack(SNAPSHOT, Signer(str(new.key)).sign), verify)
    for wrong in (Verifier.of(str(new.public)), Verifier.of(str(stranger.public))):
        assert reason_of(packed, wrong) == "SNAPSHOT_SIGNATURE"


def rsa_key() -> bytes:
    key = rsa.generate_private_key(65_537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


NOT_KEYS: dict[str, Callable[[KeyPair], bytes]] = {
    "nothing": lambda _: b"",
    "noise": lambda _: bytes(range(256)),
    "cut": lambda pair: pair.public.read_bytes()[:-40],
    "one cut of two": lambda pair: pair.public.read_bytes() + pair.public.read_bytes()[:-40],
    "another kind": lambda _: rsa_key(),
}


@pytest.mark.parametrize("raw_of", NOT_KEYS.values(), ids=NOT_KEYS)
def test_a_file_that_holds_no_such_key_is_told(
    pair: KeyPair, tmp_path: Path, raw_of: Callable[[KeyPair], bytes]
) -> None:
    file = tmp_path / "some.pem"
    file.write_bytes(raw_of(pair))
    for read in (Verifier.of, Signer):
        with pytest.raises(InputError, match="Ed25519"):
            read(str(file))


def test_the_halves_of_a_pair_are_not_mixed_up(pair: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="public keys"):
        Verifier.of(str(pair.key))
    with pytest.raises(InputError, match="private key"):
        Signer(str(pair.public))
    with pytest.raises(InputError, match="No such file"):
        Signer(str(tmp_path / "none"))
