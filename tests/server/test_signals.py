"""Work on patients is quiet, and listing who opted out is not: ways of asking, simulated at full
size. The keys begin with 0 and belong to nobody; how they lie is as the issued ones do.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pyroaring import BitMap

from ndoo import nhs_number
from ndoo.nhs_number import Keys, Numbers
from ndoo.register.view import Answers
from ndoo.server import sample
from ndoo.server.asked import HALF_LIFE_S, NUMBERS_MAX, Asked, Askings, Share
from ndoo.server.quotas import Quota
from ndoo.server.signals import COOLING_S, Signal, SignalLimits, Signals
from ndoo.server.status import OverQuota
from support.quotas import Time, Told, client_policy

SEED = 20_260_101
ISSUED = 300_000_000
"""Keys that are issued from, of which 57 million are of people who live: 0.21 of the valid ones."""

LIVING_SHARE = 0.21
OPTED_OUT_SHARE = 0.054
GUESSED_SHARE = 0.0132  # 3.6 million of the valid keys that are issued from
MESSAGE = 65_536
DAY_S = 86_400.0
QUIET = SignalLimits()


@pytest.fixture
def rng() -> np.random.Generator:
    print(f"seed {SEED}")  # noqa: T201
    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def _known_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are taken where the seed says, not where this process drew."""
    monkeypatch.setattr(sample, "_SECRET", SEED)


