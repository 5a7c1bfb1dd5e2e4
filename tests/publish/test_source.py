"""A source is drawn, somebody chooses, and then the source is loaded: in feeds of both kinds."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from ndoo.errors import SnapshotRefused
from ndoo.publish.fold import fold, settle_with
from ndoo.publish.source import RECONCILE, Settled, Terms
from ndoo.register.changes import Change, Kind, encode
from support.people import KEYS, opt_in, opt_out, supersede
from support.places import Place, bitmap, people_in

HOUR_MS = 3_600_000
NOW_MS = int(time.time() * 1000)
EVERYBODY = range(100)


def hours_ago(hours: float) -> int:
    return NOW_MS - int(hours * HOUR_MS)


def drawn(hours: float, *, accept_jump: bool = False) -> Terms:
    return Terms(hours_ago(hours), accept_jump=accept_jump)


def recorded(place: Place, changes: Mapping[float, Change]) -> None:
    """Changes in the feed, by how many hours ago they were recorded; inf stands for unknown."""
    seq = place.register().revision.seq
    for hours, change in changes.items():
        seq += 1
        when = {} if math.isinf(hours) else {"recorded": str(hours_ago(hours))}
        place.harm.append_raw({"seq": str(seq), **encode(change), **when})


def test_an_opt_out_since_it_was_drawn_stands_and_an_older_one_is_the_sources_word(
    place: Place,
) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(200), 3: opt_out(201), 1: opt_out(202)})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert people_in(place.register()) == {*EVERYBODY, 202}


def test_an_opt_in_since_it_was_drawn_stands_too(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_in(0), 1: opt_in(1)})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert people_in(place.register()) == {*EVERYBODY} - {1}


@pytest.mark.parametrize("minutes", [-0.9, 0.9])
def test_where_clocks_leave_it_open_opted_out_wins(place: Place, minutes: float) -> None:
    publisher = place.loaded(*EVERYBODY)
    when = 2 + minutes / 60
    recorded(place, {5: opt_out(99), when: opt_out(200), when - 1e-6: opt_in(1)})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert people_in(place.register()) == {*EVERYBODY, 200}


def test_an_unknown_moment_counts_as_since(directory_place: Place) -> None:
    publisher = directory_place.loaded(*EVERYBODY)
    recorded(directory_place, {5: opt_out(99), math.inf: opt_out(200)})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert 200 in people_in(directory_place.register())


def test_a_choice_under_one_number_stands_for_all_of_them(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: supersede(200, 201), 4: supersede(0, 300), 1: opt_out(201), 0.9: opt_in(0)})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert people_in(place.register()) == {*EVERYBODY, 200, 201} - {0}


def test_numbers_joined_since_are_opted_out_if_register_or_source_says_so(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(99), 1: supersede(0, 200), 0.9: supersede(300, 301)})
    publisher.load(bitmap(*range(1, 100), 300), drawn(2, accept_jump=True))
    assert people_in(place.register()) == {*EVERYBODY, 200, 300, 301}


def test_an_opt_in_that_repeats_a_source_does_not_outweigh_a_later_one(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    repeated = Change(Kind.OPT_IN, key=KEYS[0], src=RECONCILE)
    recorded(place, {5: opt_out(99), 1: repeated})
    publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert people_in(place.register()) == set(EVERYBODY)


def test_without_a_date_every_opt_out_that_the_feed_holds_stands(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    publisher.append([opt_out(200), opt_in(0), opt_out(1), opt_in(1)])
    publisher.snapshot()
    publisher.load(bitmap(*EVERYBODY))
    assert people_in(place.register()) == {*EVERYBODY, 200}


@pytest.mark.parametrize("terms", [drawn(2), Terms()], ids=["dated", "undated"])
def test_loading_the_same_source_again_undoes_nothing(place: Place, terms: Terms) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(99), 1: opt_out(200), 0.5: supersede(200, 201)})
    for _ in range(3):
        publisher.load(bitmap(*EVERYBODY), terms)
        assert people_in(place.register()) == {*EVERYBODY, 200, 201}
        terms = Terms()
        publisher.snapshot()


def test_a_source_from_before_the_feeds_time_is_refused_with_that_time(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {1: opt_out(200)})
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(*EVERYBODY), drawn(2))
    assert refused.value.reason == "SOURCE_TOO_OLD"
    told = str(refused.value).split("one drawn at ")[1].split(" or later")[0]
    first_ms = dt.datetime.fromisoformat(told).timestamp() * 1000
    assert hours_ago(1) + 60_000 <= first_ms <= hours_ago(1) + 61_000
    publisher.load(bitmap(*EVERYBODY, 200), Terms(int(first_ms)))
    assert 200 in people_in(place.register())


def test_a_change_lost_is_time_that_the_feed_cannot_tell_of(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(200), 4: opt_out(201)})
    place.harm.append_raw({"seq": "4", **encode(opt_out(203)), "recorded": str(hours_ago(1))})
    for terms in (drawn(2), Terms()):
        with pytest.raises(SnapshotRefused):
            publisher.load(bitmap(*EVERYBODY), terms)
    publisher.load(bitmap(*EVERYBODY), drawn(0.5, accept_jump=True))
    assert people_in(place.register()) == set(EVERYBODY)


def test_what_cannot_be_read_may_be_an_opt_out(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(200)})
    place.harm.append_raw({"seq": "2", "op": "vanish"})
    place.harm.append_raw({"seq": "3", **encode(opt_out(202))})
    place.harm.append_raw({"seq": "4", "op": "suspend"})
    for terms in (drawn(2), drawn(2, accept_jump=True), Terms()):
        with pytest.raises(SnapshotRefused) as refused:
            publisher.load(bitmap(*EVERYBODY), terms)
        assert refused.value.reason in {"SOURCE_TOO_OLD", "SOURCE_IN_DOUBT"}
    publisher.load(bitmap(*EVERYBODY), Terms(accept_jump=True))
    assert people_in(place.register()) == {*EVERYBODY, 200, 202}
    assert place.register().suspended


def damage_snapshot(place: Place) -> None:
    if place.url.startswith("redis"):
        place.harm.client.hset("{ndoo}:snapshot", "register", b"damaged")
    else:
        snapshot = place.harm.path / "snapshot"
        snapshot.write_bytes(snapshot.read_bytes()[:-1])


def remove_snapshot(place: Place) -> None:
    if place.url.startswith("redis"):
        place.harm.client.delete("{ndoo}:snapshot")
    else:
        (place.harm.path / "snapshot").unlink()


@pytest.mark.parametrize("harm", [damage_snapshot, remove_snapshot])
def test_what_a_feed_without_a_readable_snapshot_still_tells_stands(
    place: Place, harm: Callable[[Place], None]
) -> None:
    """No source tells the rest, so this is not done without a word."""
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(200), 4: supersede(0, 300)})
    place.harm.append_raw({"seq": "3", "op": "suspend"})
    harm(place)
    for terms in (Terms(), drawn(2)):
        with pytest.raises(SnapshotRefused, match="--accept-jump") as refused:
            publisher.load(bitmap(*EVERYBODY), terms)
        assert refused.value.reason == "SOURCE_IN_DOUBT"
    publisher.load(bitmap(*EVERYBODY), Terms(accept_jump=True))
    assert people_in(place.register()) == {*EVERYBODY, 200, 300}
    assert place.register().suspended


def test_a_damaged_snapshot_without_any_change_is_in_doubt_too(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    damage_snapshot(place)
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(*EVERYBODY))
    assert refused.value.reason == "SOURCE_IN_DOUBT"


def test_a_snapshot_that_went_away_is_not_taken_for_a_feed_never_loaded(redis_place: Place) -> None:
    publisher = redis_place.loaded(*EVERYBODY)
    remove_snapshot(redis_place)
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(*EVERYBODY))
    assert refused.value.reason == "SOURCE_IN_DOUBT"


def test_joins_that_cannot_be_read_are_in_doubt_however_new_the_source(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    recorded(place, {5: opt_out(200)})
    place.harm.append_raw({"seq": "2", "op": "vanish"})
    place.harm.append_raw({"seq": "3", **encode(opt_out(203)), "recorded": str(hours_ago(1))})
    with pytest.raises(SnapshotRefused) as refused:
        publisher.load(bitmap(*EVERYBODY, 203), drawn(0.5))
    assert refused.value.reason == "SOURCE_IN_DOUBT"
    publisher.load(bitmap(*EVERYBODY, 203), drawn(0.5, accept_jump=True))


@pytest.mark.parametrize(
    ("people", "sentence"),
    [
        ((*range(50), *range(100, 150)), "release 50 of 100 opt-outs, 50.0%"),
        (range(97), "release 3 of 100 opt-outs, 3.0%"),
        (range(1200), "add 1,100 of 100 opt-outs"),
    ],
)
def test_a_jump_is_refused_whatever_the_count_comes_to(
    place: Place, people: range, sentence: str
) -> None:
    publisher = place.loaded(*EVERYBODY)
    shown: list[Settled] = []
    with pytest.raises(SnapshotRefused, match=sentence) as refused:
        publisher.load(bitmap(*people), Terms(examine=shown.append))
    assert refused.value.reason == "SOURCE_JUMP"
    assert shown[0].keys == bitmap(*people)
    assert people_in(place.register()) == set(EVERYBODY)
    publisher.load(bitmap(*people), Terms(accept_jump=True))
    assert people_in(place.register()) == set(people)
    assert place.feed().load().shrink_accepted


@pytest.mark.parametrize("share", [0.02, 0.0, math.nan])
def test_the_share_that_may_be_released_is_the_operators(place: Place, share: float) -> None:
    publisher = place.loaded(*EVERYBODY)
    with pytest.raises(SnapshotRefused):
        publisher.load(bitmap(*range(97)), Terms(jump_max=share))
    publisher.load(bitmap(*range(97)), Terms(jump_max=0.05))
    assert place.feed().load().shrink_accepted  # or readers, who allow 2 %, would refuse it


def test_an_examination_that_raises_ends_it_before_anything_is_changed(place: Place) -> None:
    publisher = place.loaded(*EVERYBODY)
    before = place.register().revision

    def refuse(settled: Settled) -> None:
        assert (len(settled.added), len(settled.released), len(settled.kept)) == (1, 1, 0)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        publisher.load(bitmap(*range(1, 101)), Terms(examine=refuse))
    assert place.register().revision == before


def test_what_comes_while_a_source_is_looked_at_is_not_settled_before_its_turn(
    place: Place,
) -> None:
    """It is carried over in its own order; told earlier, an opt-out would be undone for a while by
    the opt-in that came before it.
    """
    publisher = place.loaded(*EVERYBODY)
    publisher.append([opt_out(200)])
    found = fold(place.feed())

    class Late:
        def retained(self, generation: str | None) -> Iterator[Change | None]:
            publisher.append([opt_in(200), opt_out(200), opt_out(201)])
            yield from place.feed().retained(generation)

    settled, _ = settle_with(Late(), found, bitmap(*EVERYBODY), Terms())
    assert settled.keys == bitmap(*EVERYBODY, 200)
    assert [(change.kind, change.key) for change in settled.standing] == [(Kind.OPT_OUT, KEYS[200])]
