"""Ways in which a service, or what lies between, can break a stream. Each must leave no result."""

from __future__ import annotations

from collections.abc import Iterator

from client.fake_service import Response, revision
from ndoo.v1 import check_pb2

Responses = Iterator[Response]


def nothing_at_all(responses: Responses) -> Responses:
    yield from ()


def no_summary(responses: Responses) -> Responses:
    return (response for response in responses if response.HasField("chunk"))


def summary_at_once(responses: Responses) -> Responses:
    yield from (response for response in list(responses) if response.HasField("summary"))


def one_chunk_lost(responses: Responses) -> Responses:
    yield from (response for place, response in enumerate(list(responses)) if place != 1)


def last_chunk_lost(responses: Responses) -> Responses:
    every = list(responses)
    yield from [*every[:-2], every[-1]]


def chunk_twice(responses: Responses) -> Responses:
    for response in responses:
        yield response
        if response.HasField("chunk"):
            yield response


def chunks_swapped(responses: Responses) -> Responses:
    every = list(responses)
    yield from [every[1], every[0], *every[2:]]


def chunk_after_summary(responses: Responses) -> Responses:
    every = list(responses)
    yield from [*every, every[0]]


def two_summaries(responses: Responses) -> Responses:
    every = list(responses)
    yield from [*every, every[-1]]


def empty_message(responses: Responses) -> Responses:
    for response in responses:
        yield response if response.HasField("chunk") else Response()


def _changed(responses: Responses, change) -> Responses:
    for response in responses:
        if response.HasField("chunk"):
            change(response.chunk)
        yield response


def _summary_changed(responses: Responses, change) -> Responses:
    for response in responses:
        if response.HasField("summary"):
            change(response.summary)
        yield response


def wrong_offset(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.offset += 8

    return _changed(responses, change)


def wrong_count(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.count -= 1

    return _changed(responses, change)


def short_cleared(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.cleared = chunk.cleared[:-1]

    return _changed(responses, change)


def no_cleared(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.ClearField("cleared")

    return _changed(responses, change)


def long_cleared(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.cleared += b"\0"

    return _changed(responses, change)


def long_invalid(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.invalid = bytes(len(chunk.cleared) + 1)

    return _changed(responses, change)


def everything_cleared(responses: Responses) -> Responses:
    """All bits set, those beyond the last number too."""

    def change(chunk: check_pb2.Chunk) -> None:
        chunk.cleared = b"\xff" * len(chunk.cleared)

    return _changed(responses, change)


def tail_bits_invalid(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        invalid = bytearray(chunk.invalid or bytes(len(chunk.cleared)))
        invalid[-1] |= 0x80
        chunk.invalid = bytes(invalid)

    return _changed(responses, change)


def cleared_and_invalid(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.invalid = chunk.cleared

    return _changed(responses, change)


def one_bit_flipped(responses: Responses) -> Responses:
    """One verdict differs from what the totals say."""

    def change(chunk: check_pb2.Chunk) -> None:
        chunk.cleared = bytes([chunk.cleared[0] ^ 1]) + chunk.cleared[1:]

    return _changed(responses, change)


def no_revision(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.ClearField("revision")

    return _changed(responses, change)


def empty_token(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.revision.token = ""

    return _changed(responses, change)


def no_as_of(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.revision.ClearField("as_of")

    return _changed(responses, change)


def revision_changes_on_the_way(responses: Responses) -> Responses:
    def change(chunk: check_pb2.Chunk) -> None:
        chunk.revision.CopyFrom(revision(f"revision-{chunk.offset}"))

    return _changed(responses, change)


def summary_of_another_revision(responses: Responses) -> Responses:
    return _summary_changed(responses, lambda summary: summary.revision.CopyFrom(revision("other")))


def summary_without_revision(responses: Responses) -> Responses:
    return _summary_changed(responses, lambda summary: summary.ClearField("revision"))


def summary_without_as_of(responses: Responses) -> Responses:
    return _summary_changed(responses, lambda summary: summary.revision.ClearField("as_of"))


def summary_with_impossible_time(responses: Responses) -> Responses:
    def change(summary: check_pb2.Summary) -> None:
        summary.revision.as_of.seconds = 2**62

    return _summary_changed(responses, change)


def summary_without_counts(responses: Responses) -> Responses:
    return _summary_changed(responses, lambda summary: summary.ClearField("counts"))


def _counts_changed(name: str, by: int):
    def flaw(responses: Responses) -> Responses:
        def change(summary: check_pb2.Summary) -> None:
            setattr(summary.counts, name, getattr(summary.counts, name) + by)

        return _summary_changed(responses, change)

    flaw.__name__ = f"summary_{name}_{by:+}"
    return flaw


FLAWS = [
    nothing_at_all,
    no_summary,
    summary_at_once,
    one_chunk_lost,
    last_chunk_lost,
    chunk_twice,
    chunks_swapped,
    chunk_after_summary,
    two_summaries,
    empty_message,
    wrong_offset,
    wrong_count,
    short_cleared,
    no_cleared,
    long_cleared,
    long_invalid,
    everything_cleared,
    tail_bits_invalid,
    cleared_and_invalid,
    one_bit_flipped,
    no_revision,
    empty_token,
    no_as_of,
    revision_changes_on_the_way,
    summary_of_another_revision,
    summary_without_revision,
    summary_without_as_of,
    summary_with_impossible_time,
    summary_without_counts,
    *(
        _counts_changed(name, by)
        for name in ("received", "cleared", "opted_out", "invalid")
        for by in (-1, 1)
    ),
]
