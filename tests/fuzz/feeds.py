"""What comes from a feed, or from a disk: snapshots, lines, changes, tokens, kept states."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap

from core import hostile
from fuzz.target import MEMORY, Target, refused
from ndoo.feed import log, redis, url
from ndoo.feed.state import CONFIRMED, NEWEST, REGISTER, StateDirectory
from ndoo.nhs_number import KEY_MAX
from ndoo.register import changes
from ndoo.register.changes import Change, Kind
from ndoo.register.snapshot import Packed, Snapshot, pack, unpack
from ndoo.revision import SEQ_MAX, Revision
from support.people import KEYS

NOW = 1_800_000_000.0
FEED = "dir:feed"
REVISION = Revision("fuzz", 7)
SNAPSHOT = Snapshot(
    REVISION,
    "1:0",
    "2026-01-01T00:00:00+00:00",
    BitMap(KEYS[:40]),
    links=((KEYS[0], KEYS[1]), (KEYS[70], KEYS[71])),
)
PACKED = pack(SNAPSHOT)
_HOME = tempfile.TemporaryDirectory(dir=MEMORY, prefix="fuzz-")
_STATE = Path(_HOME.name) / "state"
_STATES = StateDirectory(_STATE, FEED)


def snapshot(data: bytes) -> None:
    """Content whose digests fit, as whoever writes a feed can make them: in order or refused."""
    cut = min(data[0] % 8 * 8, len(data) - 1) if data else 0
    links, register = data[1 : 1 + cut], data[1 + cut :]
    header = {
        "format": 1, "generation": "fuzz", "seq": 7, "stream_id": "1:0", "created_at": "t",
        "count": hostile.counted(register), "sha256": _digest(register),
        "links_sha256": _digest(links),
    }  # fmt: skip
    read = refused(unpack, Packed(json.dumps(header).encode(), register, links))
    if read is not None:
        holds_together(read)


def holds_together(read: Snapshot) -> None:
    listed = np.array(read.keys.to_array(), dtype=np.int64)
    assert 0 < len(listed) == len(read.keys)
    assert np.all(np.diff(listed) > 0)
    assert listed[-1] <= KEY_MAX
    assert all(int(key) in read.keys for key in listed[:50])
    for group in read.links:
        assert len(group) > 1
        assert list(group) == sorted(set(group))
        assert group[-1] <= KEY_MAX
        assert len({key in read.keys for key in group}) == 1


def snapshot_header(data: bytes) -> None:
    """A header with other fields, and the digest of it made to fit or as it was."""
    header = json.loads(PACKED.header)
    try:
        others = json.loads(data[1:])
    except (ValueError, RecursionError):
        others = None
    if data[:1] != b"f" or not isinstance(others, dict):
        read = refused(unpack, Packed(data, PACKED.register, PACKED.links))
    else:
        header = {**header, **others}
        if "header_sha256" not in others:
            del header["header_sha256"]
        raw = json.dumps(header).encode()
        read = refused(unpack, Packed(raw, PACKED.register, PACKED.links))
        assert read is None or read.revision.seq == header["seq"]
        assert read is None or read.position == header["stream_id"]
    if read is not None:
        assert 0 <= read.revision.seq <= SEQ_MAX
        assert read.keys == SNAPSHOT.keys
        assert read.links == SNAPSHOT.links
        assert isinstance(read.suspended, bool)


def snapshot_file(data: bytes) -> None:
    """The file of a directory feed, which says how long its parts are."""
    packed = refused(log.decode_snapshot, data)
    if packed is not None:
        assert len(packed.header) + len(packed.register) + len(packed.links) < len(data)
        read = refused(unpack, packed)
        if read is not None:
            holds_together(read)
        refused(log.generation_in, packed.header)


def log_line(data: bytes) -> None:
    """A line with its checksum made to fit, or as it is; and the change in it."""
    line = data if data[:1] == b"=" else log_of(data)
    fields = refused(log.decode_line, line)
    if fields is None:
        return
    assert refused(log.decode_line, log.encode_line(fields)[:-1]) == fields
    refused(log.last_seq, fields)
    _change(fields, 0)


def log_of(body: bytes) -> bytes:
    """*body* behind its checksum, which is all that makes it a line."""
    return b"%08x %s" % (zlib.crc32(body), body)


def redis_entry(data: bytes) -> None:
    """The fields of an entry of a stream, which are bytes of whoever may write."""
    entry: Any = (b"1700-0", data.split(b"\n"))
    (read, refusal) = redis._decode([entry])
    assert (len(read) == 1) == (refusal is None)
    fields = refused(redis._fields, entry)
    if fields is not None:
        _change(fields, 1700)


def _change(fields: dict[str, str], entry_ms: int) -> None:
    change = refused(changes.decode, fields, entry_ms)
    if change is None:
        return
    assert str(change.seq) == fields["seq"]
    assert change.kind.value == fields["op"]
    assert 0 < change.seq <= SEQ_MAX
    assert not entry_ms or change.recorded_ms <= entry_ms
    written = changes.encode(change)
    assert changes.decode({**written, "seq": fields["seq"]}, change.recorded_ms) == change
    for name in ("nhs", "new"):
        digits = fields.get(name, "").replace(" ", "").replace("-", "")
        assert written.get(name, digits) == digits


def revision_token(data: bytes) -> None:
    """A token is one of ours, in its one spelling, or refused."""
    token = data.decode("utf-8", errors="replace")
    revision = refused(Revision.from_token, token)
    if revision is not None:
        assert revision.token == token
    try:
        made = Revision(token[:64], len(data))
    except ValueError:
        return
    assert Revision.from_token(made.token) == made


def positions(data: bytes) -> None:
    """Positions and names of segments: read back as they were written, or not at all."""
    text = data.decode("utf-8", errors="replace")
    position = log.Position.parse(text)
    assert position is None or position.first_seq > 0
    if position is not None and not text.endswith(":0"):
        assert str(position) == text
    for segment in (log.Segment.of_name(text), log.Segment.of_past_name(text)):
        assert segment is None or text in {segment.name, segment.past_name}


def kept_state(data: bytes) -> None:
    """The files of the state directory, their checksums made to fit as far as that goes."""
    about, confirmed, newest, body = (data.split(b"\n", 3) + [b""] * 4)[:4]
    body = body or log.encode_snapshot(PACKED)
    about = about.replace(b"FIT", _digest(body).encode())
    confirmed = confirmed.replace(b"FIT", _digest(body).encode())
    _STATE.mkdir(exist_ok=True)
    (_STATE / REGISTER).write_bytes(log_of(about) + b"\n" + body)
    (_STATE / CONFIRMED).write_bytes(log_of(confirmed) + b"\n")
    (_STATE / NEWEST).write_bytes(log_of(newest) + b"\n")
    kept = refused(_STATES.read, NOW)
    if kept is not None:
        holds_together(kept.snapshot)
        assert kept.confirmed.as_of <= NOW + 60
        assert isinstance(kept.confirmed.suspended, bool)
    noted = refused(_STATES.read_newest)
    assert noted is None or 0 <= noted.revision.seq <= SEQ_MAX


def feed_url(data: bytes) -> None:
    """A URL names a place, or is refused without a word of what may be its password."""
    text = data.decode("utf-8", errors="replace")
    place = refused(url.parse, text)
    if isinstance(place, url.RedisUrl):
        assert place.addresses
        assert all(0 <= each.port <= 65_535 for each in place.addresses)
        assert place.tls is not None or text.startswith(("redis:", "redis+"))
        secret = place.login.password
        assert not secret or len(secret) < 8 or secret in place.name or secret not in repr(place)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _snapshot_seeds() -> Iterator[bytes]:
    yield b""
    yield b"\x02" + PACKED.links + PACKED.register
    yield b"\x00" + PACKED.register
    runs = BitMap(range(999_030_000, 999_037_000)) | BitMap(KEYS[:9])
    runs.run_optimize()
    yield b"\x00" + runs.serialize()
    for _, raw, _ in hostile.inconsistent_bitmaps():
        if len(raw) < 200:
            yield b"\x00" + raw


def _header_seeds() -> Iterator[bytes]:
    yield PACKED.header
    yield b"f{}"
    yield b'f{"seq":-1,"generation":"a b","count":40.0,"suspended":1,"began_at":""}'
    yield b'f{"seq":true,"stream_id":"\\ud800","created_at":"\\u0000","links_sha256":null}'
    yield b'f{"header_sha256":"0","signature":"AAAA","format":1e0}'
    yield b"[" * 200


def _file_seeds() -> Iterator[bytes]:
    yield log.encode_snapshot(PACKED)
    yield log.encode_snapshot(PACKED)[:-1]
    yield b"ndoo-snapshot 1 0 0 0\n"
    yield b"ndoo-snapshot 1 999999999999 1 1\n{}"


def _changes() -> Iterator[dict[str, str]]:
    texts = {"seq": "7", "recorded": "1700000000000"}
    yield {**texts, **changes.encode(Change(Kind.OPT_OUT, key=KEYS[3], at="t", src="s"))}
    yield {**texts, **changes.encode(Change(Kind.SUPERSEDE, key=KEYS[3], new_key=KEYS[4]))}
    yield {**texts, **changes.encode(Change(Kind.SUSPEND))}
    yield {"seq": "9223372036854775808", "op": "opt_in", "nhs": "999 000 0018"}
    yield {"seq": "9990000018", "op": "opt_out", "nhs": "7"}
    yield {"v": "2", "seq": "7", "op": "resume"}


def _line_seeds() -> Iterator[bytes]:
    for fields in _changes():
        yield json.dumps(fields).encode()
    yield b'{"generation":"fuzz","first_seq":"1"}'
    yield b'{"seq":1}'
    yield b'{"seq":"7","op":"opt_out","nhs":"9990000018","at":"\\ud800","seq":"8"}'
    yield b"=00000000 {}"


def _entry_seeds() -> Iterator[bytes]:
    for fields in _changes():
        yield b"\n".join(part.encode() for pair in fields.items() for part in pair)
    yield b"seq\n7\nseq\n8"
    yield b"\xff\nop"
    yield b""


def _token_seeds() -> Iterator[bytes]:
    yield b""
    yield REVISION.token.encode()
    yield Revision("a" * 64, SEQ_MAX).token.encode()
    yield REVISION.token.encode() + b"="
    yield REVISION.token.encode()[:-1] + "\N{FULLWIDTH DIGIT FOUR}".encode()


def _position_seeds() -> Iterator[bytes]:
    for text in ("1:0", "7:120:1700000000000", "1:0:0", "9223372036854775808:1"):
        yield text.encode()
    segment = log.Segment("fuzz", 8)
    yield segment.name.encode()
    yield segment.past_name.encode()


def _state_seeds() -> Iterator[bytes]:
    about = {"state": "1", "feed": FEED, "as_of": repr(NOW - 60), "sha256": "FIT"}
    confirmed = {
        "register": "FIT", "as_of": repr(NOW), "suspended": "False", "generation": "fuzz",
        "seq": "8", "position": "1:0", "opt_outs": "40",
    }  # fmt: skip
    newest = {"feed": FEED, "generation": "fuzz", "seq": "8", "began_at": repr(NOW)}
    for changed in ({}, {"as_of": "nan"}, {"suspended": "0"}, {"seq": "-1"}, {"as_of": "1e400"}):
        rows = (about, {**confirmed, **changed}, {**newest, **changed})
        yield b"\n".join(json.dumps(row).encode() for row in rows)
    yield b"\n".join(json.dumps(row).encode() for row in (about, confirmed)) + b"\n\nsnapshot"


def _url_seeds() -> Iterator[bytes]:
    yield b"dir:./feed"
    yield b"redis://user:secret-word@[::1]:6379/0?password_file=p"
    yield b"rediss+sentinel://a:1,b:2/ndoo/0?ca=ca.pem&sentinel_user=u"
    yield b"redis+cluster://a:1,b:99999"


TARGETS = (
    Target(snapshot, _snapshot_seeds, bytes_max=12_000, compiled=True),
    Target(snapshot_header, _header_seeds),
    Target(snapshot_file, _file_seeds),
    Target(log_line, _line_seeds),
    Target(redis_entry, _entry_seeds, bytes_max=1024),
    Target(revision_token, _token_seeds, bytes_max=256),
    Target(positions, _position_seeds, bytes_max=256),
    Target(kept_state, _state_seeds),
    Target(feed_url, _url_seeds, bytes_max=512),
)
