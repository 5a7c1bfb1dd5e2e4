"""What goes on beside the test."""

from __future__ import annotations

import sys

from ndoo.client.crew import Outcome


def at_work() -> int:
    """How many threads are doing what a caller of the client is to take the outcome of."""
    return sum(map(_is_at_work, sys._current_frames().values()))


def _is_at_work(frame) -> bool:
    while frame is not None and frame.f_code is not Outcome.settle.__code__:
        frame = frame.f_back
    return frame is not None
