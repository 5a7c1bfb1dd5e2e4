"""Who may ask, and what is recorded of it: policies, keys, tokens, audit records, budgets."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz.target import MEMORY, Target, refused, tells_no_number
from ndoo.budgets.directory import BUDGETS, DirectoryStore
from ndoo.budgets.store import Claim
from ndoo.errors import InputError
from ndoo.ops import audit_chain, audit_verify
from ndoo.ops.audit_chain import BEGINNING, CALL, FILE, Head
from ndoo.ops.audit_file import Part
from ndoo.server.policy import RPCS, TokenRules, read_policy
from ndoo.server.tokens import Key, Tokens, read_keys

ROOT = Path(__file__).resolve().parent.parent.parent
NOW = 1_800_000_000
DAY = "2027-01-15"
_HOME = tempfile.TemporaryDirectory(dir=MEMORY, prefix="fuzz-")
_PLACE = Path(_HOME.name)
_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"only for fuzzing").digest())
_RULES = TokenRules(_PLACE / "keys", "issuer", "ndoo")


def policy(data: bytes) -> None:
    """A policy that is read allows what it says and no more."""
    try:
        read = read_policy(_written("policy", data))
    except InputError as error:  # it names clients, which may be called by long numbers
        tells_no_number(str(error))
        return
    for name, client in read.clients.items():
        assert client.name == name
        assert client.certificate_names or (client.token_subjects and read.tokens)
        assert client.rpcs
        assert client.rpcs <= RPCS
        assert client.purposes or not client.purpose_required
        assert (client.burst is None) == (client.numbers_per_second is None)
        for limit in (client.numbers_per_second, client.numbers_per_day):
            assert limit is None or limit > 0
            assert limit is not None or b"unlimited" in data or client.rpcs == {"GetRegister"}
        for known_by in client.certificate_names:
            assert read.by_certificate_name[known_by] is client
        for subject in client.token_subjects:
            assert read.by_token_subject[subject] is client


def keys(data: bytes) -> None:
    """A key set that is read holds public keys alone, each for algorithms of its kind."""
    for name, key in (refused(read_keys, _written("keys", data)) or {}).items():
        assert name
        assert key.algorithms
        assert "Public" in type(key.public).__name__
        assert {"none", "HS256"}.isdisjoint(key.algorithms)


def token(data: bytes) -> None:
    """A token counts only if all that is demanded of it is so, also where its signature is good."""
    header, _, payload = data.partition(b"\n")
    whole = data.decode("utf-8", errors="replace")
    made = _signed(header, payload) if data[:1] == b"{" else whole
    tokens = Tokens(_RULES, {"first": Key(_KEY.public_key(), ("EdDSA",))})
    subject = refused(tokens.subject_of, made, float(NOW))
    assert refused(tokens.subject_of, made, float(NOW)) == subject, "remembered as something else"
    if subject is None:
        return
    claims = json.loads(payload)
    assert made is not whole, "a token that nobody signed"
    assert subject == claims["sub"]
    assert claims["iss"] == "issuer"
    assert claims["aud"] == "ndoo" or "ndoo" in claims["aud"]
    assert claims["iat"] - 30 <= NOW < claims["exp"] + 30
    assert claims["exp"] - claims["iat"] <= 86_400
    assert claims.get("nbf", 0) - 30 <= NOW
    assert refused(tokens.subject_of, made, float(NOW) + 2 * 86_400) is None


def _signed(header: bytes, payload: bytes) -> str:
    parts = b".".join(map(jwt.utils.base64url_encode, (header, payload)))
    signature = jwt.utils.base64url_encode(_KEY.sign(parts))
    return b".".join((parts, signature)).decode()


def audit_records(data: bytes) -> None:
    """Records are whole, or the first broken place is told; hashes that fit prove no sense."""
    path, sealed = _PLACE / "audit", data[:1] == b"+"
    raw = _chained(data[1:].split(b"\n")) if sealed else data
    path.write_bytes(raw)
    found = refused(audit_verify.verify, [Part(path, None)])
    assert found is not None
    assert found.broken is None or found.broken.line >= 0
    if found.broken is None:
        assert raw.startswith(b'{"n":')
        assert found.last is not None
    for line in raw.splitlines(keepends=True):
        record = audit_chain.read(line)
        if record is not None:
            assert audit_chain.digest_of(line[: line.rindex(b',"hash":')]) == record.head.digest
    refused(Head.parse, data.decode("utf-8", errors="replace"))


def _chained(rests: list[bytes]) -> bytes:
    """Records that fit each other, with *rests* for what else they say."""
    last, lines = BEGINNING, []
    for number, rest in enumerate(rests, 1):
        kind, _, fields = rest.partition(b" ")
        body = b'{"n":%d,"prev":"%b","kind":"%b","at":"t"%b' % (
            number, last.digest.encode(), kind, fields,
        )  # fmt: skip
        last = Head(number, audit_chain.digest_of(body))
        lines.append(body + b',"hash":"%b"}\n' % last.digest.encode())
    return b"".join(lines)


def budgets(data: bytes) -> None:
    """What was spent is read as it was written, or nothing is granted."""
    place = _PLACE / "budgets"
    place.mkdir(exist_ok=True)
    (place / BUDGETS).write_bytes(data)
    store = DirectoryStore(place)
    try:
        granted = refused(store.claim, Claim("one", DAY, "h", 1, 0, 100, 1000))
    finally:
        store.close()
    if granted is not None:
        spent = json.loads(data)["days"].get(DAY, {}).get("one", 0)
        assert type(spent) is int
        assert spent >= 0
        assert granted == (max(0, min(100, 1000 - spent)), spent + max(0, min(100, 1000 - spent)))


def _written(name: str, data: bytes) -> Path:
    path = _PLACE / name
    path.write_bytes(data)
    return path


def _policy_seeds() -> Iterator[bytes]:
    yield (ROOT / "docs" / "clients.example.toml").read_bytes()
    yield b'[clients.one]\nrpcs=["GetRegister"]\ncertificate_names=["DNS:a"]'
    client = (
        b'[clients.one]\nrpcs=["Check"]\ncertificate_names=["URI:a"]\nnumbers_per_day=5\n'
        b'numbers_per_second="unlimited"\n'
    )
    yield client
    yield client + b"[clients.one.signals]\ninvalid_share_max=nan\n"
    yield client + b'burst=0\npurposes=["a", "9990000018"]\n"9990000018"=1\n'
    yield client + b"streams=" + b"9" * 300
    yield b"a=" + b"[" * 900


def _keys_seeds() -> Iterator[bytes]:
    public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key()))
    good = {**public, "kid": "first", "use": "sig"}
    changed: tuple[dict[str, Any], ...] = (
        {}, {"x": "AA"}, {"x": 7}, {"alg": "HS256"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "y": public["x"]}, {"key_ops": [[]]},
        {"kid": "", "use": None}, {"d": "AA"}, {"crv": ["Ed25519"]},
    )  # fmt: skip
    for changes in changed:
        yield json.dumps({"keys": [{**good, **changes}]}).encode()
    yield b'{"keys":[7, null, {}]}'
    yield b"[" * 2000


def _token_seeds() -> Iterator[bytes]:
    header = {"alg": "EdDSA", "kid": "first", "typ": "JWT"}
    claims = {"iss": "issuer", "aud": "ndoo", "sub": "one", "iat": NOW, "exp": NOW + 600}
    changed: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({}, {}), ({}, {"aud": ["ndoo", "x"], "nbf": NOW}), ({"alg": "none"}, {}),
        ({"kid": ["first"]}, {}), ({"crit": ["b64"], "b64": False}, {}), ({}, {"exp": 1e400}),
        ({}, {"iat": "1"}), ({}, {"sub": 7}), ({}, {"aud": {"ndoo": 1}}), ({}, {"iss": ["issuer"]}),
        ({}, {"exp": NOW - 31, "iat": NOW - 60}), ({}, {"nbf": None}),
    )  # fmt: skip
    for in_header, in_claims in changed:
        parts = (header | in_header, claims | in_claims)
        yield b"\n".join(json.dumps(part).encode() for part in parts)
    yield b"a.b.c"
    yield b"{}\n" + b"[" * 900


def _audit_seeds() -> Iterator[bytes]:
    line, head = audit_chain.seal(BEGINNING, FILE, 0.0, {"format": 1})
    call, _ = audit_chain.seal(head, CALL, 0.0, {"received": 3, "rpc": "Check"})
    yield line + call
    yield line + call[:-9]
    yield b'+file ,"format":1\nstarted \ncall ,"received":3\nlost ,"records":5'
    yield b'+file ,"format":1\ntorn ,"bytes":0,"digest":""\nlost ,"records":"x"'
    yield str(head).encode()


def _budgets_seeds() -> Iterator[bytes]:
    for spent in (0, 950, 10**6):
        yield json.dumps({"format": 1, "days": {DAY: {"one": spent}}}).encode()
    yield b'{"format":1,"days":{"2027-01-15":{"one":-1}}}'
    yield b'{"format":1,"days":{"2027-01-15":{"one":true}}}'
    yield b'{"format":1,"days":[]}'
    yield b"\xff\xfe"


TARGETS = (
    Target(policy, _policy_seeds),
    Target(keys, _keys_seeds),
    Target(token, _token_seeds),
    Target(audit_records, _audit_seeds),
    Target(budgets, _budgets_seeds, bytes_max=4096),
)
