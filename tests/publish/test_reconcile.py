"""A source is brought in by changes, beside everybody else who writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from ndoo.errors import SnapshotRefused
from ndoo.feed.feed import HistoryChanged
from ndoo.publish import reconcile as reconciling
from ndoo.publish.publisher import Publisher, Unconfirmed
from ndoo.publish.reconcile import Reconciled, reconcile
from ndoo.publish.source import RECONCILE, Terms
from ndoo.register.changes import Change, Kind
from ndoo.revision import Revision
from support.people import opt_out, supersede
from support.places import Place, bitmap, people_in

ACCEPTING = Terms(accept_jump=True)
KNOWING = Terms(drawn_at_ms=2**42, accept_jump=True)  # drawn after all that is recorded here


class Overtaken:
    """A publisher before whose every opt-ins somebody else does *act*."""

    def __init__(self, publisher: Publisher, act: Callable[[], object]) -> None:
        self._publisher = publisher
        self._act = act

    def append(
        self, changes: Sequence[Change], *, request_id: str, after: Revision | None
    ) -> Revision:
        if changes[0].kind is Kind.OPT_IN:
            self._act()
        return self._publisher.append(changes, request_id=request_id, after=after)


def run(place: Place, people: Sequence[int], terms: Terms = ACCEPTING) -> Reconciled:
    return reconcile(place.feed(), place.publisher(), bitmap(*people), terms)


def test_only_the_differences_are_published_and_nobody_is_touched_twice(place: Place) -> None:
    place.loaded(*range(10))
    generation = place.register().revision.generation
    done = run(place, [*range(2, 10), 20, 21])
    assert (done.opted_out, done.released, done.left) == (2, 2, 0)
    assert done.revision == place.register().revision == Revision(generation, 4)
    assert people_in(place.register()) == {*range(2, 10), 20, 21}
    changes = list(place.feed().retained(generation))
    assert [change.kind for change in changes] == [Kind.OPT_OUT] * 2 + [Kind.OPT_IN] * 2
    assert {change.src for change in changes} == {RECONCILE}


def test_what_agrees_is_left_alone(place: Place) -> None:
    place.loaded(0, 1)
    assert run(place, [0, 1]).revision.seq == 0


def test_it_can_be_run_again(place: Place) -> None:
    place.loaded(*range(10))
    first = run(place, [*range(5), 20])
    assert run(place, [*range(5), 20]).revision == first.revision


@pytest.mark.parametrize("terms", [ACCEPTING, KNOWING])
def test_all_numbers_of_a_person_stay_opted_out_if_the_source_has_one(
    place: Place, terms: Terms
) -> None:
    place.loaded(0, 1).append([supersede(1, 7)])
    done = run(place, [0, 7], terms)
    assert (done.opted_out, done.released) == (0, 0)
    assert people_in(place.register()) == {0, 1, 7}


def test_more_than_one_step_of_each(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "CHANGES_PER_STEP_MAX", 7)
    place.loaded(*range(50))
    counts: list[int] = []
    source = bitmap(*range(25, 80))
    done = reconcile(place.feed(), place.publisher(), source, ACCEPTING, counts.append)
    assert (done.opted_out, done.released, sum(counts), max(counts)) == (30, 25, 55, 7)
    assert people_in(place.register()) == set(range(25, 80))


def test_who_opts_out_meanwhile_stays_opted_out(place: Place) -> None:
    place.loaded(*range(10))
    acts = [opt_out(0), supersede(1, 30), opt_out(40)]
    other = place.publisher()
    publisher = Overtaken(place.publisher(), lambda: acts and other.append([acts.pop()]))
    done = reconcile(place.feed(), publisher, bitmap(*range(3, 10)), ACCEPTING)
    assert (done.released, done.left) == (1, 2)
    assert people_in(place.register()) == {0, 1, 30, 40, *range(3, 10)}


def test_who_is_touched_under_another_number_is_left_alone(place: Place) -> None:
    place.loaded(*range(10)).append([supersede(0, 30)])
    acts = [opt_out(30)]
    other = place.publisher()
    publisher = Overtaken(place.publisher(), lambda: acts and other.append([acts.pop()]))
    done = reconcile(place.feed(), publisher, bitmap(*range(3, 10)), KNOWING)
    assert (done.released, done.left) == (2, 1)
    assert people_in(place.register()) == {0, 30, *range(3, 10)}


def test_another_load_ends_it(place: Place) -> None:
    place.loaded(*range(10))
    other = place.publisher()
    publisher = Overtaken(place.publisher(), lambda: other.load(bitmap(*range(10)), ACCEPTING))
    with pytest.raises(HistoryChanged):
        reconcile(place.feed(), publisher, bitmap(*range(5)), ACCEPTING)
    assert people_in(place.register()) == set(range(10))


def test_others_who_write_all_the_while_end_it_after_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_OVERTAKEN_MAX", 3)
    place.loaded(*range(10))
    other = place.publisher()
    publisher = Overtaken(place.publisher(), lambda: other.append([opt_out(40)]))
    publisher.name = "here"
    with pytest.raises(Exception, match="5 people were not released"):
        reconcile(place.feed(), publisher, bitmap(*range(5, 10), 20), ACCEPTING)
    assert people_in(place.register()) == {*range(10), 20, 40}


def test_an_answer_that_was_lost_records_nothing_twice(place: Place) -> None:
    place.loaded(0, 1)
    publisher = place.publisher()
    lost = []

    class Losing:
        def append(self, changes, *, request_id, after):
            revision = publisher.append(changes, request_id=request_id, after=after)
            if request_id not in lost:
                lost.append(request_id)
                raise Unconfirmed("It is unknown.")
            return revision

    done = reconcile(place.feed(), Losing(), bitmap(0, 5), ACCEPTING)
    assert len(lost) == 2
    assert (done.opted_out, done.released, done.revision.seq) == (1, 1, 2)
    assert people_in(place.register()) == {0, 5}


def test_nobody_who_opts_out_beside_it_is_released(place: Place) -> None:
    """A writer opts out, one by one, the very people whom the source no longer has."""
    place.loaded(*range(400))
    with place.writer(0, 200) as process:
        done = [run(place, range(200, 400))]
        recorded = [int(line) for line in process.communicate()[0].split()]
        done.append(run(place, range(200, 400)))
    assert recorded == list(range(200))
    assert sum(each.released + each.left for each in done) > 0
    # Without a date every opt-out that the feed holds stands; whoever was released before the
    # writer came by has been opted out again since.
    assert people_in(place.register()) == set(range(400))


def test_several_at_once_end_with_what_the_source_says(place: Place) -> None:
    place.loaded(*range(100))
    threads = [threading.Thread(target=run, args=(place, range(50, 150))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert people_in(place.register()) == set(range(50, 150))


@pytest.mark.parametrize(
    ("people", "terms", "reason"),
    [
        ((), ACCEPTING, "SNAPSHOT_EMPTY"),
        (range(90), Terms(), "SOURCE_JUMP"),
        (range(2000), Terms(), "SOURCE_JUMP"),
        (range(100), Terms(drawn_at_ms=1), "SOURCE_TOO_OLD"),
    ],
    ids=["empty", "releases many", "adds many", "drawn before the feed's time"],
)
def test_what_is_refused_publishes_nothing(
    place: Place, people: Sequence[int], terms: Terms, reason: str
) -> None:
    place.loaded(*range(100))
    with pytest.raises(SnapshotRefused) as refused:
        run(place, people, terms)
    assert refused.value.reason == reason
    assert place.register().revision.seq == 0
