"""The settings of the service: one frozen value, read and checked once.

Each setting is told in one place, below: its name in the environment, what it means, its default
and what it may be. Names beginning with NDOO_ that are not among them are refused, because a
misspelt limit is no limit.
"""

from __future__ import annotations

import dataclasses
import difflib
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
        "NDOO_HTTP_LISTEN", "127.0.0.1:50552", "HOST:PORT of /metrics, /livez and /readyz.",
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
        needed = self.numbers_per_message_max * _NUMBER_BYTES + _MESSAGE_OVERHEAD_BYTES
        if self.message_bytes_max < needed:
            raise InputError(
                f"NDOO_MESSAGE_BYTES_MAX is too small for NDOO_NUMBERS_PER_MESSAGE_MAX: "
                f"{self.numbers_per_message_max:,} numbers need {needed:,} bytes."
            )


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
    return _read_number(field, value)


def _read_text(field: dataclasses.Field[Any], text: str) -> str:
    if field.metadata.get("is_address"):
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
