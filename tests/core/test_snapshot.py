"""Snapshots: what is written is read back, and everything else is refused with its own reason."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap, BitMap64

from core import hostile
from core.settings import CORE
from ndoo.errors import SnapshotRefused
from ndoo.nhs_number import KEY_MAX
from ndoo.register.changes import Change, Kind, encode_numbered
from ndoo.register.snapshot import (
    HEADER_BYTES_MAX,
    LAST_BYTES_MAX,
    LINKS_BYTES_MAX,
    Packed,
    Snapshot,
    pack,
    refuse_shrunken,
    unpack,
)
from ndoo.revision import SEQ_MAX, Revision

BASE = 999_000_000
KEYS = [BASE + off for off in (2, 4, 7, 8, 9, 10, 11, 12, 13, 77, 500, 70_000)]
KEYS += range(BASE + 200_000, BASE + 200_300)  # stored as a run
LAST = Change(Kind.OPT_OUT, 41, BASE + 2, at="2026-01-01T00:00:00Z", recorded_ms=1_767_225_600_000)
TOLD = encode_numbered(LAST)
LINKS = ((BASE + 2, BASE + 4, BASE + 500), (BASE + 3, BASE + 5), (BASE + 7, BASE + 70_000))


def snapshot(keys: list[int] = KEYS, **more: Any) -> Snapshot:
    return Snapshot(
        Revision("golden", 41), "1700000000000-7", "2026-01-01T00:00:00Z", BitMap(keys), **more
    )


PACKED = pack(snapshot(links=LINKS, suspended=True))
WRITTEN = json.loads(PACKED.header)
GOOD = {name: value for name, value in WRITTEN.items() if name != "header_sha256"}
"""As another writer may leave it: without a digest of its own."""


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def reason_of(packed: Packed) -> str:
    with pytest.raises(SnapshotRefused) as refused:
        unpack(packed)
    assert str(BASE)[:7] not in str(refused.value)
    return refused.value.reason.removeprefix("SNAPSHOT_")


def with_header(**fields: Any) -> Packed:
    return replace(PACKED, header=json.dumps(GOOD | fields).encode())


def without(name: str) -> Packed:
    fields = {other: value for other, value in GOOD.items() if other != name}
    return replace(PACKED, header=json.dumps(fields).encode())


def vouched_for(register: bytes, links: bytes = b"", **fields: Any) -> Packed:
    """*register* and *links* with the digests that belong to them."""
    digests = {"sha256": digest(register), "links_sha256": digest(links)}
    return Packed(json.dumps(GOOD | digests | fields).encode(), register, links)


def pairs(*keys: int) -> bytes:
    return np.array(keys, dtype="<u4").tobytes()


KEY_SETS = st.sets(st.integers(0, KEY_MAX) | st.integers(BASE, BASE + 300), min_size=1)


@CORE
@given(
    KEY_SETS, st.booleans(), st.booleans(), st.integers(0, SEQ_MAX), st.text("aZ_-9", min_size=1)
)
def test_what_is_packed_is_unpacked(
    keys: set[int], suspended: bool, shrink_accepted: bool, seq: int, name: str
):
    # Links among people who are out, and among others: each key belongs to one person at most.
    inside = sorted(keys)
    outside = list(range(BASE + 400, BASE + 404))
    links = tuple(group for group in (tuple(inside[:3]), tuple(outside)) if len(group) > 1)
    before = Snapshot(
        Revision(name[:64], seq), "5-0", "t", BitMap(keys), links, suspended, shrink_accepted
    )
    after = unpack(pack(before))
    assert after == before
    assert after.keys == BitMap(keys)


def test_the_change_that_led_to_it_comes_with_it():
    packed = pack(snapshot(last=LAST))
    assert unpack(packed).last == LAST
    assert json.loads(packed.header)["last"] == TOLD
    assert "last" not in WRITTEN
    assert unpack(PACKED).last is None


def test_a_change_too_long_to_be_read_again_and_again_is_left_out():
    room = LAST_BYTES_MAX - len(json.dumps(TOLD | {"src": ""}))
    fits, too_long = (replace(LAST, src="x" * size) for size in (room, room + 1))
    assert unpack(pack(snapshot(last=fits))).last == fits
    assert unpack(pack(snapshot(last=too_long))).last is None


@pytest.mark.parametrize("unknown", [{}, TOLD | {"op": "of_2030"}, TOLD | {"v": "2"}])
def test_a_change_that_only_others_can_read_makes_no_worse_snapshot(unknown: dict[str, str]):
    assert unpack(with_header(last=unknown)) == unpack(PACKED)


@pytest.mark.parametrize("last", [None, "", [TOLD], TOLD | {"seq": 41}, TOLD | {"seq": "40"}])
def test_a_change_that_cannot_have_led_to_it_is_refused(last: object):
    assert reason_of(with_header(last=last)) == "HEADER"


def test_a_snapshot_without_links_or_flags_is_read():
    bare = {
        name: GOOD[name]
        for name in GOOD
        if name not in ("links_sha256", "suspended", "shrink_accepted")
    }
    read = unpack(Packed(json.dumps(bare | {"future": [1]}).encode(), PACKED.register, b""))
    assert read == snapshot()
    assert not read.suspended
    assert not read.shrink_accepted


@pytest.mark.parametrize("block", ["register", "links"])
def test_any_byte_changed_is_refused(block: str):
    raw = getattr(PACKED, block)
    for place in range(len(raw)):
        for flip in (1, 128, 255):
            bad = bytearray(raw)
            bad[place] ^= flip
            assert reason_of(replace(PACKED, **{block: bytes(bad)})) == "DIGEST"


@pytest.mark.parametrize("block", ["register", "links"])
def test_any_length_but_the_whole_is_refused(block: str):
    raw = getattr(PACKED, block)
    for size in range(len(raw)):
        assert reason_of(replace(PACKED, **{block: raw[:size]})) == "DIGEST"
    assert reason_of(replace(PACKED, **{block: raw + b"\x00"})) == "DIGEST"


@CORE
@given(st.integers(0, len(PACKED.header) - 1))
def test_a_header_cut_short_is_refused(size: int):
    assert reason_of(replace(PACKED, header=PACKED.header[:size])) == "HEADER"


@CORE
@given(st.integers(0, len(PACKED.header) - 1), st.integers(1, 255))
def test_a_header_with_a_changed_byte_is_refused_or_says_the_same(place: int, flip: int):
    bad = bytearray(PACKED.header)
    bad[place] ^= flip
    try:
        read = unpack(replace(PACKED, header=bytes(bad)))
    except SnapshotRefused:
        return
    assert read == snapshot(links=LINKS, suspended=True)


@pytest.mark.parametrize("name", [*GOOD, "future"])
def test_a_field_changed_behind_the_back_of_the_digest_is_refused(name: str):
    changed = {"seq": 40, "suspended": False, "shrink_accepted": True}
    fields = WRITTEN | {name: changed.get(name, "1700000000000-8")}
    reason = reason_of(replace(PACKED, header=json.dumps(fields).encode()))
    assert reason == ("FORMAT" if name == "format" else "DIGEST")
    if name in GOOD:
        fewer = {other: value for other, value in WRITTEN.items() if other != name}
        assert reason_of(replace(PACKED, header=json.dumps(fewer).encode())) in {"DIGEST", "FORMAT"}


@pytest.mark.parametrize("digest_of_header", [None, 0, "", "x", WRITTEN["header_sha256"].upper()])
def test_a_wrong_digest_of_the_header_is_refused(digest_of_header: object):
    assert reason_of(with_header(header_sha256=digest_of_header)) == "DIGEST"


def test_the_digest_of_the_header_is_as_written():
    by_hand = json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode()
    assert WRITTEN["header_sha256"] == digest(by_hand)
    shuffled = dict(reversed(WRITTEN.items())) | {"future": None}
    del shuffled["future"]
    assert unpack(replace(PACKED, header=json.dumps(shuffled, indent=2).encode()))


def test_links_beyond_their_limit_are_refused():
    too_many = bytes(LINKS_BYTES_MAX + 8)
    assert reason_of(vouched_for(PACKED.register, too_many)) == "TOO_LARGE"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{",
        b"\xff\xfe\x00",
        b"{" * 20_000,
        b'{"a":' * 9_000,
        b"[" * 60_000,
        PACKED.header + b" " * HEADER_BYTES_MAX,
    ],
    ids=lambda raw: f"{raw[:8]!r}*{len(raw)}",
)
def test_a_header_that_is_no_object_is_refused(raw: bytes):
    assert reason_of(replace(PACKED, header=raw)) == "HEADER"


def test_a_header_as_deep_as_can_just_be_read_is_refused():
    for depth in range(500, 1100):
        raw = b'{"a":' * depth + b"0" + b"}" * depth
        assert reason_of(replace(PACKED, header=raw)) in {"HEADER", "FORMAT"}


WRONG = {
    "format": ([None, 0, 2, "1", True, 1.0, [1]], "FORMAT"),
    "generation": ([None, "", 1, "a b", "x" * 65, "é", "a\n", True], "HEADER"),
    "seq": ([None, -1, "41", 41.0, True, SEQ_MAX + 1, [41]], "HEADER"),
    "stream_id": ([None, "", 7, "x" * 257, False], "HEADER"),
    "created_at": ([None, "", 7, "x" * 257, {}], "HEADER"),
    "sha256": ([None, "", GOOD["sha256"].upper(), GOOD["sha256"][:-1], 7, True], "DIGEST"),
    "links_sha256": ([None, "", digest(b""), 7, False], "DIGEST"),
    "count": (
        [None, 0, -1, len(KEYS) - 1, len(KEYS) + 1, str(len(KEYS)), float(len(KEYS)), True, []],
        "COUNT",
    ),
    "suspended": ([None, 0, 1, "false", "", []], "HEADER"),
    "shrink_accepted": ([None, 0, 1, "true"], "HEADER"),
}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [(name, value, reason) for name, (values, reason) in WRONG.items() for value in values],
    ids=lambda part: str(part)[:20],
)
def test_a_wrong_header_field_is_refused(name: str, value: object, reason: str):
    assert reason_of(with_header(**{name: value})) == reason


@pytest.mark.parametrize("name", [*WRONG][:8])
def test_a_missing_header_field_is_refused(name: str):
    assert reason_of(without(name)) == WRONG[name][1]


def test_true_does_not_count_as_one():
    raw = BitMap(KEYS[:1]).serialize()
    assert unpack(vouched_for(raw, count=1)).keys == BitMap(KEYS[:1])
    assert reason_of(vouched_for(raw, count=True)) == "COUNT"


def test_an_empty_register_is_refused_even_if_it_says_so():
    empty = BitMap().serialize()
    assert reason_of(vouched_for(empty, count=0)) == "EMPTY"
    with pytest.raises(SnapshotRefused, match="empty"):
        pack(snapshot([]))


@pytest.mark.parametrize("key", [KEY_MAX + 1, 2**31, 2**32 - 1])
def test_a_key_of_more_than_nine_digits_is_refused(key: int):
    # As it would be if somebody wrote whole numbers modulo 2^32 in place of keys.
    assert reason_of(vouched_for(BitMap([*KEYS, key]).serialize(), count=len(KEYS) + 1)) == "KEY"
    with pytest.raises(SnapshotRefused, match="nine digits"):
        pack(snapshot([*KEYS, key]))


def test_bytes_after_the_bitmap_are_refused():
    # Two parts written one after the other would be read as the first alone.
    raw = BitMap(KEYS).serialize()
    for more in (b"\x00", raw, b"register"):
        assert reason_of(vouched_for(raw + more, count=len(KEYS))) == "NOT_ROARING"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"{}",
        b"\x3a\x30",
        b"\xff" * 64,
        BitMap64(KEYS).serialize(),
        PACKED.register[:-1],
    ],
    ids=["nothing", "zero", "text", "cookie", "ones", "64-bit", "cut"],
)
def test_vouched_for_bytes_that_are_not_roaring_are_refused(raw: bytes):
    assert reason_of(vouched_for(raw, count=len(KEYS))) == "NOT_ROARING"


def test_internally_inconsistent_bitmaps_are_refused():
    """The forms that a digest cannot catch: whoever wrote them wrote the digest too."""
    for name, raw, count in hostile.inconsistent_bitmaps():
        assert reason_of(vouched_for(raw, count=count)) == "NOT_ROARING", name


@pytest.mark.parametrize("seed", range(4))
def test_hostile_bitmaps_are_refused_or_read_true_and_never_crash(seed: int):
    # In a process of its own, since what might happen is a crash of the reader.
    ran = subprocess.run(
        [sys.executable, hostile.__file__, str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2_000:]
    outcome = json.loads(ran.stdout)
    assert outcome["refused"] > 1_000, outcome
    assert outcome["read"] > 10, outcome


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (pairs(BASE + 7, BASE + 8)[:-1], "whole pairs"),
        (pairs(BASE + 7), "whole pairs"),
        (pairs(BASE + 8, BASE + 7), "in order"),
        (pairs(BASE + 7, BASE + 7), "persons|in order"),
        (pairs(BASE + 7, BASE + 8, BASE + 7, BASE + 8), "persons"),
        (pairs(BASE + 7, BASE + 9, BASE + 7, BASE + 8), "in order"),
        (pairs(BASE + 7, BASE + 9, BASE + 8, BASE + 9), "persons"),
        (pairs(BASE + 7, BASE + 8, BASE + 8, BASE + 9), "persons"),
        (pairs(BASE + 7, KEY_MAX + 1), "in order"),
        (pairs(BASE + 7, BASE + 600), "under one number"),
        (pairs(BASE + 6, BASE + 7), "under one number"),
    ],
)
def test_links_that_make_no_sense_are_refused(raw: bytes, what: str):
    packed = vouched_for(PACKED.register, raw)
    assert reason_of(packed) == "LINKS"
    with pytest.raises(SnapshotRefused, match=what):
        unpack(packed)


def test_what_no_reader_would_accept_is_not_written():
    split = ((BASE + 7, BASE + 600),)
    twice = ((BASE + 7, BASE + 8), (BASE + 8, BASE + 9))
    for links in (split, twice):
        with pytest.raises(SnapshotRefused):
            pack(snapshot(links=links))
    with pytest.raises(SnapshotRefused):
        pack(replace(snapshot(), position=""))


SHRUNKEN: list[tuple[int, int, float, bool]] = [
    (0, 1, 0.05, False),
    (100, 100, 0.0, False),
    (100, 99, 0.0, True),
    (100, 95, 0.05, False),
    (100, 94, 0.05, True),
    (1_000, 2_000, 0.05, False),
    (1, 1, 0.05, False),
    (100, 1, 1.0, False),
    (2, 1, 0.5, False),
    (3, 1, 0.5, True),
    (100, 99, math.nan, True),
    (100, 100, math.nan, False),
]


@pytest.mark.parametrize(("current", "new", "share", "refused"), SHRUNKEN)
def test_a_shrunken_register_is_refused(current: int, new: int, share: float, refused: bool):
    smaller = snapshot(list(range(BASE, BASE + new)))
    check: Callable[[Snapshot], None] = lambda one: refuse_shrunken(one, current, share)  # noqa: E731
    if refused:
        with pytest.raises(SnapshotRefused) as error:
            check(smaller)
        assert error.value.reason == "SNAPSHOT_SHRUNKEN"
    else:
        check(smaller)
    check(replace(smaller, shrink_accepted=True))


def test_what_a_snapshot_shows_of_itself_holds_no_key():
    told = snapshot(links=LINKS, last=LAST)
    assert str(BASE)[:6] not in repr(told) + repr(pack(told))
