"""What this version does with what a later one wrote: never a guess, and never a step over it."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from golden import VERSIONS, make
from ndoo.budgets.directory import BUDGETS, DirectoryStore
from ndoo.budgets.store import StoreFailed
from ndoo.errors import BadToken, ChangeRefused, NotAnswering, SnapshotRefused
from ndoo.feed import directory, log, redis
from ndoo.feed.feed import HistoryChanged
from ndoo.feed.state import REGISTER, StateDirectory, StateRefused
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import decode
from ndoo.register.signature import Verifier
from ndoo.register.snapshot import Packed
from ndoo.revision import Revision
from support.following import Following
from support.people import number, opt_out
from support.places import DirectoryHarm, Place, bitmap, people_in
from support.scripted import people_seen

LATER = {"v": "2", "op": "opt_in", "nhs": number(1), "until": "2026-12-31"}
"""A form in which an opt-out may end: to whoever passes `until` over, it has ended already."""

STALENESS_S = 3600.0  # of `Following`
RAISED_S = 60.0


def change_header(place: Place, **fields: object) -> None:
    """Let the snapshot of *place* say *fields*, as a later writer might."""
    if isinstance(place.harm, DirectoryHarm):
        path = place.harm.path / log.SNAPSHOT
        packed = _with_header(log.decode_snapshot(path.read_bytes()), fields)
        path.write_bytes(log.encode_snapshot(packed))
    else:
        header = place.harm.client.hget("{ndoo}:snapshot", "header")
        packed = _with_header(Packed(header, b"", b""), fields)
        place.harm.client.hset("{ndoo}:snapshot", "header", packed.header)


def _with_header(packed: Packed, fields: dict[str, object]) -> Packed:
    header = json.loads(packed.header) | fields
    del header["header_sha256"]
    return replace(packed, header=json.dumps(header).encode())


def test_a_change_of_a_later_form_is_held_and_its_replica_grows_old(place: Place) -> None:
    publisher = place.loaded(0)
    with contextlib.closing(Following(place.feed())) as following:
        following.until_at(publisher.append([opt_out(1)]))
        place.harm.append_raw({"seq": "2", **LATER})
        written_at = time.time()
        publisher.append([opt_out(3)])
        held = following.until_trouble("of a form that this version does not know")
        assert "999" not in held.trouble
        assert (people_seen(held), held.view.revision.seq) == ({0, 1}, 1)
        assert following.observer.refused[-1] == "CHANGE_REFUSED"
        following.replica.answering_state(written_at)
        # Whatever the feed answers, it confirms no more.
        assert following.replica.state.as_of <= written_at
        with pytest.raises(NotAnswering):
            following.replica.answering_state(written_at + STALENESS_S + RAISED_S)


@pytest.mark.parametrize("after", [[], [opt_out(3)]], ids=["it is the last", "others follow"])
def test_a_snapshot_of_a_later_version_leads_past_it(
    place: Place, after: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = place.loaded(0, 1)
    place.harm.append_raw({"seq": "1", **LATER})
    publisher.append(after)
    with pytest.raises(ChangeRefused):
        publisher.snapshot()
    with monkeypatch.context() as later:
        for module in (redis, directory):
            later.setattr(module, "decode", _decode_later)
        publisher.snapshot()
    if not after:
        change_header(place, last={"seq": "1", **LATER})
    publisher.append([opt_out(4)])
    assert people_in(place.register()) == {0, 4} | ({3} if after else set())


def _decode_later(fields: dict[str, str], entry_ms: int = 0) -> object:
    return decode({**fields, "v": "1"}, entry_ms)


def test_writers_lose_nothing_of_a_later_form(place: Place) -> None:
    publisher = place.loaded(0, 1)
    place.harm.append_raw({"seq": "1", **LATER})
    assert publisher.append([opt_out(3)]).seq == 2
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(0, 1))
    assert refused.value.reason == "SOURCE_IN_DOUBT"
    with pytest.raises(ChangeRefused):
        publisher.snapshot()


def test_a_register_in_a_later_format_is_not_read_and_not_replaced(place: Place) -> None:
    publisher = place.loaded(0)
    feed = place.feed()
    before = feed.load()
    publisher.load(bitmap(0, 1, 2))
    change_header(place, format=2)
    with pytest.raises(HistoryChanged):
        feed.read(before.revision, before.position, 0.0)
    for read in (feed.load, publisher.snapshot, lambda: publisher.load(bitmap(0, 1))):
        with pytest.raises(SnapshotRefused) as refused:
            read()
        assert refused.value.reason in {"SNAPSHOT_FORMAT", "SOURCE_IN_DOUBT"}


def test_a_header_may_say_more_than_is_known(place: Place) -> None:
    place.loaded(0, 1)
    change_header(place, drawn_from="elsewhere")
    assert people_in(place.register()) == {0, 1}


def test_a_signature_is_over_what_is_not_known_too() -> None:
    key = Ed25519PrivateKey.generate()
    verifier = Verifier([key.public_key()])
    raw = (VERSIONS[-1] / "signed").read_bytes()
    packed = log.decode_snapshot(raw)
    header = json.loads(packed.header) | {"drawn_from": "elsewhere"}
    del header["signature"], header["header_sha256"]
    message = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    signature = base64.b64encode(key.sign(b"ndoo-snapshot " + message)).decode()
    for drawn_from, counts in (("elsewhere", True), ("nowhere", False)):
        told = header | {"signature": signature, "drawn_from": drawn_from}
        signed = replace(packed, header=json.dumps(told).encode())
        with contextlib.nullcontext() if counts else pytest.raises(SnapshotRefused):
            assert snapshots.unpack(signed, verifier).revision == make.REVISION


def test_a_state_of_a_later_version_is_not_started_from(copy: Callable[[str], Path]) -> None:
    path = copy("state") / REGISTER
    line, _, body = path.read_bytes().partition(b"\n")
    fields = log.decode_line(line) | {"state": "2"}
    path.write_bytes(log.encode_line(fields) + body)
    with (
        contextlib.closing(StateDirectory(path.parent, make.FEED_NAME)) as state,
        pytest.raises(StateRefused, match="another version"),
    ):
        state.read(make.NOW_S)


def test_budgets_of_a_later_version_are_not_taken_for_unspent(
    copy: Callable[[str], Path],
) -> None:
    path = copy("budgets") / BUDGETS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with contextlib.closing(DirectoryStore(path.parent)) as store, pytest.raises(StoreFailed):
        store.claim(make.CLAIM)


def test_a_token_of_a_later_version_is_refused() -> None:
    body = f"2:{make.REVISION.generation}:{make.REVISION.seq}"
    body += f":{zlib.crc32(body.encode()):08x}"
    with pytest.raises(BadToken):
        Revision.from_token(base64.urlsafe_b64encode(body.encode()).decode().rstrip("="))
