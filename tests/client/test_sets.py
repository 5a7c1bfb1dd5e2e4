"""Sets: built as a bitmap library builds them, and never answered when the answer is not whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from client.fake_service import revision
from ndoo import nhs_number
from ndoo.client import CallFailed, IncompleteAnswer, open_channel
from ndoo.client.set_stream import check_set
from ndoo.client.sets import CONTAINERS_MAX, KeySet, read_bitmap
from ndoo.v1 import check_pb2, check_pb2_grpc

FIRST_KEY = 999_000_000
TEST_KEYS = np.arange(FIRST_KEY, FIRST_KEY + 990_000, dtype=np.uint32)
NUMBERS = nhs_number.numbers_of(TEST_KEYS[nhs_number.check_digits(TEST_KEYS) != 10])

Response = check_pb2.CheckSetResponse


def random_numbers(seed: int, count: int) -> np.ndarray:
    """Valid numbers all over the number space, unsorted, some twice, some made invalid."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 10**9, count).astype(np.uint32)
    digits = nhs_number.check_digits(keys)
    numbers = keys.astype(np.uint64) * np.uint64(10) + digits % 10
    numbers = np.concatenate([numbers, numbers[: count // 10], rng.choice(NUMBERS, count)])
    numbers[:5] = [2**64 - 1, 0, 9_999_999_999, 10**10, 9_990_000_027]
    rng.shuffle(numbers)
    return numbers


def keys_in(numbers: np.ndarray) -> BitMap:
    return BitMap((numbers[nhs_number.valid(numbers)] // 10).astype(np.uint32))


@pytest.mark.parametrize("count", [0, 1, 5, 1000, 300_000])
def test_messages_are_what_a_bitmap_library_writes(count: int) -> None:
    numbers = random_numbers(count, count) if count > 1 else NUMBERS[:count]
    keys = KeySet.of(numbers)
    expected = keys_in(numbers)
    messages = list(keys.messages())
    together = BitMap()
    for message in messages:
        bitmap = BitMap.deserialize(message.data)
        assert bitmap.serialize() == message.data
        assert len(bitmap) == message.count
        assert not together or together.max() < bitmap.min(), "cut by key range"
        together |= bitmap
    assert together == expected
    assert len(keys) == len(expected)


def test_dense_pages_become_bitsets_and_large_sets_several_messages() -> None:
    first = 7 << 16
    numbers = nhs_number.numbers_of(issued(np.arange(first, first + 40_000_000, dtype=np.uint32)))
    messages = list(KeySet.of(numbers[::-1]).messages())
    assert len(messages) > 1
    assert all(len(message.data) < 5 * 1024 * 1024 for message in messages)
    assert sum(message.count for message in messages) == len(numbers)
    assert BitMap.deserialize(messages[0].data).serialize() == messages[0].data


def issued(keys: np.ndarray) -> np.ndarray:
    return keys[(nhs_number.check_digits(keys) != 10) & (keys % 111_111_111 != 0)]


def test_holds_is_the_inverse() -> None:
    numbers = random_numbers(3, 50_000)
    chosen = numbers[::3]
    held = KeySet.of(chosen).holds(numbers)
    assert (held == (np.isin(numbers, chosen) & nhs_number.valid(numbers))).all()


@given(st.sets(st.integers(0, 999_999_999), max_size=50))
@settings(max_examples=50, deadline=None)
def test_reading_what_a_bitmap_library_wrote(keys: set[int]) -> None:
    pages = dict(read_bitmap(BitMap(keys).serialize()))
    read = {
        page * 65_536 + int(low)
        for page, bits in pages.items()
        for low in np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    }
    assert read == keys


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_reading_rubbish_raises_value_error(rubbish: bytes, place: int, byte: int) -> None:
    good = bytearray(BitMap([1, 2, 70_000]).serialize())
    good[place % len(good)] = byte
    for data in (rubbish, bytes(good), bytes(good[:place])):
        with contextlib.suppress(ValueError):
            for page, bits in read_bitmap(data):
                assert 0 <= page <= 15_258
                assert len(bits) == 8192


class SetService(check_pb2_grpc.OptOutCheckServicer):
    """Clears every key that is even, and breaks its stream as *flaw* says."""

    def __init__(self, flaw: Callable[[list[Response]], list[Response]]) -> None:
        self.flaw = flaw

    def CheckSet(self, requests, _context):  # noqa: N802
        yield from self.flaw(list(self.answers(requests)))

    @staticmethod
    def answers(requests: Iterator[check_pb2.CheckSetRequest]) -> Iterator[Response]:
        totals = np.zeros(4, dtype=int)
        for request in requests:
            keys = BitMap.deserialize(request.keys) if request.keys else BitMap()
            cleared = BitMap(key for key in keys if key % 2 == 0)
            counts = [len(keys), len(cleared), len(keys) - len(cleared), 0]
            totals += counts
            chunk = check_pb2.SetChunk(cleared=cleared.serialize(), counts=counted(counts))
            yield Response(chunk=chunk)
        yield Response(
            summary=check_pb2.Summary(counts=counted(totals.tolist()), revision=revision())
        )


def counted(counts: list[int]) -> check_pb2.Counts:
    return check_pb2.Counts(
        received=counts[0], cleared=counts[1], opted_out=counts[2], invalid=counts[3]
    )


@contextlib.contextmanager
def serving(service: SetService) -> Iterator[grpc.Channel]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    check_pb2_grpc.add_OptOutCheckServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


COHORT = NUMBERS[:20_000]


def test_a_whole_answer() -> None:
    with serving(SetService(lambda responses: responses)) as channel:
        answer = check_set(channel, KeySet.of(COHORT))
    assert (answer.cleared.holds(COHORT) == (COHORT // 10 % 2 == 0)).all()
    assert answer.summary.received == len(COHORT)
    assert answer.summary.revision.token


def test_an_empty_set_is_answered_too() -> None:
    with serving(SetService(lambda responses: responses)) as channel:
        answer = check_set(channel, KeySet.of(COHORT[:0]))
    assert answer.summary.received == 0


def changed(response: Response, **fields: object) -> Response:
    copy = Response()
    copy.CopyFrom(response)
    for name, value in fields.items():
        if isinstance(value, int):
            setattr(copy.chunk.counts, name, value)
        else:
            setattr(copy.chunk, name, value)
    return copy


def one_exchanged(bitmap: bytes) -> bytes:
    """As many keys in the same page, of which one was not sent."""
    keys = BitMap.deserialize(bitmap)
    sent = BitMap(COHORT // 10)
    keys.remove(keys.min())
    keys.add(next(key for key in range(keys.min(), keys.max()) if key not in sent))
    return keys.serialize()


EVERY_SECOND = BitMap([int(COHORT[0] // 10), int(COHORT[-1] // 10) + 70_000])
FLAWS = {
    "nothing": lambda responses: [],
    "no summary": lambda responses: responses[:-1],
    "summary alone": lambda responses: responses[-1:],
    "two summaries": lambda responses: [*responses, responses[-1]],
    "chunk after the summary": lambda responses: [*responses, responses[0]],
    "chunk twice": lambda responses: [responses[0], *responses],
    "empty message": lambda responses: [Response(), *responses[1:]],
    "keys never sent": lambda responses: [
        changed(responses[0], cleared=EVERY_SECOND.serialize()), *responses[1:]
    ],
    "a key never sent in place of another": lambda responses: [
        changed(responses[0], cleared=one_exchanged(responses[0].chunk.cleared)), *responses[1:]
    ],
    "no bitmap": lambda responses: [changed(responses[0], cleared=b"cleared"), *responses[1:]],
    "no bytes": lambda responses: [changed(responses[0], cleared=b""), *responses[1:]],
    "cut short": lambda responses: [
        changed(responses[0], cleared=responses[0].chunk.cleared[:-2]), *responses[1:]
    ],
    "one key fewer than counted": lambda responses: [
        changed(responses[0], cleared=BitMap(list(BitMap.deserialize(
            responses[0].chunk.cleared))[1:]).serialize()), *responses[1:]
    ],
    "counts that do not add up": lambda responses: [
        changed(responses[0], opted_out=1), *responses[1:]
    ],
    "too few received": lambda responses: [changed(responses[0], received=5), *responses[1:]],
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS.keys())
def test_a_broken_answer_is_no_answer(flaw: Callable[[list[Response]], list[Response]]) -> None:
    with serving(SetService(flaw)) as channel, pytest.raises(IncompleteAnswer):
        check_set(channel, KeySet.of(COHORT))


def test_another_revision_than_demanded() -> None:
    with (
        serving(SetService(lambda responses: responses)) as channel,
        pytest.raises(IncompleteAnswer),
    ):
        check_set(channel, KeySet.of(COHORT), exactly_at="revision-8")


def test_a_call_that_fails() -> None:
    def fail(_responses: list[Response]) -> list[Response]:
        raise RuntimeError

    with serving(SetService(fail)) as channel, pytest.raises(CallFailed):
        check_set(channel, KeySet.of(COHORT))


def test_a_thin_set_is_cut_into_messages_that_the_service_takes() -> None:
    keys = issued(np.arange(400_000_000, 500_000_000, 5_003, dtype=np.uint32))
    messages = list(KeySet.of(nhs_number.numbers_of(keys)).messages())
    assert len(messages) > 1
    assert all(len(message.pages) <= CONTAINERS_MAX for message in messages)
    together = BitMap.union(*(BitMap.deserialize(message.data) for message in messages))
    assert together == BitMap(keys)
