"""Any number of numbers over one call: chunks out, bits back, and a summary that proves the whole.

The caller's thread reads the chunks, hands them to gRPC, and takes the answers in turn, with at
most `in_flight_max` chunks unanswered: memory is bounded, and an error while chunks are read
reaches the caller, after the call is cancelled, never as a stream that merely ends sooner.

    with check_stream(channel, chunks) as stream:
        for answer in stream:
            ...              # provisional
    summary = stream.summary  # only now is there a result
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import grpc
import numpy as np

from ndoo.client.answers import (
    ChunkAnswer,
    Summary,
    count_ones,
    parse,
    read_chunk,
    read_revision,
)
from ndoo.client.channel import streaming_call
from ndoo.client.errors import IncompleteAnswer
from ndoo.nhs_number import Numbers
from ndoo.v1 import check_pb2

NUMBERS_PER_CHUNK_MAX = 131_072
IN_FLIGHT_MAX = 8

_NUMBERS_TAG = 0x0A  # field 1, length-delimited


def check_stream(
    channel: grpc.Channel,
    chunks: Iterable[Numbers],
    *,
    at_least_as_fresh: str = "",
    exactly_at: str = "",
    timeout_s: float | None = None,
    in_flight_max: int = IN_FLIGHT_MAX,
) -> CheckStream:
    """Check *chunks*, arrays of 1 to 131,072 numbers each, in one call, all at one revision.

    *at_least_as_fresh* and *exactly_at* are revision tokens, as in the proto. *timeout_s* is for
    the call as a whole.
    """
    tokens = check_pb2.StreamCheckRequest(
        at_least_as_fresh=at_least_as_fresh, exactly_at=exactly_at
    )
    return CheckStream(channel, chunks, tokens, timeout_s, in_flight_max)


class CheckStream:
    """One call. Iterate over it once, for one ChunkAnswer a chunk, then take `summary`."""

    def __init__(
        self,
        channel: grpc.Channel,
        chunks: Iterable[Numbers],
        tokens: check_pb2.StreamCheckRequest,
        timeout_s: float | None,
        in_flight_max: int,
    ) -> None:
        self._ledger = _Ledger(tokens.exactly_at)
        self._prefix = tokens.SerializeToString()
        self._in_flight_max = in_flight_max
        self._summary: Summary | None = None
        self._answers = self._run(channel, chunks, timeout_s)

    @property
    def summary(self) -> Summary:
        """The totals. Raises IncompleteAnswer unless every answer was taken and all add up."""
        if self._summary is None:
            raise IncompleteAnswer("The stream has not been answered whole: there is no result.")
        return self._summary

    def __iter__(self) -> Iterator[ChunkAnswer]:
        """One answer a chunk, in order. Raises CallFailed or IncompleteAnswer."""
        return self._answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._answers.close()

    def _run(
        self, channel: grpc.Channel, chunks: Iterable[Numbers], timeout_s: float | None
    ) -> Generator[ChunkAnswer]:
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        call = streaming_call(channel, "StreamCheck", iter(requests.get, None), timeout_s)
        try:
            call.begin()
            yield from self._exchange(chunks, requests, call)
        finally:
            # In this order, so that a call that is cancelled is not closed as if it were all sent.
            # Where another thread cancels for this one that is only likely, and decides nothing:
            # there is no result without a summary.
            call.cancel()
            requests.put(None)

    def _exchange(
        self,
        chunks: Iterable[Numbers],
        requests: SimpleQueue[bytes | None],
        responses: Iterator[bytes],
    ) -> Iterator[ChunkAnswer]:
        ledger = self._ledger
        for chunk in chunks:
            requests.put(self._encode(chunk))
            ledger.pending.append(len(chunk))
            while len(ledger.pending) >= self._in_flight_max:
                yield ledger.take(responses)
        if self._prefix:  # nothing was sent, but the tokens count all the same
            requests.put(self._take_prefix())
            ledger.pending.append(0)
            ledger.take(responses)
        requests.put(None)
        while ledger.pending:
            yield ledger.take(responses)
        self._summary = ledger.close(responses)

    def _encode(self, chunk: Numbers) -> bytes:
        if not 1 <= len(chunk) <= NUMBERS_PER_CHUNK_MAX:
            raise ValueError(f"a chunk holds 1 to {NUMBERS_PER_CHUNK_MAX:,} numbers")
        packed = np.ascontiguousarray(chunk, dtype="<u8").view(np.uint8)
        return b"".join([self._take_prefix(), run_header(packed.nbytes), packed.data])

    def _take_prefix(self) -> bytes:
        """The two tokens as the first message carries them, and nothing for every other."""
        prefix, self._prefix = self._prefix, b""
        return prefix


@dataclass(slots=True)
class _Ledger:
    """What was sent and what came back. Refuses the first thing that does not fit."""

    exactly_at: str
    pending: deque[int] = field(default_factory=deque)
    token: str = ""
    received: int = 0
    cleared: int = 0
    invalid: int = 0

    def take(self, responses: Iterator[bytes]) -> ChunkAnswer:
        """The answer to the oldest chunk that is pending."""
        response = _next(responses)
        if response is None or response.WhichOneof("message") != "chunk":
            raise IncompleteAnswer("The service's answer ended before every number was answered.")
        answer = read_chunk(response.chunk, self.received, self.pending.popleft())
        if response.chunk.HasField("revision") or not self.token:
            self._hold_revision(response.chunk.revision)
        self.received += answer.count
        self.cleared += count_ones(answer.cleared)
        self.invalid += count_ones(answer.invalid)
        return answer

    def close(self, responses: Iterator[bytes]) -> Summary:
        """The summary, which must be the last message, and agree with all that came before."""
        response = _next(responses)
        if response is None or response.WhichOneof("message") != "summary":
            raise IncompleteAnswer("The service's answer has no summary where it should end.")
        if _next(responses) is not None:
            raise IncompleteAnswer("The service's answer goes on after its summary.")
        self._hold_revision(response.summary.revision)
        opted_out = self.received - self.cleared - self.invalid
        counts = response.summary.counts
        if (self.received, self.cleared, opted_out, self.invalid) != (
            counts.received, counts.cleared, counts.opted_out, counts.invalid
        ):  # fmt: skip
            raise IncompleteAnswer("The service's totals are not the sum of its answers.")
        revision = read_revision(response.summary.revision)
        return Summary(self.received, self.cleared, opted_out, self.invalid, revision)

    def _hold_revision(self, revision: check_pb2.Revision) -> None:
        token = read_revision(revision).token
        self.token = self.token or token
        if token != self.token or token != (self.exactly_at or token):
            raise IncompleteAnswer("The service's answer is not all of one revision.")


def _next(responses: Iterator[bytes]) -> check_pb2.StreamCheckResponse | None:
    message = next(responses, None)
    return None if message is None else parse(check_pb2.StreamCheckResponse, message)


def run_header(count: int) -> bytes:
    """What stands before *count* bytes of packed numbers in a message."""
    header = bytearray([_NUMBERS_TAG])
    while count > 0x7F:
        header.append(count & 0x7F | 0x80)
        count >>= 7
    header.append(count)
    return bytes(header)
