"""The whole register at one revision, in a form that proves itself.

A snapshot is a JSON header and two blocks of bytes:

- `register`: the opted-out keys as a 32-bit Roaring bitmap in the portable format;
- `links`: which keys belong to one person after `supersede`, as little-endian 32-bit pairs. It may
  be absent; an older or foreign writer that knows no links writes only `register`.

The header holds `format`, `generation`, `seq`, `stream_id` (the feed's own name for the position
that the register includes), `count`, `sha256` and `created_at`, and optionally `links_sha256`,
`suspended`, `shrink_accepted`, `began_at` (when its generation was loaded), `last` (the change with
the number `seq`), `signature` and `header_sha256`. That digest is over the other fields, as JSON in
ASCII with sorted names and without spaces: a digit of `seq` that flips on the way would otherwise
be noticed by nobody but the changes that do not fit. The signature is over the same but itself; see
`ndoo.register.signature`.

Reading verifies all of it, and refuses with a reason whatever is damaged, truncated, empty, or not
what its header says: a half-read register would clear people wrongly.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyroaring import BitMap

from ndoo.errors import SnapshotRefused
from ndoo.nhs_number import KEY_MAX
from ndoo.register.changes import Change, decode_numbered, encode_numbered
from ndoo.revision import SEQ_MAX, Revision, is_generation

FORMAT = 1
HEADER_BYTES_MAX = 64 * 1024
REGISTER_BYTES_MAX = 512 * 1024 * 1024
"""Far over any register of people (10^8 random keys take 200 MB), far under what would hurt to
hash.
"""

LINKS_BYTES_MAX = 32 * 1024 * 1024
"""4 million people who got a new number, in some 600 MB of memory once they are read."""

LAST_BYTES_MAX = 1024
"""Of a change in a header, which is read again and again; a longer one is left out."""

Sign = Callable[[bytes], bytes]
"""Makes a signature of a message."""

Verify = Callable[[bytes, bytes], bool]
"""Tells of a signature whether it is of a message, by a key that is trusted."""

_SIGNED = b"ndoo-snapshot "
"""Stands before what is signed, so that no other use of the key makes a snapshot."""

Links = tuple[tuple[int, ...], ...]
"""Groups of keys that belong to one person each, every group ascending and of two keys or more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified register. *position* is the feed's own name for where its changes go on.

    *began_at* is when its generation was loaded, in RFC 3339 as *created_at*, or "". *last* is the
    change that led to *revision*, None if that is unknown: after a fail-over another may stand at
    *position*, with the same number.
    """

    revision: Revision
    position: str
    created_at: str
    keys: BitMap = field(repr=False)
    links: Links = field(default=(), repr=False)
    suspended: bool = False
    shrink_accepted: bool = False
    began_at: str = ""
    last: Change | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Packed:
    """A snapshot in bytes, as feeds keep it."""

    header: bytes = field(repr=False)
    register: bytes = field(repr=False)
    links: bytes = field(repr=False)


def pack(snapshot: Snapshot, sign: Sign | None = None) -> Packed:
    """*snapshot* in bytes, read back once, so that what is written can be read; signed by *sign*.

    The bitmap is run-optimised first, which changes its form, not its content. Raises
    SnapshotRefused for what no reader would accept, such as an empty register.
    """
    snapshot.keys.run_optimize()
    register = snapshot.keys.serialize()
    links = _pack_links(snapshot.links)
    header: dict[str, Any] = {
        "format": FORMAT,
        "generation": snapshot.revision.generation,
        "seq": snapshot.revision.seq,
        "stream_id": snapshot.position,
        "count": len(snapshot.keys),
        "sha256": _digest(register),
        "created_at": snapshot.created_at,
        "links_sha256": _digest(links),
        "suspended": snapshot.suspended,
        "shrink_accepted": snapshot.shrink_accepted,
    }
    if snapshot.began_at:
        header["began_at"] = snapshot.began_at
    if last := _told(snapshot.last):
        header["last"] = last
    if sign is not None:
        header["signature"] = base64.b64encode(sign(_to_sign(header))).decode()
    header["header_sha256"] = _header_digest(header)
    packed = Packed(json.dumps(header, separators=(",", ":")).encode(), register, links)
    unpack(packed)
    return packed


def _told(last: Change | None) -> dict[str, str]:
    fields = encode_numbered(last) if last is not None else {}
    return fields if len(json.dumps(fields)) <= LAST_BYTES_MAX else {}


def unpack(packed: Packed, verify: Verify | None = None) -> Snapshot:
    """The snapshot in *packed*, every claim of its header verified, and with *verify* that it was
    signed. Raises SnapshotRefused.
    """
    header = _read_header(packed.header)
    if verify is not None:
        _demand_signature(header, verify)
    keys = _read_register(packed.register, header)
    links = _read_links(packed.links, header)
    if any((group[0] in keys) != (key in keys) for group in links for key in group):
        raise _refused("LINKS", "has a person who is opted out under one number but not another")
    return Snapshot(
        revision=_revision(header),
        position=_text(header, "stream_id"),
        created_at=_text(header, "created_at"),
        keys=keys,
        links=links,
        suspended=_flag(header, "suspended"),
        shrink_accepted=_flag(header, "shrink_accepted"),
        began_at=_text(header, "began_at") if "began_at" in header else "",
        last=_last(header),
    )


def unix_s(created_at: str) -> float | None:
    """When a snapshot was made, None if its *created_at* is not a moment in RFC 3339."""
    try:
        moment = dt.datetime.fromisoformat(created_at)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(maxsize=8)
def made_at(header: bytes) -> float | None:
    """When the snapshot with *header* says that it was made; nothing of that is verified."""
    try:
        return unix_s(_text(_read_header(header), "created_at"))
    except SnapshotRefused:
        return None


def refuse_shrunken(new: Snapshot, current_count: int, shrink_max: float) -> None:
    """Raise SnapshotRefused if *new* holds too few opt-outs beside a register of *current_count*.

    People withdraw an opt-out one at a time; a register that loses more than the share *shrink_max*
    at once has lost people's choices somewhere (in 2015-2018 a supplier lost 150,000 that way). A
    share that is not a number accepts no loss.
    """
    lost = current_count - len(new.keys)
    if lost > 0 and not lost <= current_count * shrink_max and not new.shrink_accepted:
        raise SnapshotRefused(
            f"The new snapshot holds {len(new.keys):,} opt-outs, and {current_count:,} are in use: "
            f"{lost / current_count:.1%} fewer, over the accepted {shrink_max:.1%}. If that is "
            "right, load it again with --accept-jump.",
            reason="SNAPSHOT_SHRUNKEN",
        )


def _read_header(raw: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(raw) if len(raw) <= HEADER_BYTES_MAX else None
        digest = _header_digest(header) if isinstance(header, dict) else ""
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _refused("HEADER", "has a header that is not a JSON object")
    if _integer(header, "format") != FORMAT:
        raise SnapshotRefused(
            f"The snapshot is not of format {FORMAT}, the one this version reads; upgrade to the "
            "version that wrote it.",
            reason="SNAPSHOT_FORMAT",
        )
    if header.get("header_sha256", digest) != digest:
        raise _refused("DIGEST", "has a header that does not match its SHA-256: it is damaged")
    return header


def _header_digest(header: Mapping[str, Any]) -> str:
    return _digest(_all_but({"header_sha256"}, header))


def _to_sign(header: Mapping[str, Any]) -> bytes:
    return _SIGNED + _all_but({"header_sha256", "signature"}, header)


def _all_but(names: set[str], header: Mapping[str, Any]) -> bytes:
    others = {name: value for name, value in header.items() if name not in names}
    return json.dumps(others, sort_keys=True, separators=(",", ":")).encode()


def _demand_signature(header: Mapping[str, Any], verify: Verify) -> None:
    signature = header.get("signature")
    if signature is None:
        raise _refused("UNSIGNED", "is not signed, and has to be here")
    try:
        raw = base64.b64decode(signature, validate=True) if isinstance(signature, str) else b""
    except ValueError:
        raw = b""
    if not verify(raw, _to_sign(header)):
        raise _refused("SIGNATURE", "is not signed by a key that is trusted here, or was altered")


def _revision(header: Mapping[str, Any]) -> Revision:
    generation, seq = _text(header, "generation"), _integer(header, "seq")
    if not is_generation(generation):
        raise _refused("HEADER", "has a header without a usable 'generation'")
    if seq is None or not 0 <= seq <= SEQ_MAX:
        raise _refused("HEADER", "has a header without a usable 'seq'")
    return Revision(generation, seq)


def _last(header: Mapping[str, Any]) -> Change | None:
    fields = header.get("last", {})
    if not isinstance(fields, dict) or not {str}.issuperset(map(type, fields.values())):
        raise _refused("HEADER", "has a header without a usable 'last'")
    last = decode_numbered(fields)
    if last is not None and last.seq != _integer(header, "seq"):
        raise _refused("HEADER", "has a header whose 'last' is not the change with its 'seq'")
    return last


def _integer(header: Mapping[str, Any], name: str) -> int | None:
    value = header.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(header: Mapping[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise _refused("HEADER", f"has a header without a usable '{name}'")
    return value


def _flag(header: Mapping[str, Any], name: str) -> bool:
    value = header.get(name, False)
    if not isinstance(value, bool):
        raise _refused("HEADER", f"has a header whose '{name}' is neither true nor false")
    return value


def _read_register(raw: bytes, header: Mapping[str, Any]) -> BitMap:
    if len(raw) > REGISTER_BYTES_MAX:
        raise _refused("TOO_LARGE", f"holds more than {REGISTER_BYTES_MAX:,} bytes")
    if _digest(raw) != header.get("sha256"):
        raise _refused("DIGEST", "does not match its SHA-256: it is damaged or cut short")
    try:
        keys = BitMap.deserialize(raw)
    except (ValueError, IndexError):
        raise _refused("NOT_ROARING", "does not hold a 32-bit Roaring bitmap") from None
    if len(keys.serialize()) != len(raw):
        raise _refused("NOT_ROARING", "holds more than a 32-bit Roaring bitmap")
    if len(keys) != _integer(header, "count"):
        raise _refused("COUNT", "does not hold as many opt-outs as its header says")
    if not keys:
        raise _refused("EMPTY", "is empty, and an empty register would clear everybody")
    if keys.max() > KEY_MAX:
        raise _refused("KEY", "holds a key of more than nine digits")
    return keys


def _pack_links(links: Iterable[tuple[int, ...]]) -> bytes:
    pairs = [(group[0], key) for group in links for key in group[1:]]
    return np.array(pairs, dtype="<u4").tobytes()


def _read_links(raw: bytes, header: Mapping[str, Any]) -> Links:
    if len(raw) > LINKS_BYTES_MAX:
        raise _refused("TOO_LARGE", f"has links of more than {LINKS_BYTES_MAX:,} bytes")
    if _digest(raw) != header.get("links_sha256", _digest(b"")):
        raise _refused("DIGEST", "does not match its SHA-256: its links are damaged or missing")
    if len(raw) % 8:
        raise _refused("LINKS", "has links that are not whole pairs")
    groups: dict[int, list[int]] = {}
    for first, key in np.frombuffer(raw, dtype="<u4").reshape(-1, 2).tolist():
        groups.setdefault(first, [first]).append(key)
    links = tuple(tuple(group) for group in groups.values())
    if sum(map(len, links)) != len({key for group in links for key in group}):
        raise _refused("LINKS", "has links that give one number to two persons")
    if any(list(group) != sorted(set(group)) or group[-1] > KEY_MAX for group in links):
        raise _refused("LINKS", "has links that are not in order")
    return links


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _refused(reason: str, what: str) -> SnapshotRefused:
    return SnapshotRefused(
        f"The snapshot {what}; write a new one with 'ndoo snapshot' or 'ndoo load'.",
        reason=f"SNAPSHOT_{reason}",
    )