class Client:
    """Somebody who asks, and what is noticed."""

    def __init__(self, limits: SignalLimits = QUIET) -> None:
        self.time = Time()
        self.told = Told()
        self.signals = Signals("one", limits, self.told, self.time)
        self.asked = 0
        self.noticed: set[str] = set()
        self.refused_for = ""

    def ask(self, numbers: Numbers, opted_out_share: float, size: int = MESSAGE) -> bool:
        """Whether all was answered."""
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            valid = int((nhs_number.check_digits(some // 10) == some % 10).sum())
            opted_out = round((self.asked + valid) * opted_out_share) - round(
                self.asked * opted_out_share
            )
            answers = Answers(len(some), b"", b"", valid - opted_out, len(some) - valid)
            self.asked += valid
            try:
                self.signals.refuse_while_cooling()
                self.signals.observe(answers, lambda: sample.of_numbers(some))  # noqa: B023
            except OverQuota as refused:
                self.refused_for = refused.reason
                self.noticed |= self.told.raised
                return False
            self.noticed |= self.told.raised
        return True


def people(rng: np.random.Generator, count: int, share: float = LIVING_SHARE) -> Numbers:
    """Those of *count* keys that are of somebody, in their order."""
    start = int(rng.integers(0, ISSUED - count))
    keys = np.arange(start, start + count, dtype=np.uint32)
    keys = keys[nhs_number.check_digits(keys) != 10]
    return nhs_number.numbers_of(keys[rng.random(len(keys)) < share])


def cohort(rng: np.random.Generator, count: int) -> Numbers:
    """People from all over, in no order."""
    keys = np.unique(rng.integers(1, ISSUED, count + count // 4, dtype=np.uint32))
    keys = keys[nhs_number.check_digits(keys) != 10]
    return nhs_number.numbers_of(rng.permutation(keys)[:count])


def spoilt(rng: np.random.Generator, numbers: Numbers, share: float) -> Numbers:
    """Of *numbers*, so many have a wrong check digit."""
    wrong = rng.random(len(numbers)) < share
    return np.where(wrong, numbers // 10 * 10 + (numbers + 1) % 10, numbers)


def everybody_sorted(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(people(rng, 5_000_000), OPTED_OUT_SHARE)


def a_cohort(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(cohort(rng, 300_000), OPTED_OUT_SHARE)


def a_sorted_cohort(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(np.sort(cohort(rng, 300_000)), OPTED_OUT_SHARE)


def a_cohort_with_mistakes(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(spoilt(rng, cohort(rng, 300_000), 0.05), OPTED_OUT_SHARE)


def a_cohort_of_the_young(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(cohort(rng, 300_000), 0.03)


def a_cohort_of_a_place_where_many_opt_out(client: Client, rng: np.random.Generator) -> bool:
    return client.ask(cohort(rng, 100_000), 0.2)


def the_same_cohort_each_day(client: Client, rng: np.random.Generator) -> bool:
    numbers = cohort(rng, 100_000)
    good = True
    for _ in range(30):
        good &= client.ask(numbers, OPTED_OUT_SHARE)
        client.time.now += DAY_S
    return good


def the_same_cohort_until_it_works(client: Client, rng: np.random.Generator) -> bool:
    numbers = cohort(rng, 100_000)
    return all(client.ask(numbers, OPTED_OUT_SHARE) for _ in range(5))


def a_clinic(client: Client, rng: np.random.Generator) -> bool:
    """A few hundred patients, all of them newly registered and so near to each other."""
    numbers = people(rng, 400, share=0.9)
    good = True
    for _ in range(30):
        good &= client.ask(numbers, OPTED_OUT_SHARE, size=1)
        client.time.now += DAY_S
    return good


def a_ward(client: Client, rng: np.random.Generator) -> bool:
    """Thirty patients, each asked about at every step of their day; none opted out."""
    numbers = cohort(rng, 30)
    return all(client.ask(numbers, 0.0, size=1) for _ in range(100))


def a_placeholder_in_every_tenth_row(client: Client, rng: np.random.Generator) -> bool:
    numbers = cohort(rng, 100_000)
    numbers[::10] = 0
    return client.ask(numbers, OPTED_OUT_SHARE)


WORK = [
    everybody_sorted, a_cohort, a_sorted_cohort, a_cohort_with_mistakes, a_cohort_of_the_young,
    a_cohort_of_a_place_where_many_opt_out, the_same_cohort_each_day,
    the_same_cohort_until_it_works, a_clinic, a_ward, a_placeholder_in_every_tenth_row,
]  # fmt: skip


@pytest.mark.parametrize("work", WORK)
def test_work_on_patients_is_quiet(work: Callable[..., bool], rng: np.random.Generator):
    client = Client()
    assert work(client, rng)
    assert client.noticed == set()
    assert client.asked > 2_500


def ten_digits_at_random(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield rng.integers(0, 10 * ISSUED, 200_000, dtype=np.uint64), GUESSED_SHARE


def ten_digits_in_order(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield np.arange(500_000_000, 500_400_000, dtype=np.uint64), GUESSED_SHARE


def valid_ones_in_order(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield people(rng, 400_000, share=1.0), OPTED_OUT_SHARE  # as if all of them lived


def valid_ones_backwards(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield people(rng, 400_000, share=1.0)[::-1], OPTED_OUT_SHARE


def valid_ones_at_random(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield cohort(rng, 200_000), GUESSED_SHARE


def counting_in_eight_places_at_once(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    rows = np.stack([people(rng, 50_000, share=1.0)[:40_000] for _ in range(8)])
    yield rows.T.ravel(), OPTED_OUT_SHARE


def whom_the_list_is_known_to_hold(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    yield cohort(rng, 100_000), 0.9


def the_same_thousand_all_day(rng: np.random.Generator) -> Iterator[tuple[Numbers, float]]:
    numbers = cohort(rng, 1_000)
    for _ in range(200):
        yield numbers, OPTED_OUT_SHARE


LISTING = [
    (ten_digits_at_random, {Signal.INVALID_NUMBERS}),
    (ten_digits_in_order, {Signal.INVALID_NUMBERS}),
    (valid_ones_in_order, {Signal.NEAR_NUMBERS}),
    (valid_ones_backwards, {Signal.NEAR_NUMBERS}),
    (valid_ones_at_random, {Signal.FEW_OPTED_OUT}),
    (counting_in_eight_places_at_once, {Signal.NEAR_NUMBERS}),
    (whom_the_list_is_known_to_hold, {Signal.MANY_OPTED_OUT}),
    (the_same_thousand_all_day, {Signal.ASKED_AGAIN}),
]


@pytest.mark.parametrize("size", [1, 1_000, MESSAGE])
@pytest.mark.parametrize(("listing", "signals"), LISTING)
def test_listing_is_noticed_and_refused(listing, signals, size: int, rng: np.random.Generator):
    client = Client()
    whole = list(listing(rng))
    assert not all(client.ask(numbers, share, size) for numbers, share in whole)
    assert client.refused_for == "ENUMERATION"
    assert client.noticed >= {signal.value for signal in signals}
    assert client.asked < sum(len(numbers) for numbers, _ in whole)


@pytest.mark.parametrize(("listing", "signals"), LISTING)
def test_what_is_not_limited_is_told_and_not_refused(listing, signals, rng: np.random.Generator):
    client = Client(SignalLimits(1.0, 1.0, 0.0, 1.0, 1e12))
    assert all(client.ask(numbers, share) for numbers, share in listing(rng))
    assert client.noticed >= {signal.value for signal in signals}


def test_slow_counting_is_noticed_too(rng: np.random.Generator):
    client = Client()
    numbers = people(rng, 40_000, share=1.0)
    for number in numbers:
        client.time.now += 1.0
        if not client.ask(np.array([number], np.uint64), GUESSED_SHARE, size=1):
            break
    assert client.asked < 6_000
    assert Signal.NEAR_NUMBERS.value in client.noticed


def test_who_was_refused_is_refused_for_a_while_and_then_watched_anew(rng: np.random.Generator):
    client = Client()
    guesses = rng.integers(0, 10 * ISSUED, 400_000, dtype=np.uint64)
    assert not client.ask(guesses, 0.0)
    client.time.now += COOLING_S / 2
    with pytest.raises(OverQuota) as refused:
        client.signals.refuse_while_cooling()
    assert refused.value.retry_s == pytest.approx(COOLING_S / 2)
    client.time.now += COOLING_S / 2
    assert client.ask(cohort(rng, 100_000), OPTED_OUT_SHARE)
    assert client.told.raised == set()
    assert not client.ask(guesses, 0.0)


def test_a_signal_begins_and_ends_once(rng: np.random.Generator, caplog: pytest.LogCaptureFixture):
    client = Client(SignalLimits(invalid_share_max=1.0))
    caplog.set_level("INFO", "ndoo")
    numbers = cohort(rng, 400_000)
    client.ask(spoilt(rng, numbers[:200_000], 0.3), OPTED_OUT_SHARE, size=10_000)
    assert client.told.raised == {Signal.INVALID_NUMBERS.value}
    client.ask(numbers, OPTED_OUT_SHARE)
    assert client.told.raised == set()
    told = [record for record in caplog.records if record.message.startswith("client_signal")]
    assert [record.message for record in told] == ["client_signal_began", "client_signal_ended"]
    assert told[0].fields == {"client": "one", "signal": "INVALID_NUMBERS"}


def test_each_client_has_each_signal_from_the_start():
    assert Client().told.signals == {signal.value: False for signal in Signal}


async def test_calls_are_marked_by_what_was_raised(rng: np.random.Generator):
    quota = Quota(client_policy(signals=SignalLimits(invalid_share_max=1.0)), Told(), Time())
    call, other = quota.begin("StreamCheck"), quota.begin("StreamCheck")
    keys = (cohort(rng, 20_000) // 10).astype(np.uint32).reshape(20, 1_000)
    for some in keys:
        await call.spend(1_000)
        call.observe(Answers(1_000, b"", b"", 500, 450), lambda: some)  # noqa: B023
    assert call.marks == ("INVALID_NUMBERS",)
    assert other.marks == ()


def test_who_asks_about_nobody_for_ever_leaves_nothing():
    asked = Asked()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            assert not asked.add(Answers(0, b"", b"", 0, 0), lambda: np.empty(0, np.uint32))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000


def test_old_numbers_count_less_and_the_last_outweigh_all_before():
    share = Share()
    share.add(100, 100, 0.0)
    share.add(0, 0, HALF_LIFE_S)
    assert (share.part, share.whole) == (50, 50)
    share.add(0, 10 * NUMBERS_MAX, HALF_LIFE_S)
    assert share.of(1, 1.0) == 0.0
    share.add(NUMBERS_MAX, NUMBERS_MAX, HALF_LIFE_S)
    assert share.of(1, 0.0) == 1.0
    assert share.whole <= NUMBERS_MAX


@pytest.mark.parametrize("distinct", [1, 100, 1_000, 100_000])
@pytest.mark.parametrize("times", [1, 7])
def test_askings_are_counted_whatever_the_number_of_keys(
    distinct: int, times: int, rng: np.random.Generator
):
    askings = Askings()
    keys = (cohort(rng, distinct) // 10).astype(np.uint32)
    for _ in range(times):
        for start in range(0, distinct, 256):
            askings.add(keys[start : start + 256], 1.0)
    assert askings.median == times
    assert askings.asked == distinct * times
    assert len(askings._times) <= Askings.KEPT_MAX


def test_askings_keep_no_key(rng: np.random.Generator):
    askings, other = Askings(), Askings()
    keys = (cohort(rng, 200) // 10).astype(np.uint32)
    askings.add(keys, 1.0)
    other.add(keys, 1.0)
    assert len(askings._times) == 200
    assert not set(askings._times) & set(keys.tolist())
    assert not set(askings._times) & set(other._times), "each draws its own function"


def containers(rng: np.random.Generator) -> Iterator[Keys]:
    page = np.uint32(7 << 16)
    for count in (1, 255, 256, 257, 4_096, 4_097, 20_000, 65_536):
        yield page + np.sort(rng.permutation(65_536)[:count]).astype(np.uint32)
        yield page + np.arange(65_536 - count, 65_536, dtype=np.uint32)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("pages", [1, 3, 4, 10])
def test_the_sample_of_a_set_is_the_beginning_of_one_of_its_containers(
    runs: bool, pages: int, rng: np.random.Generator
):
    for keys in containers(rng):
        lying = [keys + np.uint32(page << 16) for page in range(pages)]
        bitmap = BitMap(np.concatenate(lying))
        if runs:
            bitmap.run_optimize()
        some = sample.of_set(np.frombuffer(bitmap.serialize(), np.uint8))
        assert some.dtype == np.uint32
        assert some.tolist() in [each[: sample.KEYS_MAX].tolist() for each in lying]


@pytest.mark.parametrize("runs", [False, True])
def test_many_keys_are_not_hidden_behind_few(runs: bool):
    for decoys in (1, 2, 30):
        few = [page << 16 for page in range(decoys)]
        bitmap = BitMap([*few, *range(40 << 16, (40 << 16) + 60_000)])
        if runs:
            bitmap.run_optimize()
        some = sample.of_set(np.frombuffer(bitmap.serialize(), np.uint8))
        assert (some >> 16).tolist() == [40] * sample.KEYS_MAX


def test_the_sample_of_no_set_is_empty():
    assert len(sample.of_set(np.empty(0, np.uint8))) == 0
    assert len(sample.of_set(np.frombuffer(BitMap().serialize(), np.uint8))) == 0


def test_the_sample_of_numbers_lies_together_and_stays_for_the_same_message(
    rng: np.random.Generator,
):
    numbers = cohort(rng, 100_000)
    some = sample.of_numbers(numbers)
    assert len(some) == sample.KEYS_MAX
    start = np.flatnonzero(numbers // 10 == some[0])[0]
    assert (numbers[start : start + sample.KEYS_MAX] // 10 == some).all()
    assert (sample.of_numbers(numbers.copy()) == some).all()
    places = {int(sample.of_numbers(numbers[begin:])[0]) for begin in range(50)}
    assert len(places) > 10, "not always at the beginning"


def test_what_is_no_number_is_not_in_a_sample():
    numbers = np.array([nhs_number.NOT_A_NUMBER, 9_990_000_018], np.uint64)
    assert sample.of_numbers(numbers).tolist() == [999_000_001]
