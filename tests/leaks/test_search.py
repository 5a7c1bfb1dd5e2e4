"""The search finds what leaks: without that, finding nothing would prove nothing."""

from __future__ import annotations

import base64

import pytest

from leaks.canaries import PLACES, digits, forms, leaks


@pytest.mark.parametrize("place", PLACES)
def test_each_form_of_each_planted_number_is_found(place: str) -> None:
    for name, word in forms(digits(place)).items():
        assert f"{place}: {name}" in leaks(b'{"event": "x", "why": "' + word + b'"}')


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc"])
def test_a_number_within_base64_is_found(before: bytes) -> None:
    for value in (int(digits("asked")).to_bytes(8, "little"), digits("asked").encode()):
        assert leaks(base64.b64encode(before + value + b"after"))


def test_capitals_hide_nothing() -> None:
    assert leaks(f"{int(digits('asked')):X}")


def test_other_numbers_are_no_leaks() -> None:
    assert (
        leaks("9990000018", "999 000 0018", "2026-11-22T08:12:27.123+00:00", bytes(range(256)))
        == []
    )
