"""Settings: read once, checked once, misspelt ones refused."""

from __future__ import annotations

import dataclasses

import pytest

from ndoo.config import Settings, split_address
from ndoo.errors import InputError

FEED = {"NDOO_FEED": "dir:feed"}


def test_defaults_need_only_a_feed() -> None:
    settings = Settings.from_env(FEED)
    assert settings.feed == "dir:feed"
    assert settings.staleness_s_max == 86_400
    assert settings.state_dir == ""
    assert (settings.silence_s_max, settings.jump_max) == (86_400, 0.02)


def test_overrides_win_over_the_environment() -> None:
    settings = Settings.from_env(FEED | {"NDOO_STREAMS_MAX": "3"}, streams_max="5", feed=None)
    assert (settings.streams_max, settings.feed) == (5, "dir:feed")


def test_other_names_are_not_ours() -> None:
    assert Settings.from_env(FEED | {"PATH": "/bin", "NDO": "x"})


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "No feed is named"),
        ({"NDOO_FEED": ""}, "No feed is named"),
        (FEED | {"NDOO_STALENES_MAX_S": "5"}, "did you mean NDOO_STALENESS_MAX_S"),
        (FEED | {"NDOO_QQQ": "5"}, "no setting NDOO_QQQ"),
        (FEED | {"NDOO_STALENESS_MAX_S": "nan"}, "must lie between"),
        (FEED | {"NDOO_STALENESS_MAX_S": "0"}, "must lie between"),
        (FEED | {"NDOO_STALENESS_MAX_S": "inf"}, "must lie between"),
        (FEED | {"NDOO_STALENESS_MAX_S": "day"}, "must be a number"),
        (FEED | {"NDOO_SILENCE_MAX_S": "-1"}, "must lie between"),
        (FEED | {"NDOO_JUMP_MAX": "2"}, "must lie between"),
        (FEED | {"NDOO_STREAMS_MAX": "1.5"}, "must be a whole number"),
        (FEED | {"NDOO_STREAMS_MAX": "-1"}, "must lie between"),
        (FEED | {"NDOO_LISTEN": "50551"}, "must be HOST:PORT"),
        (FEED | {"NDOO_LISTEN": "localhost:65536"}, "must be HOST:PORT"),
        (FEED | {"NDOO_LISTEN": "unix:/tmp/x:1"}, "must be HOST:PORT"),
        (FEED | {"NDOO_LISTEN": "::1:50551"}, "must be HOST:PORT"),
        (FEED | {"NDOO_HTTP_LISTEN": "localhost:\u0661"}, "must be HOST:PORT"),
        (FEED | {"NDOO_HTTP_LISTEN": "localhost:"}, "must be HOST:PORT"),
        (FEED | {"NDOO_PREFIX": "a{b}"}, "NDOO_PREFIX must be"),
        (FEED | {"NDOO_LOG_LEVEL": "loud"}, "NDOO_LOG_LEVEL must be"),
        (FEED | {"NDOO_MESSAGE_BYTES_MAX": "5000"}, "too small for NDOO_NUMBERS_PER_MESSAGE_MAX"),
    ],
)
def test_each_fault_has_its_sentence(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Settings.from_env(environ)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("0.0.0.0:0", ("0.0.0.0", 0)), ("[::1]:65535", ("::1", 65535)), ("a-b.c:1", ("a-b.c", 1))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert Settings.from_env(FEED | {"NDOO_LISTEN": address}).listen == address
    assert split_address(address) == parts


def test_a_refused_value_is_not_repeated() -> None:
    """A secret set under the wrong name must not travel into a log."""
    with pytest.raises(InputError) as caught:
        Settings.from_env(FEED | {"NDOO_LISTEN": "s3cret", "NDOO_PREFIX": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_every_setting_is_told_once_and_fully() -> None:
    names = [field.metadata["env"] for field in dataclasses.fields(Settings)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("NDOO_") for name in names)
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(Settings))
