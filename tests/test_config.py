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
        (FEED | {"NDOO_AUDIT_REQUIRED": "true"}, "set NDOO_AUDIT"),
        (FEED | {"NDOO_BUDGETS": "dir:budgets"}, "set NDOO_CLIENTS"),
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
    environ = FEED | {"NDOO_LISTEN": address, "NDOO_PLAINTEXT": "true"}
    assert Settings.from_env(environ).listen == address
    assert split_address(address) == parts


PAIR = {"NDOO_TLS_CERTIFICATE": "tls.crt", "NDOO_TLS_KEY": "tls.key"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert not Settings.from_env(FEED | {"NDOO_LISTEN": f"{host}:1"}).plaintext


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "10.0.0.1", "localhost.example", "ndoo", "[::ffff:10.0.0.1]"]
)
def test_no_network_is_served_in_plaintext_unless_that_is_said(host: str) -> None:
    listen = FEED | {"NDOO_LISTEN": f"{host}:1"}
    for silent in ({}, {"NDOO_PLAINTEXT": "false"}):
        with pytest.raises(InputError, match="NDOO_PLAINTEXT=true"):
            Settings.from_env(listen | silent)
    assert Settings.from_env(listen | {"NDOO_PLAINTEXT": "TRUE"}).plaintext
    assert Settings.from_env(listen | PAIR).tls_certificate == "tls.crt"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"NDOO_TLS_CERTIFICATE": "tls.crt"}, "set both"),
        ({"NDOO_TLS_KEY": "tls.key"}, "set both"),
        ({"NDOO_TLS_CLIENT_CA": "ca.crt"}, "NDOO_TLS_CLIENT_CA needs"),
        (PAIR | {"NDOO_PLAINTEXT": "true"}, "contradict"),
    ],
)
def test_half_of_tls_is_no_tls(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Settings.from_env(FEED | environ)


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
