"""What a service says, on all its ways, while numbers are planted on all ways into it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from leaks.asking import ask_everything, ask_over_http, command
from leaks.canaries import digits, leaks
from leaks.told import Told
from support.places import Place, RedisHarm
from support.policies import client, write_policy
from support.tokens import Signer, write_keys

Serve = Callable[..., Told]


def test_a_service_tells_nobody_whom_it_was_asked_about(loaded: Place, serve: Serve) -> None:
    how = signal.SIGABRT if loaded.url.startswith("dir:") else signal.SIGTERM
    told = serve("--feed", loaded.url, "--state-dir", "state").listening()
    said = ask_everything(told.grpc) + ask_over_http(told.http)
    said.append(command("status", told.grpc))
    said.append(command("status", "--json", told.grpc))
    said.append(command("verify", "--feed", loaded.url, "--target", told.grpc))
    said.append(told.metrics())
    events = told.end(how)
    said.append(command("audit", "verify", str(told.audit)))
    assert leaks(*said, events) == []
    # The search has had something to search in.
    assert "call_refused" in events
    assert '"rpc":"StreamCheck"' in told.audit.read_text().replace(" ", "")
    assert ("Abort" in events) == (how is signal.SIGABRT)


@pytest.mark.parametrize("place", ["directory_place"], indirect=True)
def test_text_says_no_more_than_json(loaded: Place, tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    told = Told(tmp_path / "quiet", ["--feed", loaded.url, "--log-format", "text"])
    try:
        line = next(line for line in told.process.stdout if " listening " in line)
        address = line.partition("grpc=")[2].split()[0]
        said = ask_everything(address)
        events = told.end()
        assert leaks(*said, events) == []
        assert " call_refused " in events
    finally:
        told.close()


@pytest.mark.parametrize("place", ["directory_place"], indirect=True)
def test_callers_who_are_told_apart_are_told_nothing(
    loaded: Place, serve: Serve, tmp_path: Path
) -> None:
    write_keys(tmp_path / "jwks.json", Signer().jwk())
    tokens = {"jwks": "jwks.json", "issuer": "https://issuer.example", "audience": "ndoo"}
    subject = {"token_subjects": [digits("policy")], "purposes": ["research"]}
    policy = write_policy(tmp_path / "clients.toml", {"one": client(**subject)}, tokens)
    told = serve("--feed", loaded.url, "--clients", policy).listening()
    said = ask_everything(told.grpc) + ask_over_http(told.http)
    number = digits("policy")
    policy.with_suffix(".bad").write_text(
        f'x = {number}\n[clients."{number}"]\n{number} = "{number}"'
    )
    policy.with_suffix(".bad").replace(policy)
    told.until("policy_refused")
    assert leaks(*said, told.metrics(), told.end()) == []


BAD = digits("undecodable")
BAD_CHANGES = (
    {"seq": "2", "op": "opt_out", "nhs": BAD + "x"},
    {"seq": "2", "op": BAD, "nhs": BAD},
    {"seq": BAD, "op": "opt_out", "nhs": BAD, "at": BAD, "src": BAD},
    {BAD: BAD},
)


@pytest.mark.parametrize("change", BAD_CHANGES)
def test_a_change_that_cannot_be_read_is_not_repeated(
    loaded: Place, serve: Serve, change: dict[str, str]
) -> None:
    told = serve("--feed", loaded.url).listening()
    loaded.harm.append_raw(change)
    while not told.until("phase")["trouble"]:
        pass
    said = [command("status", told.grpc), command("snapshot", "--feed", loaded.url)]
    assert leaks(*said, told.metrics(), told.end()) == []


@pytest.mark.parametrize("part", ["header", "register", "state"])
def test_what_cannot_be_loaded_is_not_repeated(
    loaded: Place, serve: Serve, tmp_path: Path, part: str
) -> None:
    number = digits("snapshot")
    state = tmp_path / digits("file name") / "state"
    state.mkdir(parents=True)
    for name in ("register", "confirmed", "newest"):
        (state / name).write_text(
            f'{{"{digits("state")}": "{digits("state")}"}}\n{digits("state")}'
        )
    if part != "state":
        spoil(loaded, part, f'{{"format": "{number}", "{number}": {number}}}'.encode())
    told = serve("--feed", loaded.url, "--state-dir", state)
    told.until("state_refused")
    told.listening()
    said = [command("verify", "--feed", loaded.url), command("snapshot", "--feed", loaded.url)]
    assert leaks(*said, command("status", told.grpc), told.metrics(), told.end()) == []


def spoil(place: Place, part: str, raw: bytes) -> None:
    """Put *raw* in the place of the snapshot's *part*, or of all of it where it is a file."""
    if isinstance(place.harm, RedisHarm):
        place.harm.client.hset("{ndoo}:snapshot", part, raw)
        return
    for file in place.harm.path.rglob("*snapshot*"):
        file.write_bytes(raw)
