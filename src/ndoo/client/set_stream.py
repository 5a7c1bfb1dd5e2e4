"""A whole set over one call: Roaring bitmaps out, the cleared keys back, and a summary as proof.

cohort = KeySet.of(numbers)
answer = check_set(channel, cohort)
answer.cleared.holds(numbers)  # one boolean a number
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import numpy as np

from ndoo.client.answers import Summary, parse, read_revision
from ndoo.client.channel import streaming_call
from ndoo.client.errors import IncompleteAnswer
from ndoo.client.sets import Bits, KeySet, SetMessage, count_keys, read_bitmap
from ndoo.v1 import check_pb2


@dataclass(frozen=True, slots=True)
class SetAnswer:
    """The cleared keys of a set, all at one revision. Having one proves that it is whole."""

    cleared: KeySet
    summary: Summary


def check_set(
    channel: grpc.Channel,
    keys: KeySet,
    *,
    at_least_as_fresh: str = "",
    exactly_at: str = "",
    timeout_s: float | None = None,
) -> SetAnswer:
    """Check all of *keys* in one call. Raises CallFailed or IncompleteAnswer."""
    tokens = check_pb2.CheckSetRequest(at_least_as_fresh=at_least_as_fresh, exactly_at=exactly_at)
    ledger = _Ledger(keys, exactly_at)
    call = streaming_call(channel, "CheckSet", ledger.requests(tokens), timeout_s)
    try:
        call.begin()
        for response in call:
            ledger.take(parse(check_pb2.CheckSetResponse, response))
    finally:
        call.cancel()
    return ledger.close()


@dataclass(slots=True)
class _Ledger:
    """What was sent and what came back. Refuses the first thing that does not fit."""

    sent: KeySet
    exactly_at: str
    cleared: KeySet = field(default_factory=KeySet)
    pending: deque[SetMessage] = field(default_factory=deque)
    totals: np.ndarray[tuple[int], np.dtype[np.uint64]] = field(
        default_factory=lambda: np.zeros(4, dtype=np.uint64)
    )
    summary: Summary | None = None

    def requests(self, tokens: check_pb2.CheckSetRequest) -> Iterator[bytes]:
        """The messages to send, the tokens in the first. Run by gRPC in a thread of its own."""
        prefix = tokens.SerializeToString()
        for message in self.sent.messages():
            self.pending.append(message)
            yield prefix + check_pb2.CheckSetRequest(keys=message.data).SerializeToString()
            prefix = b""
        if prefix:  # no keys, but the tokens count all the same
            self.pending.append(SetMessage(b"", 0, ()))
            yield prefix

    def take(self, response: check_pb2.CheckSetResponse) -> None:
        """Take in one message, a chunk for the oldest one pending or the summary."""
        if self.summary is not None:
            raise IncompleteAnswer("The service's answer goes on after its summary.")
        match response.WhichOneof("message"):
            case "chunk" if self.pending:
                self._take_chunk(response.chunk, self.pending.popleft())
            case "summary" if not self.pending:
                self._take_summary(response.summary)
            case _:
                raise IncompleteAnswer("The service's answers do not line up with the sets sent.")

    def close(self) -> SetAnswer:
        """The answer, if the summary was the last message and everything adds up."""
        if self.summary is None or self.summary.received != len(self.sent):
            raise IncompleteAnswer("The service's answer ended before every key was answered.")
        return SetAnswer(self.cleared, self.summary)

    def _take_chunk(self, chunk: check_pb2.SetChunk, message: SetMessage) -> None:
        counts = _counts(chunk.counts)
        try:
            pages = list(read_bitmap(chunk.cleared))
        except (ValueError, IndexError):
            raise IncompleteAnswer("The service's answer holds no readable set of keys.") from None
        cleared = sum(self._take_page(page, bits, message) for page, bits in pages)
        if counts[0] != message.count or counts[1] != cleared or counts[0] != counts[1:].sum():
            raise IncompleteAnswer("The service's counts are not those of its answer.")
        self.totals += counts

    def _take_page(self, page: int, bits: Bits, message: SetMessage) -> int:
        """Take in the cleared keys of one page; return how many they are."""
        is_within = message.pages and message.pages[0] <= page <= message.pages[-1]
        if not is_within or np.any(bits & ~self.sent.table[page]):
            raise IncompleteAnswer("The service clears a key that was not sent.")
        self.cleared.table[page] = bits
        self.cleared.pages.append(page)
        return count_keys(bits)

    def _take_summary(self, summary: check_pb2.Summary) -> None:
        if np.any(_counts(summary.counts) != self.totals):
            raise IncompleteAnswer("The service's totals are not the sum of its answers.")
        revision = read_revision(summary.revision)
        if self.exactly_at and revision.token != self.exactly_at:
            raise IncompleteAnswer("The service's answer is of another revision than demanded.")
        received, cleared, opted_out, invalid = self.totals.tolist()
        self.summary = Summary(received, cleared, opted_out, invalid, revision)


def _counts(counts: check_pb2.Counts) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(
        [counts.received, counts.cleared, counts.opted_out, counts.invalid], dtype=np.uint64
    )
