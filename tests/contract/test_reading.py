"""What every feed promises to its reader."""

from __future__ import annotations

import threading

import pytest

from ndoo.errors import ChangeRefused, FeedEmpty, FeedUnavailable, SequenceBroken
from ndoo.feed import directory, feed, redis
from ndoo.feed.feed import Feed, HistoryChanged
from ndoo.register.register import Register
from ndoo.register.snapshot import unix_s
from ndoo.revision import Revision
from support.people import number, opt_in, opt_out, supersede
from support.places import Place, bitmap, people_in

PATIENCE_S = 60


class Reader:
    """A register on its way through a feed."""

    def __init__(self, feed: Feed) -> None:
        snapshot = feed.load()
        self.feed = feed
        self.register = Register(snapshot)
        self.position = snapshot.position

    def read(self, wait_s: float = 0.0) -> feed.Batch:
        batch = self.feed.read(self.register.revision, self.position, wait_s)
        self.register.apply(batch.changes)
        self.position = batch.position
        return batch

    def read_all(self) -> set[int]:
        while not self.read().complete:
            pass
        return people_in(self.register)


def test_a_feed_without_a_register_is_empty(place: Place) -> None:
    with pytest.raises(FeedEmpty, match="ndoo load"):
        place.feed().load()


def test_what_is_loaded_and_appended_is_read_in_order(place: Place) -> None:
    publisher = place.loaded(0, 1, 2)
    revision = publisher.append([opt_out(5), opt_in(0), supersede(1, 9)])
    reader = Reader(place.feed())
    batch = reader.read()
    assert [change.seq for change in batch.changes] == [1, 2, 3]
    assert batch.complete
    assert reader.register.revision == revision
    assert people_in(reader.register) == {1, 2, 5, 9}


def test_a_fresh_register_is_complete_with_nothing_to_read(place: Place) -> None:
    place.loaded(0)
    batch = Reader(place.feed()).read()
    assert batch == feed.Batch((), batch.position, complete=True)


def test_fields_that_decide_nothing_are_carried(place: Place) -> None:
    publisher = place.loaded(0)
    change = opt_out(1)
    described = type(change)(change.kind, key=change.key, at="2024-11-01T10:00:00Z", src="émail")
    publisher.append([described])
    (read,) = Reader(place.feed()).read().changes
    assert (read.at, read.src) == (described.at, described.src)


def test_a_reader_goes_on_from_where_it_was(place: Place) -> None:
    publisher = place.loaded(0)
    reader = Reader(place.feed())
    for person in range(1, 20):
        publisher.append([opt_out(person)])
        batch = reader.read()
        assert (len(batch.changes), batch.complete) == (1, True)
    assert people_in(reader.register) == set(range(20))


def test_many_changes_come_in_batches_and_only_the_last_is_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis, directory):
        monkeypatch.setattr(module, "CHANGES_PER_READ_MAX", 7)
    place.loaded(0).append([opt_out(person) for person in range(1, 24)])
    reader = Reader(place.feed())
    batches = [reader.read() for _ in range(4)]
    assert [len(batch.changes) for batch in batches] == [7, 7, 7, 2]
    assert [batch.complete for batch in batches] == [False, False, False, True]
    assert people_in(reader.register) == set(range(24))


def test_a_reader_is_told_how_far_it_is_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis, directory):
        monkeypatch.setattr(module, "CHANGES_PER_READ_MAX", 7)
    publisher = place.loaded(0)
    publisher.append([opt_out(person) for person in range(1, 11)])
    publisher.snapshot()  # a directory begins its next segment
    publisher.append([opt_out(person) for person in range(11, 24)])
    reader = Reader(place.feed())
    publisher.append([opt_out(person) for person in range(24, 34)])
    assert reader.register.revision.seq == 10
    assert [reader.read().behind for _ in range(4)] == [16, 9, 2, 0]


def test_what_cannot_be_read_is_behind_too(place: Place) -> None:
    place.loaded(0).append([opt_out(1)])
    place.harm.append_raw({"seq": "2", "op": "vanish", "nhs": number(2)})
    reader = Reader(place.feed())
    assert reader.read().behind == 1
    with pytest.raises(ChangeRefused) as refused:
        reader.read()
    assert refused.value.behind == 1


def test_a_reader_is_told_when_the_newest_snapshot_was_made(place: Place) -> None:
    publisher = place.loaded(0)
    reader = Reader(place.feed())
    first = reader.read().snapshot_at
    assert first == unix_s(reader.feed.load().created_at)
    publisher.append([opt_out(1)])
    publisher.snapshot()
    assert reader.read_all() == {0, 1}
    second = reader.read().snapshot_at
    assert second == unix_s(reader.feed.load().created_at) >= first


def test_a_full_batch_that_is_also_the_last_ends_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis, directory):
        monkeypatch.setattr(module, "CHANGES_PER_READ_MAX", 5)
    place.loaded(0).append([opt_out(person) for person in range(1, 11)])
    assert Reader(place.feed()).read_all() == set(range(11))


def test_waiting_ends_with_the_first_change(place: Place) -> None:
    publisher = place.loaded(0)
    reader = Reader(place.feed())
    writing = threading.Thread(target=publisher.append, args=([opt_out(1)],))
    writing.start()
    changes: list[object] = []
    while not changes:
        changes.extend(reader.read(wait_s=PATIENCE_S).changes)
    writing.join()
    assert people_in(reader.register) == {0, 1}


