"""How much one call may ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Told to callers by GetRegister, so that they can cut their work to fit."""

    numbers_per_message: int
    bytes_per_message: int
    streams: int
