"""Rules change with their files, and what is broken changes nothing but an alarm."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.server import rules as rules_module
from ndoo.server.rules import RulesFiles
from ndoo.server.status import NotIdentified
from support.policies import ABSENT, TOKENS, client, write_policy
from support.tokens import NOW, Signer, replace_file, write_keys

FIRST, SECOND = Signer("first"), Signer("second")
ONE = client(token_subjects=["one"])
TWO = client(certificate_names=["DNS:two"], token_subjects=["two"])


@dataclass
class Alarm:
    """What was told: how often rules were loaded, whether new ones stand refused, and the log."""

    loaded: int = 0
    clients: frozenset[str] = frozenset()
    refused: bool = False
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def on_clients(self, names: Collection[str]) -> None:
        self.clients = frozenset(names)

    def on_policy(self, loaded_at: float) -> None:
        assert loaded_at == NOW
        self.loaded += 1

    def on_policy_refused(self, refused: bool) -> None:
        self.refused = refused

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def refusals(self) -> list[str]:
        return [fields["reason"] for event, fields in self.events if event == "policy_refused"]


@dataclass
class Desk:
    """The two files in *path*, and those who read them."""

    path: Path
    alarm: Alarm
    files: RulesFiles

    def policy(self, *args: Any) -> None:
        write_policy(self.path / "clients.toml", *args)

    def keys(self, *signers: Signer) -> None:
        write_keys(self.path / "jwks.json", *(signer.jwk() for signer in signers))

    def clients(self) -> set[str]:
        return set(self.files.rules.policy.clients)

    def signed_by(self, signer: Signer) -> bool:
        tokens = self.files.rules.tokens
        try:
            return tokens is not None and tokens.subject_of(signer.token(), NOW) == "one"
        except NotIdentified:
            return False


def settings(path: Path, **given: Any) -> Settings:
    return Settings.from_env({}, feed="dir:x", clients=str(path / "clients.toml"), **given)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    alarm = Alarm()
    monkeypatch.setattr(rules_module, "log_event", alarm.log)
    write_policy(tmp_path / "clients.toml", {"one": ONE}, TOKENS)
    write_keys(tmp_path / "jwks.json", FIRST.jwk())
    return Desk(tmp_path, alarm, RulesFiles(settings(tmp_path), alarm, clock=lambda: NOW))


def test_nothing_is_read_again_that_has_not_changed(desk: Desk) -> None:
    rules = desk.files.rules
    for _ in range(3):
        desk.files.look()
    assert desk.files.rules is rules
    assert desk.alarm.events == [("policy_loaded", {"clients": 1, "keys": 1})]


def test_a_new_policy_counts(desk: Desk) -> None:
    desk.policy({"two": TWO}, TOKENS)
    desk.files.look()
    assert (desk.clients(), desk.alarm.loaded, desk.alarm.refused) == ({"two"}, 2, False)
    assert desk.alarm.clients == {"two"}


def test_a_file_written_in_place_counts(desk: Desk) -> None:
    path = desk.path / "clients.toml"
    before = path.stat()
    path.write_text(path.read_text().replace("clients.one", "clients.two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of the clock
    desk.files.look()
    assert desk.clients() == {"two"}


def test_keys_are_exchanged_one_after_the_other(desk: Desk) -> None:
    desk.keys(FIRST, SECOND)
    desk.files.look()
    assert (desk.signed_by(FIRST), desk.signed_by(SECOND)) == (True, True)
    desk.keys(SECOND)
    desk.files.look()
    assert (desk.signed_by(FIRST), desk.signed_by(SECOND)) == (False, True)


BREAK: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: replace_file(path, ""),
    "half": lambda path: replace_file(path, path.read_text()[:-20]),
    "nonsense": lambda path: replace_file(path, "{" * 10_000),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "no text": lambda path: (path.unlink(), path.write_bytes(b"\xff")),
}


@pytest.mark.parametrize("name", ["clients.toml", "jwks.json"])
@pytest.mark.parametrize("how", BREAK)
def test_a_broken_file_changes_nothing_but_an_alarm(desk: Desk, name: str, how: str) -> None:
    path, rules = desk.path / name, desk.files.rules
    good = path.read_text()
    BREAK[how](path)
    for _ in range(3):
        desk.files.look()
    assert desk.files.rules is rules
    assert desk.signed_by(FIRST)
    assert desk.alarm.refused
    (told,) = desk.alarm.refusals()
    assert str(path) in told
    if path.is_dir():
        path.rmdir()
    replace_file(path, good)
    desk.files.look()
    assert (desk.alarm.refused, len(desk.alarm.refusals())) == (False, 1)
    assert (desk.clients(), desk.signed_by(FIRST)) == ({"one"}, True)


def test_whatever_goes_wrong_while_reading_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = desk.files.rules
    monkeypatch.setattr(rules_module, "_refuse_vain", lambda *_: 1 / 0)
    desk.policy({"two": TWO}, TOKENS)
    desk.files.look()
    assert (desk.files.rules is rules, desk.alarm.refused) == (True, True)
    assert "ZeroDivisionError" in desk.alarm.refusals()[0]


def test_broken_keys_do_not_keep_a_client_in(desk: Desk) -> None:
    BREAK["nonsense"](desk.path / "jwks.json")
    desk.policy({"two": TWO}, TOKENS)
    desk.files.look()
    assert (desk.clients(), desk.alarm.refused) == ({"two"}, True)
    assert desk.files.rules.tokens is not None


def test_a_policy_with_keys_elsewhere_waits_for_them(desk: Desk) -> None:
    elsewhere = TOKENS | {"jwks": "other.json"}
    desk.policy({"two": TWO}, elsewhere)
    desk.files.look()
    assert (desk.clients(), desk.alarm.refused, desk.signed_by(FIRST)) == ({"one"}, True, True)
    write_keys(desk.path / "other.json", SECOND.jwk())
    desk.files.look()
    assert (desk.clients(), desk.alarm.refused) == ({"two"}, False)
    assert (desk.signed_by(FIRST), desk.signed_by(SECOND)) == (False, True)


def test_the_files_are_looked_at_whatever_happens(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            desk.files.stop()
        if len(looks) < 3:
            raise RuntimeError("no words of it")

    monkeypatch.setattr(rules_module, "LOOK_S", 0.0)
    monkeypatch.setattr(desk.files, "look", look)
    desk.files.run()
    assert looks == [0, 1, 2]
    assert desk.alarm.refusals() == ["It failed: RuntimeError."] * 2


VAIN: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "nobody is known": (client(), None, "nobody could be identified"),
    "certificates alone": (client(), TOKENS, "known by certificates alone"),
    "no budgets": (client(token_subjects=["one"], numbers_per_day=5), TOKENS, "NDOO_BUDGETS"),
}


@pytest.mark.parametrize("name", VAIN)
def test_what_could_never_work_is_refused_from_the_start_and_later(desk: Desk, name: str) -> None:
    entries, tokens, told = VAIN[name]
    desk.policy({"one": entries}, tokens)
    with pytest.raises(InputError, match=told):
        RulesFiles(settings(desk.path), desk.alarm)
    desk.files.look()
    assert told in desk.alarm.refusals()[0]


def test_where_all_show_certificates_each_client_has_one(desk: Desk) -> None:
    desk.policy({"one": client(certificate_names=ABSENT, token_subjects=["one"])}, TOKENS)
    tls = {"tls_certificate": "a", "tls_key": "b", "tls_client_ca": "c"}
    with pytest.raises(InputError, match="known by tokens alone"):
        RulesFiles(settings(desk.path, **tls), desk.alarm)
    RulesFiles(settings(desk.path), desk.alarm, clock=lambda: NOW)


@pytest.mark.parametrize("name", ["clients.toml", "jwks.json"])
@pytest.mark.parametrize("how", BREAK)
def test_a_start_with_a_broken_file_is_refused(desk: Desk, name: str, how: str) -> None:
    BREAK[how](desk.path / name)
    with pytest.raises(InputError) as caught:
        RulesFiles(settings(desk.path), desk.alarm)
    assert str(desk.path / name) in str(caught.value)