def test_waiting_in_vain_confirms_that_there_is_nothing(place: Place) -> None:
    place.loaded(0)
    batch = Reader(place.feed()).read(wait_s=0.02)
    assert (batch.changes, batch.complete) == ((), True)


def test_closing_ends_a_waiting_read(place: Place) -> None:
    place.loaded(0)
    reader = Reader(place.feed())
    waiting, refused = threading.Event(), threading.Event()

    def wait() -> None:
        try:
            while True:
                waiting.set()
                reader.read(wait_s=PATIENCE_S)
        except FeedUnavailable:
            refused.set()

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(PATIENCE_S)
    reader.feed.close()
    reader.feed.close()
    thread.join(PATIENCE_S)
    assert refused.is_set()
    with pytest.raises(FeedUnavailable, match="closed"):
        reader.feed.load()


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "vanish"},
        {"op": "opt_out", "nhs": "9990000019"},
        {"op": "opt_out"},
        {"op": "resume", "v": "2"},
        {},
    ],
    ids=["unknown kind", "wrong check digit", "no number", "later form", "nothing but a number"],
)
def test_a_change_that_cannot_be_read_is_waited_for(place: Place, fields: dict[str, str]) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    place.harm.append_raw({"seq": "3", **fields})
    publisher.append([opt_out(4)])
    reader = Reader(place.feed())
    before = reader.read()
    assert (len(before.changes), before.complete) == (2, False)
    for _ in range(3):
        with pytest.raises(ChangeRefused) as refusal:
            reader.read()
        assert "999" not in str(refusal.value)
    assert people_in(reader.register) == {0, 1, 2}


def test_a_gap_is_never_passed_over(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    place.harm.append_raw({"seq": "3", "op": "opt_out", "nhs": number(3)})
    with pytest.raises(SequenceBroken):
        Reader(place.feed()).read_all()


def test_a_number_twice_is_never_passed_over(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    place.harm.append_raw({"seq": "1", "op": "opt_in", "nhs": number(1)})
    with pytest.raises(SequenceBroken):
        Reader(place.feed()).read_all()


def test_a_history_that_went_back_is_noticed(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    reader = Reader(place.feed())
    reader.read_all()
    place.harm.remove_last()
    with pytest.raises(HistoryChanged) as changed:
        reader.read()
    assert changed.value.reason == "BACKWARDS"


def test_a_rewritten_history_is_noticed(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    reader = Reader(place.feed())
    reader.read_all()
    place.harm.replace_last({"seq": "3", "op": "opt_out", "nhs": number(3)})
    with pytest.raises(HistoryChanged) as changed:
        reader.read()
    assert changed.value.reason == "REWRITTEN"


def test_another_generation_is_noticed(place: Place) -> None:
    publisher = place.loaded(0, 1)
    publisher.append([opt_out(2)])
    reader = Reader(place.feed())
    reader.read_all()
    publisher.load(bitmap(0, 1, 2, 3))
    with pytest.raises(HistoryChanged) as changed:
        reader.read()
    assert changed.value.reason == "OTHER_GENERATION"
    assert Reader(reader.feed).read_all() == {0, 1, 2, 3}


def test_a_reader_whose_changes_were_trimmed_is_told(place: Place) -> None:
    publisher = place.loaded(0)
    late = Reader(place.feed())
    for person in range(1, 4):
        publisher.append([opt_out(person)])
        publisher.snapshot()
    with pytest.raises((HistoryChanged, SequenceBroken)) as changed:
        late.read()
    assert changed.value.reason in {"TRIMMED", "GAP"}
    assert Reader(place.feed()).read_all() == {0, 1, 2, 3}


def test_a_reader_one_snapshot_behind_reads_on(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    publisher.snapshot()
    late = Reader(place.feed())
    publisher.append([opt_out(2), opt_out(3)])
    publisher.snapshot()
    assert late.read_all() == {0, 1, 2, 3}


def test_a_reader_at_the_end_survives_trimming(place: Place) -> None:
    publisher = place.loaded(0)
    reader = Reader(place.feed())
    for person in range(1, 8):
        publisher.append([opt_out(person)])
        assert reader.read().complete
        publisher.snapshot()
        publisher.snapshot()
        assert reader.read().complete
    assert people_in(reader.register) == set(range(8))


def test_the_change_read_last_comes_with_what_follows_it(place: Place) -> None:
    publisher = place.loaded(0)
    reader = Reader(place.feed())
    publisher.append([opt_out(1)])
    first = reader.read()
    assert first.own is None
    assert reader.read().own == first.changes[-1]
    publisher.append([opt_out(2)])
    assert reader.read().own == first.changes[-1]


def test_a_reader_goes_on_from_a_change_that_only_others_can_read(place: Place) -> None:
    """Whoever understands it made a snapshot up to it, and what comes after has to be seen."""
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    reader = Reader(place.feed())
    (*_, last) = reader.read().changes
    recorded = str(last.recorded_ms)
    place.harm.replace_last({"v": "2", "seq": "2", "op": "resume", "recorded": recorded})
    confirmed = reader.read()
    assert (confirmed.complete, confirmed.own) == (True, feed.UNREADABLE)
    publisher.append([opt_out(3)])
    assert reader.read_all() == {0, 1, 2, 3}


def test_a_position_means_nothing_in_another_revision(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)])
    reader = Reader(place.feed())
    reader.read_all()
    revision = Revision(reader.register.revision.generation, 1)
    with pytest.raises(HistoryChanged):
        reader.feed.read(revision, reader.position, 0.0)
