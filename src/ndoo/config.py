"""The settings of the service: one frozen value, read and checked once.

Each setting is told in one place, below: its name in the environment, what it means, its default
and what it may be. Names beginning with NDOO_ that are not among them are refused, because a
misspelt limit is no limit.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ndoo.errors import InputError

ENV_PREFIX = "NDOO_"
_NUMBER_BYTES = 8
_MESSAGE_OVERHEAD_BYTES = 1024
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_PORT_MAX = 65_535


def split_address(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of HOST:PORT. Raises ValueError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > _PORT_MAX:
        raise ValueError("not HOST:PORT")
    return match[1] or match[2], int(match[3])


def _setting(env: str, default: Any, help_text: str, **bounds: Any) -> Any:
    metadata = {"env": env, "help": help_text, **bounds}
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service runs with. Build it with `from_env`."""

    feed: str = _setting(
        "NDOO_FEED", None, "Where opt-outs come from: redis://…, rediss://… or dir:PATH."
    )
    listen: str = _setting(
        "NDOO_LISTEN", "127.0.0.1:50551", "HOST:PORT of the gRPC service; port 0 picks one.",
        is_address=True,
    )  # fmt: skip
    http_listen: str = _setting(
        "NDOO_HTTP_LISTEN", "127.0.0.1:50552",
        "HOST:PORT of /metrics and the probes: /livez, /startupz, /readyz.",
        is_address=True,
    )  # fmt: skip
    prefix: str = _setting(
        "NDOO_PREFIX", "ndoo", "First part of the Redis keys, as in {ndoo}:changes.",
        pattern=r"[A-Za-z0-9_.-]{1,64}", form="1 to 64 letters, digits, '_', '.' or '-'",
    )  # fmt: skip
    staleness_s_max: float = _setting(
        "NDOO_STALENESS_MAX_S", 86_400.0, "Seconds an unconfirmed register may answer.",
        low=0.001, high=366 * 86_400.0,
    )  # fmt: skip
    history_s: float = _setting(
        "NDOO_HISTORY_S", 3600.0, "Seconds that past revisions can be asked for; 0: none.",
        low=0.0, high=86_400.0,
    )  # fmt: skip
    state_dir: str = _setting(
        "NDOO_STATE_DIR", "", "Directory that keeps the register, for a start without the feed."
    )
    silence_s_max: float = _setting(
        "NDOO_SILENCE_MAX_S", 86_400.0, "Seconds without a change before a warning; 0: never.",
        low=0.0, high=366 * 86_400.0,
    )  # fmt: skip
    jump_max: float = _setting(
        "NDOO_JUMP_MAX", 0.02, "Share of the opt-outs that may come or go in an hour before a "
        "warning; 0: never.",
        low=0.0, high=1.0,
    )  # fmt: skip
    numbers_per_message_max: int = _setting(
        "NDOO_NUMBERS_PER_MESSAGE_MAX", 1_048_576, "Numbers that one message may hold.",
        low=1, high=16_777_216,
    )  # fmt: skip
    message_bytes_max: int = _setting(
        "NDOO_MESSAGE_BYTES_MAX", 16 * 1024 * 1024, "Bytes that one message may hold.",
        low=4096, high=256 * 1024 * 1024,
    )  # fmt: skip
    streams_max: int = _setting(
        "NDOO_STREAMS_MAX", 64, "Streams that may run at once.", low=1, high=10_000
    )
    grace_s: float = _setting(
        "NDOO_GRACE_S", 25.0, "Seconds that running calls get to finish after SIGTERM.",
        low=0.0, high=3600.0,
    )  # fmt: skip
    stream_s_max: float = _setting(
        "NDOO_STREAM_S_MAX", 3600.0, "Seconds that one stream may run.", low=0.1, high=86_400.0
    )  # fmt: skip
    stream_idle_s_max: float = _setting(
        "NDOO_STREAM_IDLE_S_MAX", 300.0, "Seconds that a stream may wait for its caller.",
        low=0.1, high=86_400.0,
    )  # fmt: skip
    connection_age_s: float = _setting(
        "NDOO_CONNECTION_AGE_S", 300.0, "Seconds after which callers are told to connect anew.",
        low=0.1, high=86_400.0,
    )  # fmt: skip
    audit: str = _setting(
        "NDOO_AUDIT", "", "Where a record of each call is kept: a file, or - for standard output."
    )
    audit_required: bool = _setting(
        "NDOO_AUDIT_REQUIRED", default=False,
        help_text="Answer nothing that cannot be recorded: true or false.",
    )  # fmt: skip
    audit_bytes_max: int = _setting(
        "NDOO_AUDIT_BYTES_MAX", 100 * 1024 * 1024, "Bytes of an audit file before the next begins.",
        low=65_536, high=10 * 1024**3,
    )  # fmt: skip
    tls_certificate: str = _setting(
        "NDOO_TLS_CERTIFICATE", "", "PEM file of the certificate to serve with, and its chain."
    )
    tls_key: str = _setting("NDOO_TLS_KEY", "", "PEM file of the key to that certificate.")
    tls_client_ca: str = _setting(
        "NDOO_TLS_CLIENT_CA",
        "",
        "PEM file of the authorities whose certificates callers must show.",
    )
    plaintext: bool = _setting(
        "NDOO_PLAINTEXT", default=False,
        help_text="Serve without TLS on an address that is not loopback: true or false.",
    )  # fmt: skip
    health_listen: str = _setting(
        "NDOO_HEALTH_LISTEN", "", "HOST:PORT of a second gRPC port, plaintext, for health alone.",
        is_address=True,
    )  # fmt: skip
    clients: str = _setting(
        "NDOO_CLIENTS", "", "TOML file of the clients and what each may ask; without it, all may."
    )
    budgets: str = _setting(
        "NDOO_BUDGETS", "", "Where spent daily budgets are kept: dir:PATH, or a Redis URL to share."
    )
    budgets_fail_open: bool = _setting(
        "NDOO_BUDGETS_FAIL_OPEN", default=False,
        help_text="Answer when spent budgets cannot be read: true or false.",
    )  # fmt: skip
    snapshot_public_key: str = _setting(
        "NDOO_SNAPSHOT_PUBLIC_KEY",
        "",
        "PEM file of the Ed25519 key that snapshots must be signed by.",
    )
    reflection: str = _setting(
        "NDOO_REFLECTION", "auto", "Offer gRPC reflection: true, false, or auto (without clients).",
        pattern="auto|true|false", form="auto, true or false",
    )  # fmt: skip
    traces: bool = _setting(
        "NDOO_TRACES", default=False,
        help_text="Send OpenTelemetry traces, as the OTEL_ variables say: true or false.",
    )  # fmt: skip
    log_format: str = _setting(
        "NDOO_LOG_FORMAT", "json", "How events are written: json or text.",
        pattern="json|text", form="json or text",
    )  # fmt: skip
    log_level: str = _setting(
        "NDOO_LOG_LEVEL", "info", "Least severe events to log: debug, info, warning or error.",
        pattern="debug|info|warning|error", form="debug, info, warning or error",
    )  # fmt: skip

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> Settings:
        """The settings in *environ*, with *overrides* by field name on top; None is passed over.

        Raises InputError, one sentence each.
        """
        _refuse_unknown(environ)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            given = overrides.get(field.name)
            value = environ.get(field.metadata["env"]) if given is None else given
            if value is not None:
                values[field.name] = _read(field, value)
        if not values.get("feed"):
            raise InputError(
                "No feed is named; set NDOO_FEED or pass --feed, for example --feed dir:./feed."
            )
        settings = cls(**values)
        settings._refuse_contradictions()
        return settings

    def _refuse_contradictions(self) -> None:
        if self.audit_required and not self.audit:
            raise InputError(
                "NDOO_AUDIT_REQUIRED needs a place for the records; set NDOO_AUDIT to a file, or - "
                "for standard output."
            )
        if self.budgets and not self.clients:
            raise InputError(
                "NDOO_BUDGETS bounds clients, and none are named; set NDOO_CLIENTS, or unset it."
            )
        self._refuse_half_tls()
        needed = self.numbers_per_message_max * _NUMBER_BYTES + _MESSAGE_OVERHEAD_BYTES
        if self.message_bytes_max < needed:
            raise InputError(
                f"NDOO_MESSAGE_BYTES_MAX is too small for NDOO_NUMBERS_PER_MESSAGE_MAX: "
                f"{self.numbers_per_message_max:,} numbers need {needed:,} bytes."
            )

    def _refuse_half_tls(self) -> None:
        """What of TLS does not go together, or lets strangers listen without anybody's asking."""
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise InputError("NDOO_TLS_CERTIFICATE and NDOO_TLS_KEY belong together; set both.")
        if self.tls_client_ca and not self.tls_certificate:
            raise InputError(
                "NDOO_TLS_CLIENT_CA needs a certificate to serve with; set NDOO_TLS_CERTIFICATE."
            )
        if self.plaintext and self.tls_certificate:
            raise InputError(
                "NDOO_PLAINTEXT and NDOO_TLS_CERTIFICATE contradict each other; unset one."
            )
        if not (self.plaintext or self.tls_certificate or _is_loopback(self.listen)):
            raise InputError(
                "NDOO_LISTEN is not loopback, so calls would cross a network unprotected; set "
                "NDOO_TLS_CERTIFICATE and NDOO_TLS_KEY, or NDOO_PLAINTEXT=true if that is meant."
            )


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {field.metadata["env"] for field in dataclasses.fields(Settings)}
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else "unset it, or see 'ndoo serve --help'."
            raise InputError(f"There is no setting {name}; {mend}")


