"""How much one call may ask, and how long one stream may take."""

from __future__ import annotations

from dataclasses import dataclass

from ndoo.config import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """Told to callers by GetRegister, so that they can cut their work to fit; times are not."""

    numbers_per_message: int
    bytes_per_message: int
    streams: int
    stream_s: float
    stream_idle_s: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            settings.numbers_per_message_max,
            settings.message_bytes_max,
            settings.streams_max,
            settings.stream_s_max,
            settings.stream_idle_s_max,
        )
