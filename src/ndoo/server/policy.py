"""Which clients there are, and what each may ask: the policy file, read and checked as a whole.

    [clients.cohort-builder]
    certificate_names = ["URI:spiffe://trust.example/cohort-builder"]
    rpcs = ["GetRegister", "BatchCheck", "StreamCheck"]
    purposes = ["research"]
    numbers_per_second = 20_000_000
    numbers_per_day = 200_000_000

Nothing is allowed that is not written down: a client may call the methods that are listed, declare
the purposes that are, and ask as many numbers as it says. What could be overlooked is demanded:
that a client has no limit is said by the word "unlimited", not by silence.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ndoo import nhs_number
from ndoo.errors import InputError
from ndoo.server.caller import may_be_kept
from ndoo.server.files import read_small
from ndoo.server.signals import SignalLimits
from ndoo.server.table import Table

ANSWERING = frozenset({"Check", "BatchCheck", "StreamCheck", "CheckSet"})
"""The methods that answer about numbers."""

RPCS = ANSWERING | {"GetRegister"}
POLICY_BYTES_MAX = 4 * 1024 * 1024
COUNT_MAX = 10**12
LEEWAY_S = 30.0
LIFETIME_S_MAX = 86_400.0

_CLIENT_NAME = re.compile(r"[a-z0-9-]{1,40}")
_CERTIFICATE_NAME = re.compile(r"(?:URI|DNS|email|IP):[!-)+-~]{1,500}")  # no *: matches are exact
_WORD = re.compile(r"[!-~]{1,500}")


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """One client. *certificate_names* and *token_subjects* are what it is known by, never empty
    both; *rpcs* is never empty.

    Limits count NHS numbers; None is no limit, or for *numbers_per_message* and *streams* none but
    the service's own. *burst* is None if and only if *numbers_per_second* is.
    """

    name: str
    certificate_names: frozenset[str]
    token_subjects: frozenset[str]
    rpcs: frozenset[str]
    purposes: frozenset[str]
    purpose_required: bool
    reference_required: bool
    numbers_per_second: int | None
    burst: int | None
    numbers_per_day: int | None
    numbers_per_message: int | None
    streams: int | None
    signals: SignalLimits = field(default_factory=SignalLimits)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens count: those of *issuer* for *audience*, signed by a key in the file *jwks*."""

    jwks: Path
    issuer: str
    audience: str
    leeway_s: float = LEEWAY_S
    lifetime_s_max: float = LIFETIME_S_MAX


@dataclass(frozen=True, slots=True)
class Policy:
    """All clients, by name and by what each is known by. Immutable: a new file is a new policy."""

    clients: Mapping[str, ClientPolicy]
    by_certificate_name: Mapping[str, ClientPolicy]
    by_token_subject: Mapping[str, ClientPolicy]
    tokens: TokenRules | None


def read_policy(path: Path) -> Policy:
    """The policy in the file at *path*. Raises InputError, one sentence that names the place."""
    root = Table(str(path), _read_toml(path))
    tokens = _tokens(root.table("tokens"), path.parent) if "tokens" in root else None
    tables = root.tables(
        "clients", _is_client_name, "1 to 40 lower-case letters, digits or '-', and no NHS number"
    )
    root.end()
    clients = {name: _client(name, table) for name, table in tables.items()}
    if not clients:
        raise InputError(f"{path} names no client; add a table [clients.NAME] for each.")
    for client in clients.values():
        if client.token_subjects and tokens is None:
            raise InputError(
                f"{path}: clients.{client.name} has 'token_subjects', and there is no table "
                "[tokens] to check tokens by."
            )
    return Policy(
        MappingProxyType(clients),
        _index(path, clients, "certificate_names"),
        _index(path, clients, "token_subjects"),
        tokens,
    )


def _read_toml(path: Path) -> dict[str, object]:
    raw = read_small(path, POLICY_BYTES_MAX)
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:  # its message may repeat what stands there
        where = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        place = f" at {where[1]}" if where else ""
        raise InputError(f"{path} is not TOML{place}.") from None
    except RecursionError:
        raise InputError(f"{path} is not TOML that can be read.") from None


