"""Commands against a service that knows its clients, over TLS: who they say they are, and get."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from client.people import valid_numbers
from support.certificates import Authority
from support.policies import TOKENS, client, write_policy
from support.tokens import Signer, write_keys

NUMBERS = [f"{number:010d}" for number in valid_numbers(300).tolist()]
SIGNER = Signer()
ONE = client(
    token_subjects=["one"], rpcs=["BatchCheck", "StreamCheck", "GetRegister"],
    purposes=["research"], reference_required=True, numbers_per_day=450,
)  # fmt: skip
DECLARING = ("--purpose", "research", "--reference", "18/CAG/1")


class House:
    """A service in *path*, and how callers who are entitled reach it."""

    def __init__(self, path: Path, start) -> None:
        self.path = path
        self._start = start
        self.authority = Authority(path)
        self._server = self.authority.issue("server")
        mine = self.authority.issue("mine", names="URI:spiffe://trust.example/one")
        (path / "token").write_text(SIGNER.token(now=time.time()) + "\n")
        write_keys(path / "jwks.json", SIGNER.jwk())
        write_policy(path / "clients.toml", {"one": ONE}, TOKENS)
        self.certificate = ("--tls-certificate", mine.cert, "--tls-key", mine.key)
        self.tls = ("--tls-ca", self.authority.cert, *self.certificate)
        self.known = (*self.tls, "--token-file", path / "token")

    def open(self) -> None:
        self.process = self._start(
            "serve", "--feed", "dir:feed", "--listen", "127.0.0.1:0", "--http-listen",
            "127.0.0.1:0", "--tls-certificate", self._server.cert, "--tls-key", self._server.key,
            "--tls-client-ca", self.authority.cert, "--clients", self.path / "clients.toml",
            "--budgets", "dir:budgets",
        )  # fmt: skip
        self.target = self.event("listening")["grpc"]

    def event(self, name: str) -> dict:
        """The next event *name* in the log."""
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the service ended before {name}")


@pytest.fixture
def house(run, start, tmp_path) -> House:
    (tmp_path / "list.dat").write_text("".join(f"{number},\n" for number in NUMBERS[::3]))
    assert run("load", "list.dat", "--feed", "dir:feed").exit_code == 0
    (tmp_path / "in.dat").write_text("".join(f"{number}\n" for number in NUMBERS))
    return House(tmp_path, start)


def test_who_is_known_gets_what_it_may_and_no_more(run, house: House, tmp_path) -> None:
    house.open()
    command = ("check", "in.dat", "out.dat", "--target", house.target)
    for lacking, told in (
        ((), "one with TLS needs --tls"),
        (("--tls-ca", house.authority.cert, *DECLARING), "each side trusts"),
        ((*house.tls, "--token-file", "list.dat", *DECLARING), "token"),
        (house.known, "must declare a purpose"),
        ((*house.known, "--purpose", "planning"), "may not ask for the purpose"),
        ((*house.known, "--purpose", "research"), "must give a reference"),
    ):
        result = run(*command, *lacking)
        assert (result.exit_code, result.stdout) == (1, "")
        assert told in result.stderr
        assert not (tmp_path / "out.dat").exists()
    status = run("status", house.target, *house.known, *DECLARING, "--json")
    assert status.exit_code == 0, status.output
    result = run(*command, *house.known, *DECLARING)
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "out.dat").read_text().split()) == 200
    over = run(*command, *house.known, *DECLARING, "--force")  # 300 of 450 are spent
    assert over.exit_code == 1, over.output
    assert "today" in over.stderr or "day" in over.stderr
    told = run("verify", "--feed", "dir:feed", "--target", house.target, *house.known, *DECLARING)
    assert told.exit_code == 0, told.output


def test_a_client_that_is_taken_out_is_refused_within_seconds(run, house: House) -> None:
    house.open()
    status = ("status", house.target, *house.known, *DECLARING, "--json")
    assert run(*status).exit_code == 0
    (house.path / "clients.toml").write_text("clients = ")
    assert "clients.toml" in house.event("policy_refused")["reason"]
    assert run(*status).exit_code == 0
    other = client(certificate_names=["DNS:other"], rpcs=["GetRegister"])
    write_policy(house.path / "clients.toml", {"other": other})
    assert house.event("policy_loaded")["clients"] == 1
    refused = run(*status)
    assert refused.exit_code == 1
    assert "of no client" in refused.output


def test_nothing_is_served_with_a_policy_that_is_wrong(house: House) -> None:
    (house.path / "clients.toml").write_text("[clients.one]\n")
    with pytest.raises(AssertionError, match="before listening"):
        house.open()
    out, err = house.process.communicate(timeout=60)
    assert house.process.returncode == 1
    assert "clients.toml" in (err or out).decode()


def test_a_token_is_not_sent_in_the_clear(run, house: House) -> None:
    for command in (("status", "10.0.0.1:1"), ("check", "in.dat", "o", "--target", "10.0.0.1:1")):
        result = run(*command, "--token-file", "token")
        assert result.exit_code == 2
        assert "TLS" in result.stderr


def test_half_of_a_pair_is_told(run, house: House) -> None:
    result = run("status", "--tls-certificate", "token")
    assert result.exit_code == 2
    assert "key" in result.stderr
