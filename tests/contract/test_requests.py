"""What every publisher promises about requests that are sent again, and about those that may only
come next.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ndoo.errors import InputError
from ndoo.publish.publisher import CHANGES_PER_STEP_MAX, HeadMoved
from ndoo.publish.request import RequestRefused, is_request_id, new_request_id
from ndoo.publish.source import Terms
from ndoo.revision import Revision
from support.people import number, opt_in, opt_out, supersede
from support.places import Place, bitmap, people_in

MANY = [opt_out(person) for person in range(10, 10 + 2 * CHANGES_PER_STEP_MAX + 5)]


@pytest.mark.parametrize("changes", [[opt_out(1)], [opt_out(1), opt_in(0), opt_out(2)], MANY])
def test_a_request_that_is_repeated_is_recorded_once(place: Place, changes: list) -> None:
    publisher = place.loaded(0)
    first = publisher.append(changes, request_id="a")
    assert first.seq == len(changes)
    others = place.publisher().append([opt_out(5)], request_id="b")
    for _ in range(2):
        assert place.publisher().append(changes, request_id="a") == first
    assert place.register().revision == others


def test_a_late_repetition_does_not_undo_what_came_since(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_in(0)], request_id="a")
    publisher.append([opt_out(0)])
    publisher.append([opt_in(0)], request_id="a")
    assert people_in(place.register()) == {0}


def test_without_an_id_the_same_is_another_request(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1)])
    assert publisher.append([opt_out(1)]).seq == 2


def test_a_repetition_is_known_after_snapshots(place: Place) -> None:
    publisher = place.loaded(0)
    first = publisher.append([opt_in(0)], request_id="a")
    for person in (1, 0, 2):
        publisher.append([opt_out(person)])
        publisher.snapshot()
    assert publisher.append([opt_in(0)], request_id="a") == first
    assert people_in(place.register()) == {0, 1, 2}


def test_an_id_stands_for_one_request(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)], request_id="a")
    for other in ([opt_out(1)], [opt_out(1), opt_out(2), opt_out(3)], MANY):
        with pytest.raises(RequestRefused, match="used for 2 changes"):
            publisher.append(other, request_id="a")
    # One name that begins like another is another.
    assert publisher.append([opt_out(3)], request_id="a.b").seq == 3
    assert publisher.append([opt_out(4)], request_id="aa").seq == 4
    assert publisher.append([opt_out(5)], request_id="b").seq == 5


@pytest.mark.parametrize(
    "other",
    [
        [opt_out(1), opt_out(3)],
        [opt_out(3), opt_out(2)],
        [opt_out(1), opt_in(2)],
        [opt_out(1), supersede(2, 3)],
        [opt_out(2), opt_out(1)],
    ],
)
def test_an_id_of_other_changes_is_not_taken_for_theirs(place: Place, other: list) -> None:
    """Or the opt-outs of whoever chose an id twice would be lost without a word."""
    publisher = place.loaded(0)
    publisher.append([opt_out(1), opt_out(2)], request_id="a")
    with pytest.raises(RequestRefused, match="other changes") as refused:
        publisher.append(other, request_id="a")
    assert number(3) not in str(refused.value)
    assert place.register().revision.seq == 2
    publisher.append([opt_out(5)])
    dated = [replace(change, at="2026-03-01T09:30:00Z") for change in (opt_out(1), opt_out(2))]
    assert publisher.append(dated, request_id="a").seq == 2


def test_a_later_step_of_other_changes_is_told_too(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append(MANY, request_id="a")
    with pytest.raises(RequestRefused, match="other changes"):
        publisher.append([*MANY[:-1], opt_out(1)], request_id="a")


def test_a_repetition_after_a_load_is_refused(place: Place) -> None:
    publisher = place.loaded(0)
    publisher.append([opt_in(0)], request_id="a")
    publisher.load(bitmap(0, 1), Terms(accept_jump=True))
    with pytest.raises(RequestRefused, match="another register was loaded"):
        publisher.append([opt_in(0)], request_id="a")
    assert people_in(place.register()) == {0, 1}
    publisher.append([opt_in(0)], request_id="b")
    assert people_in(place.register()) == {1}


def test_what_could_be_somebodys_number_names_no_request(place: Place) -> None:
    publisher = place.loaded(0)
    digits = number(1)
    grouped = f"{digits[:3]}-{digits[3:6]}-{digits[6:]}"
    for bad in (digits, digits[:9], f"x{digits}", grouped, "a b", "a/1", "é", "x" * 65, "a\n"):
        assert not is_request_id(bad)
        with pytest.raises(InputError) as refused:
            publisher.append([opt_out(1)], request_id=bad)
        assert digits[:9] not in str(refused.value)
    assert place.register().revision.seq == 0
    assert all(is_request_id(new_request_id()) for _ in range(100))
    assert len({new_request_id() for _ in range(100)}) == 100


def test_what_has_to_come_next_comes_next_or_not_at_all(place: Place) -> None:
    publisher = place.loaded(0)
    start = place.register().revision
    first = publisher.append([opt_out(1)], after=start)
    assert first.seq == 1
    for stale in (start, Revision("another", 1), Revision(start.generation, 2)):
        with pytest.raises(HeadMoved):
            publisher.append([opt_in(0), opt_in(1)], after=stale)
    assert (people_in(place.register()), place.register().revision) == ({0, 1}, first)
    publisher.load(bitmap(0, 1))
    with pytest.raises(HeadMoved):
        publisher.append([opt_in(1)], after=first)


def test_a_repetition_need_not_come_next(place: Place) -> None:
    publisher = place.loaded(0)
    start = place.register().revision
    with pytest.raises(HeadMoved):
        publisher.append([opt_out(1)], request_id="a", after=Revision(start.generation, 9))
    first = publisher.append([opt_out(1)], request_id="a", after=start)
    publisher.append([opt_out(2)])
    assert publisher.append([opt_out(1)], request_id="a", after=start) == first
    assert place.register().revision.seq == 2


def test_more_than_one_step_takes_cannot_be_made_to_come_next(place: Place) -> None:
    publisher = place.loaded(0)
    start = place.register().revision
    with pytest.raises(ValueError, match="2000"):
        publisher.append(MANY, after=start)
    assert publisher.append(MANY[:CHANGES_PER_STEP_MAX], after=start).seq == CHANGES_PER_STEP_MAX


def test_when_a_change_was_recorded_is_known(place: Place) -> None:
    place.loaded(0).append([opt_out(1), opt_out(2)], request_id="a")
    place.harm.append_raw({"seq": "3", "op": "opt_out", "nhs": number(3), "recorded": "soon"})
    feed = place.feed()
    snapshot = feed.load()
    first, second, odd = feed.read(snapshot.revision, snapshot.position, 0.0).changes
    assert first.recorded_ms > 1_700_000_000_000
    assert second.recorded_ms >= first.recorded_ms
    assert odd.recorded_ms == 0 or odd.recorded_ms >= second.recorded_ms
