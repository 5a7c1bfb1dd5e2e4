"""What is counted around one method, its label look-ups done once.

The metrics are defined in `metrics`.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from ndoo.register.view import Counted, Verdict


class CallMetrics:
    """Of one method."""

    __slots__ = (
        "_chunk_seconds", "_handled", "_numbers", "_seconds", "received", "sent", "start",
    )  # fmt: skip

    def __init__(
        self,
        started: Counter,
        received: Counter,
        sent: Counter,
        seconds: Histogram,
        handled: dict[str, Counter],
        numbers: dict[Verdict, Counter],
        chunk_seconds: Histogram | None,
    ) -> None:
        self.start = started.inc
        self.received = received.inc
        self.sent = sent.inc
        self._seconds = seconds
        self._handled = handled
        self._numbers = numbers
        self._chunk_seconds = chunk_seconds

    def count(self, answers: Counted, seconds: float) -> None:
        """A message about numbers was answered, *seconds* after it was read."""
        self._numbers[Verdict.CLEARED].inc(answers.cleared_count)
        self._numbers[Verdict.OPTED_OUT].inc(answers.opted_out_count)
        self._numbers[Verdict.INVALID].inc(answers.invalid_count)
        if self._chunk_seconds is not None:
            self._chunk_seconds.observe(seconds)

    def finish(self, code: str, seconds: float) -> None:
        self._handled[code].inc()
        self._seconds.observe(seconds)