def _client(name: str, table: Table) -> ClientPolicy:
    certificate_names = table.texts(
        "certificate_names", _CERTIFICATE_NAME.fullmatch,
        "a name as it stands in certificates, as in 'URI:spiffe://…' or 'DNS:…', and no wildcard",
    )  # fmt: skip
    token_subjects = table.texts("token_subjects", _WORD.fullmatch, "a 'sub' without spaces")
    if not certificate_names and not token_subjects:
        raise InputError(
            f"{table.place} needs 'certificate_names' or 'token_subjects', to be known by."
        )
    rpcs = table.texts("rpcs", RPCS.__contains__, f"one of {', '.join(sorted(RPCS))}")
    if not rpcs:
        raise InputError(f"{table.place} needs 'rpcs', the methods that it may call.")
    purposes, purpose_required = _purposes(table)
    rate = _limit(table, "numbers_per_second", rpcs)
    client = ClientPolicy(
        name=name,
        certificate_names=certificate_names,
        token_subjects=token_subjects,
        rpcs=rpcs,
        purposes=purposes,
        purpose_required=purpose_required,
        reference_required=table.flag("reference_required", default=False),
        numbers_per_second=rate,
        burst=table.count("burst", 1, COUNT_MAX, rate) if rate else None,
        numbers_per_day=_limit(table, "numbers_per_day", rpcs),
        numbers_per_message=table.count("numbers_per_message", 1, COUNT_MAX, None),
        streams=table.count("streams", 1, 10_000, None),
        signals=_signals(table.table("signals")),
    )
    table.end()
    return client


def _limit(table: Table, key: str, rpcs: frozenset[str]) -> int | None:
    """What must be said of a client that may ask about numbers, and of no other."""
    if key not in table and not rpcs & ANSWERING:
        return None
    return table.limit(key, 1, COUNT_MAX)


def _purposes(table: Table) -> tuple[frozenset[str], bool]:
    """What may be declared, and whether it must be: it must, unless the file says otherwise."""
    purposes = table.texts(
        "purposes", may_be_kept, "up to 100 letters, digits, spaces or any of ._:/@+-"
    )
    required = table.flag("purpose_required", default=bool(purposes))
    if required and not purposes:
        raise InputError(f"{table.place} demands a purpose, and 'purposes' lists none.")
    return purposes, required


def _signals(table: Table) -> SignalLimits:
    standard = SignalLimits()
    given = {
        field.name: table.number(
            field.name,
            field.metadata["low"],
            field.metadata["high"],
            getattr(standard, field.name),
        )
        for field in dataclasses.fields(SignalLimits)
    }
    table.end()
    return SignalLimits(**given)


def _tokens(table: Table, directory: Path) -> TokenRules:
    rules = TokenRules(
        jwks=directory / table.text("jwks", str.strip, "the path of a JWKS file"),
        issuer=table.text("issuer", _WORD.fullmatch, "the 'iss' of tokens, without spaces"),
        audience=table.text("audience", _WORD.fullmatch, "the 'aud' of tokens, without spaces"),
        leeway_s=table.number("leeway_s", 0.0, 300.0, LEEWAY_S),
        lifetime_s_max=table.number("lifetime_s_max", 1.0, 31_622_400.0, LIFETIME_S_MAX),
    )
    table.end()
    return rules


def _index(path: Path, clients: Mapping[str, ClientPolicy], key: str) -> Mapping[str, ClientPolicy]:
    """The clients by each of the names under *key*, which no two of them may share."""
    index: dict[str, ClientPolicy] = {}
    for client in clients.values():
        for known_by in getattr(client, key):
            other = index.setdefault(known_by, client)
            if other is not client:
                raise InputError(
                    f"{path}: clients.{other.name} and clients.{client.name} share one of their "
                    f"'{key}'; each must be known by names of its own."
                )
    return MappingProxyType(index)


def _is_client_name(name: str) -> bool:
    return _CLIENT_NAME.fullmatch(name) is not None and not nhs_number.may_be_in(name)
