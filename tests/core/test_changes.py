"""Changes: what is written is read back; what cannot be read is refused, and not told."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import population
from core.settings import CORE
from ndoo import nhs_number
from ndoo.errors import ChangeRefused
from ndoo.nhs_number import KEY_MAX
from ndoo.register.changes import (
    PERSONAL,
    Change,
    Kind,
    decode,
    decode_numbered,
    encode,
    encode_numbered,
    encode_recorded,
)
from ndoo.revision import SEQ_MAX

KEYS = population.keys_in_pages(30, 3, seed=12)
GOOD = "9990000026"
OTHER = "9990000042"
AT, SRC = "2026-01-01T00:00:00Z", "ONLINE"

KEY = st.sampled_from(KEYS) | st.integers(0, KEY_MAX).filter(
    lambda key: nhs_number.is_valid(key * 10 + (nhs_number.check_digit(key) or 0))
)
SEQ = st.integers(1, SEQ_MAX)
INFORMATION = st.text(max_size=12)
CHANGES = st.one_of(
    st.builds(
        Change,
        st.sampled_from([Kind.OPT_OUT, Kind.OPT_IN]),
        SEQ,
        KEY,
        at=INFORMATION,
        src=INFORMATION,
    ),
    st.builds(Change, st.just(Kind.SUPERSEDE), SEQ, KEY, KEY, INFORMATION, INFORMATION),
    st.builds(
        Change, st.sampled_from([Kind.SUSPEND, Kind.RESUME]), SEQ, at=INFORMATION, src=INFORMATION
    ),
)


@CORE
@given(CHANGES, st.dictionaries(st.text(min_size=5), st.text(), max_size=4))
def test_what_is_encoded_is_decoded(change: Change, future: dict[str, str]):
    fields = encode(change)
    assert "seq" not in fields
    assert "" not in fields.values()
    # Fields that a later version adds decide nothing, or it says so in 'v'.
    assert decode({**future, **fields, "seq": str(change.seq)}) == change


def test_the_words_on_the_feed():
    key, new_key = int(GOOD) // 10, int(OTHER) // 10
    words = {
        Change(Kind.OPT_OUT, 1, key, at=AT, src=SRC): {
            "op": "opt_out",
            "nhs": GOOD,
            "at": AT,
            "src": SRC,
        },
        Change(Kind.OPT_IN, 2, key): {"op": "opt_in", "nhs": GOOD},
        Change(Kind.SUPERSEDE, 3, key, new_key): {"op": "supersede", "nhs": GOOD, "new": OTHER},
        Change(Kind.SUSPEND, 4, at=AT): {"op": "suspend", "at": AT},
        Change(Kind.RESUME, 5): {"op": "resume"},
    }
    assert {change.kind for change in words} == set(Kind)
    for change, fields in words.items():
        assert encode(change) == fields
        assert decode(fields | {"seq": str(change.seq)}) == change


@pytest.mark.parametrize(
    ("told", "entry_ms", "recorded_ms"),
    [
        (None, 0, 0),
        (None, 1_790_000_000_123, 1_790_000_000_123),
        ("1780000000000", 0, 1_780_000_000_000),
        ("1780000000000", 1_790_000_000_123, 1_780_000_000_000),
        ("1790000000124", 1_790_000_000_123, 1_790_000_000_123),
        *((odd, 7, 7) for odd in ("", "0", "soon", "1e12", " 1780000000000", "9" * 5_000)),
        *((mixed_up, 0, 0) for mixed_up in (GOOD, GOOD[:9], f"0{GOOD}", f"-{GOOD}")),
    ],
)
def test_when_it_was_recorded_decides_nothing(told: str | None, entry_ms: int, recorded_ms: int):
    fields = {"seq": "1", "op": "opt_out", "nhs": GOOD}
    change = decode(fields if told is None else fields | {"recorded": told}, entry_ms)
    assert (change.seq, change.key, change.recorded_ms) == (1, int(GOOD) // 10, recorded_ms)


def test_what_is_written_down_again_keeps_when_it_was_recorded():
    change = Change(Kind.OPT_OUT, 5, int(GOOD) // 10, at=AT, recorded_ms=1_790_000_000_123)
    assert "recorded" not in encode(change)
    assert decode(encode_recorded(change) | {"seq": "5"}, 1_799_000_000_000) == change
    unknown = replace(change, recorded_ms=0)
    assert encode_recorded(unknown) == encode(unknown)


@CORE
@given(CHANGES, st.integers(0, 2**64 - 1) | st.integers(10**12, 10**13))
def test_a_change_told_with_its_number_comes_back_as_it_was(change: Change, recorded_ms: int):
    """Whatever differs passes for another change in its place."""
    change = replace(change, recorded_ms=recorded_ms)
    fields = encode_numbered(change)
    assert {type(text) for text in fields.values()} == {str}
    assert decode_numbered(fields) == change


@pytest.mark.parametrize(
    "odd", [{"op": "of_2030"}, {"v": "2"}, {"nhs": GOOD[:9] + "9"}, {"seq": ""}]
)
def test_a_change_that_only_others_can_read_is_unknown(odd: dict[str, str]):
    assert decode_numbered(encode_numbered(Change(Kind.OPT_OUT, 5, int(GOOD) // 10)) | odd) is None
    assert decode_numbered({}) is None


@pytest.mark.parametrize("text", ["999 000 0026", "999-000-0026"])
def test_numbers_may_be_grouped(text: str):
    assert decode({"seq": "1", "op": "opt_out", "nhs": text}).key == int(GOOD) // 10


@pytest.mark.parametrize(
    "seq",
    [
        *(
            "",
            "0",
            "01",
            "-1",
            "+1",
            "1.0",
            " 1",
            "1 ",
            "1\n",
            "\x001",
            "1_0",
            "1e3",
            "x",
            "\uff11",
        ),
        *("\u0663", str(SEQ_MAX + 1), "9" * 20, "9" * 5_000),
    ],
    ids=lambda seq: ascii(seq)[:12],
)
def test_a_sequence_number_that_cannot_be_read_is_refused(seq: str):
    for fields in ({"seq": seq}, {}):
        with pytest.raises(ChangeRefused, match="'seq'"):
            decode({"op": "opt_out", "nhs": GOOD, **fields})


@pytest.mark.parametrize(
    "op", ["", "OPT_OUT", "opt-out", "opt_out ", "optout", "delete", "Kind.OPT_OUT", GOOD]
)
def test_a_kind_that_is_not_known_is_refused(op: str):
    for fields in ({"op": op}, {}):
        with pytest.raises(ChangeRefused, match="'op'"):
            decode({"seq": "7", "nhs": GOOD, **fields})


@pytest.mark.parametrize("version", ["", "0", "2", "01", "1 ", "1.0", "\uff11", "9" * 5_000, GOOD])
def test_a_form_that_is_not_known_is_refused_whatever_else_it_says(version: str):
    """What an entry of a later form decides is not known, though all fields of today are there."""
    for fields in ({"seq": "7", "op": "opt_in", "nhs": GOOD}, {"seq": "7", "op": "resume"}, {}):
        with pytest.raises(ChangeRefused, match="'v'") as refused:
            decode(fields | {"v": version})
        assert GOOD not in str(refused.value)


def test_the_first_form_may_be_named():
    fields = {"seq": "7", "op": "opt_in", "nhs": GOOD}
    assert decode(fields | {"v": "1"}) == decode(fields)
    assert "v" not in encode(decode(fields))


def digits_of(text: str) -> set[str]:
    """Every run of four digits or more in *text*, however it is grouped."""
    plain = re.sub(r"[ -]", "", text)
    return {plain[at : at + 4] for at in range(len(plain) - 3) if plain[at : at + 4].isdigit()}


def bad_numbers(rng: random.Random) -> list[str]:
    """Texts that are almost a number of somebody."""
    key = rng.choice(KEYS)
    text = f"{key:09d}{nhs_number.check_digit(key)}"
    wrong_digit = text[:9] + str((int(text[9]) + rng.randint(1, 9)) % 10)
    digit = str(rng.randint(1, 9))
    return [
        "", wrong_digit, text[:9], text + "0", " " + text, text + "\n", "+" + text, text + "\x00",
        f"{text[:3]} {text[3:6]}-{text[6:]}", f"{text[:3]}  {text[3:6]} {text[6:]}", digit * 10,
        text.translate({48 + d: 0xFF10 + d for d in range(10)}), f"{text[:5]}é{text[5:]}",
        f"'{text}'",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_a_number_that_cannot_be_read_is_refused_and_not_told(seed: int):
    wanted = [(kind, "nhs") for kind in PERSONAL] + [(Kind.SUPERSEDE, "new")]
    for bad in bad_numbers(random.Random(seed)):
        for kind, field in wanted:
            good = {"op": kind.value, "nhs": GOOD, "new": OTHER, "seq": "3"}
            del good[field]
            for fields in (good, good | {field: bad}):
                with pytest.raises(ChangeRefused, match=f"'{field}'") as refused:
                    decode(fields)
                error = refused.value
                told = f"{error!r} {error.__cause__!r} {error.__context__!r}"
                assert not digits_of(bad) & digits_of(told)
                assert not bad or bad not in told


def test_numbers_that_a_kind_does_not_carry_decide_nothing():
    extra = {"seq": "1", "nhs": GOOD, "new": OTHER}
    assert decode(extra | {"op": "suspend"}) == Change(Kind.SUSPEND, 1)
    assert decode(extra | {"op": "opt_in"}) == Change(Kind.OPT_IN, 1, int(GOOD) // 10)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_change_carries_the_keys_of_its_kind_and_no_others(kind: Kind):
    for keys in ((None, None), (5, None), (None, 5), (5, 6)):
        wanted = (kind in PERSONAL, kind is Kind.SUPERSEDE)
        if tuple(key is not None for key in keys) == wanted:
            assert Change(kind, 1, *keys).key == keys[0]
        else:
            with pytest.raises(ValueError, match=r"carry|carries"):
                Change(kind, 1, *keys)


@pytest.mark.parametrize("key", [-1, KEY_MAX + 1, 2**32, 2**70, 5.0, "999000002"])
def test_a_key_of_a_change_is_nine_digits(key: object):
    # A ten-digit number in place of a key would opt out somebody else, or nobody.
    with pytest.raises(ValueError, match="nine digits"):
        Change(Kind.OPT_OUT, 1, key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nine digits"):
        Change(Kind.SUPERSEDE, 1, 5, key)  # type: ignore[arg-type]


def test_a_key_that_no_reader_could_decode_is_not_encoded():
    rng = random.Random(5)
    unissued = [
        key
        for key in (rng.randint(0, KEY_MAX) for _ in range(500))
        if nhs_number.check_digit(key) is None
    ]
    assert len(unissued) > 10
    for key in [*unissued, *(digit * 111_111_111 for digit in range(10))]:
        with pytest.raises(ValueError, match="nine digits"):
            encode(Change(Kind.OPT_OUT, 1, key))


def test_a_number_in_the_place_of_the_sequence_number_is_not_told():
    fields = {"seq": GOOD, "nhs": "7"}
    for op in ("opt_out", "vanish"):
        with pytest.raises(ChangeRefused) as refused:
            decode(fields | {"op": op})
        assert not digits_of(GOOD) & digits_of(str(refused.value))


def test_what_shows_a_change_shows_no_key():
    shown = repr(Change(Kind.SUPERSEDE, 1, int(GOOD) // 10, int(OTHER) // 10))
    assert not (digits_of(GOOD) | digits_of(OTHER)) & digits_of(shown)
