"""Policy files, written entry by entry so that a test can change or leave out any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.tokens import AUDIENCE, ISSUER, replace_file

URI = "URI:spiffe://trust.example/{}"
CLIENT: dict[str, Any] = {
    "certificate_names": [URI.format("one")],
    "rpcs": ["BatchCheck", "Check", "StreamCheck", "GetRegister"],
    "numbers_per_second": 1_000_000,
    "numbers_per_day": "unlimited",
}
TOKENS: dict[str, Any] = {"jwks": "jwks.json", "issuer": ISSUER, "audience": AUDIENCE}
ABSENT = object()


def client(**changes: Any) -> dict[str, Any]:
    """The entries of a client that may ask, with *changes*; ABSENT takes one out."""
    return {key: value for key, value in (CLIENT | changes).items() if value is not ABSENT}


def toml(clients: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, Any] | None = None) -> str:
    lines = _table("tokens", tokens) if tokens is not None else []
    for name, entries in clients.items():
        lines += _table(f"clients.{name}", entries)
    return "\n".join(lines) + "\n"


def write_policy(
    path: Path,
    clients: Mapping[str, Mapping[str, Any]],
    tokens: Mapping[str, Any] | None = None,
) -> Path:
    """A policy file, put in place whole."""
    return replace_file(path, toml(clients, tokens))


def _table(name: str, entries: Mapping[str, Any]) -> list[str]:
    return [f"[{name}]", *(f"{json.dumps(k)} = {_value(v)}" for k, v in entries.items()), ""]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
