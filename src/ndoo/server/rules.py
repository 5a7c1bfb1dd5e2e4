"""The policy and the keys of tokens as they were last good, kept up with their files.

A new file counts from the next call on. One that cannot be read or is wrong changes nothing but an
alarm: what was last good stays in force until the file is mended. Each of the two files stands for
itself: keys that are broken do not keep a client from being taken out of the policy.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.ops.logs import log_event
from ndoo.server.policy import POLICY_BYTES_MAX, Policy, read_policy
from ndoo.server.tokens import JWKS_BYTES_MAX, Keys, Tokens, read_keys

LOOK_S = 1.0
"""How often the files are looked at."""

FILE_BYTES_MAX = max(POLICY_BYTES_MAX, JWKS_BYTES_MAX) + 1  # which is too long for either

T = TypeVar("T")


class RulesObserver(Protocol):
    """Who counts what becomes of the files. Called by any thread."""

    def on_clients(self, names: Collection[str]) -> None: ...

    def on_policy(self, loaded_at: float) -> None: ...

    def on_policy_refused(self, refused: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a call: taken once, and the same to its end unless the files change."""

    policy: Policy
    tokens: Tokens | None


class RulesFiles:
    """The files that *settings* name. `look` is for one thread, *rules* for any."""

    def __init__(
        self,
        settings: Settings,
        observer: RulesObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises InputError: nothing is served by rules that are wrong from the start."""
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._stopped = threading.Event()
        self._faults: tuple[str, ...] = ()
        self._keys: _File[Keys] | None = None
        self._policy = _File(Path(settings.clients), self._read_policy)
        self._load()

    def run(self) -> None:
        """Look at the files until stopped, whatever happens."""
        while not self._stopped.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  (or rules would stay as they are for ever)
                log_event("error", "policy_refused", reason=f"It failed: {type(error).__name__}.")

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> None:
        """Put into force what has changed and is good."""
        is_new = self._policy.look()
        if self._keys is not None:
            is_new |= self._keys.look()
        if is_new:
            self._load()
        self._tell_faults()

    def _read_policy(self, path: Path) -> Policy:
        policy = read_policy(path)
        _refuse_vain(policy, self._settings)
        jwks = policy.tokens.jwks if policy.tokens else None
        if jwks is None:
            self._keys = None
        elif self._keys is None or self._keys.path != jwks:
            self._keys = _File(jwks, read_keys)
        return policy

    def _load(self) -> None:
        policy = self._policy.value
        tokens = None
        if policy.tokens is not None and self._keys is not None:
            tokens = Tokens(policy.tokens, self._keys.value)
        self.rules = Rules(policy, tokens)
        self._observer.on_clients(policy.clients)
        self._observer.on_policy(self._clock())
        log_event(
            "info",
            "policy_loaded",
            clients=len(policy.clients),
            keys=len(self._keys.value) if self._keys else 0,
        )

    def _tell_faults(self) -> None:
        """Once for each fault, however long it lasts."""
        fault_of_keys = self._keys.fault if self._keys else ""
        faults = tuple(filter(None, (self._policy.fault, fault_of_keys)))
        if faults == self._faults:
            return
        self._faults = faults
        self._observer.on_policy_refused(bool(faults))
        for fault in faults:
            log_event("error", "policy_refused", reason=fault)


class _File(Generic[T]):
    """What *read* makes of the file at *path*: *value* as it was last good, and *fault*, what is
    wrong with the file now. Raises InputError if it is not good from the start.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path = path
        self._read = read
        self._seen = _signature(path)  # first, so that a change meanwhile is seen the next time
        self.value = read(path)
        self.fault = ""

    def look(self) -> bool:
        """Read the file if it has changed, or was not good; return whether there is a new value."""
        signature = _signature(self.path)
        if signature == self._seen and not self.fault:
            return False
        self._seen = signature
        try:
            self.value = self._read(self.path)
        except InputError as error:
            self.fault = str(error)
            return False
        except Exception as error:  # noqa: BLE001  (whatever it is, the last good one stays)
            self.fault = f"{self.path} cannot be read: {type(error).__name__}."
            return False
        self.fault = ""
        return True


def _signature(path: Path) -> bytes:
    """What changes when the file does; empty if there is none. Its times do not tell of a change
    within one tick of the clock.
    """
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(FILE_BYTES_MAX)).digest()
    except OSError:
        return b""


def _refuse_vain(policy: Policy, settings: Settings) -> None:
    """Raise InputError if a client could never get in, or a limit never hold."""
    path = settings.clients
    if not settings.tls_client_ca and policy.tokens is None:
        raise InputError(
            f"{path}: nobody could be identified; set NDOO_TLS_CLIENT_CA to know clients by their "
            "certificates, or add a table [tokens]."
        )
    for client in policy.clients.values():
        if not settings.tls_client_ca and not client.token_subjects:
            raise InputError(
                f"{path}: clients.{client.name} is known by certificates alone; set "
                "NDOO_TLS_CLIENT_CA, or give it 'token_subjects'."
            )
        if settings.tls_client_ca and not client.certificate_names:
            raise InputError(
                f"{path}: clients.{client.name} is known by tokens alone, and with "
                "NDOO_TLS_CLIENT_CA all callers show certificates; give it 'certificate_names'."
            )
        if client.numbers_per_day is not None and not settings.budgets:
            raise InputError(
                f"{path}: clients.{client.name} has 'numbers_per_day'; set NDOO_BUDGETS to say "
                "where is kept what was spent."
            )
