"""What is written now is read by the oldest version as it is meant, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.settings import CORE
from core.test_changes import CHANGES
from ndoo.errors import ChangeRefused
from ndoo.register.changes import Change, Kind, decode, encode_numbered
from support.people import number
from upgrades import oldest

NUMBERS = st.sampled_from([number(1), number(2), "999-000-0026", "9990000019", "9999999999", ""])
FIELDS = st.fixed_dictionaries(
    {"seq": st.sampled_from(["1", "17", "0", "x"]), "op": st.sampled_from([*Kind, "end"])},
    optional={
        "nhs": NUMBERS,
        "new": NUMBERS,
        "v": st.sampled_from(["1", "2", ""]),
        "until": st.just("tomorrow"),
    },
)


def meant(change: Change) -> oldest.Read:
    keys = tuple(key for key in (change.key, change.new_key) if key is not None)
    return change.seq, change.kind.value, keys


@CORE
@given(CHANGES)
def test_what_is_written_now_is_understood(change: Change) -> None:
    """Once there is a form that it cannot understand, that one has to be None here."""
    assert oldest.read(encode_numbered(change)) == meant(change)


@CORE
@given(FIELDS)
def test_both_read_anything_alike(fields: dict[str, str]) -> None:
    expected = oldest.read(fields)
    if expected is None:
        with pytest.raises(ChangeRefused):
            decode(fields)
    else:
        assert meant(decode(fields)) == expected