def _read(field: dataclasses.Field[Any], value: Any) -> Any:
    if field.type == "str":
        return _read_text(field, str(value))
    if field.type == "bool":
        return _read_flag(field, str(value).lower())
    return _read_number(field, value)


def _read_text(field: dataclasses.Field[Any], text: str) -> str:
    if field.metadata.get("is_address") and (text or field.default):
        try:
            split_address(text)
        except ValueError:
            raise InputError(
                f"{field.metadata['env']} must be HOST:PORT, with an IPv6 address in brackets and "
                f"a port up to {_PORT_MAX}."
            ) from None
    pattern = field.metadata.get("pattern")
    if pattern is not None and not re.fullmatch(pattern, text):
        raise InputError(f"{field.metadata['env']} must be {field.metadata['form']}.")
    return text


def _read_flag(field: dataclasses.Field[Any], text: str) -> bool:
    if text not in {"true", "false"}:
        raise InputError(f"{field.metadata['env']} must be true or false.")
    return text == "true"


def _read_number(field: dataclasses.Field[Any], value: Any) -> float:
    env, low, high = (field.metadata[name] for name in ("env", "low", "high"))
    convert, kind = (int, "a whole number") if field.type == "int" else (float, "a number")
    try:
        number: float = convert(value)
    except ValueError:
        raise InputError(f"{env} must be {kind}.") from None
    if not low <= number <= high:  # also refuses NaN
        raise InputError(f"{env} must lie between {low:,} and {high:,}.")
    return number
