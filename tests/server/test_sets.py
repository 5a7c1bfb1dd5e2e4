"""CheckSet: Roaring in, Roaring out, against what is true; whatever is no bitmap is refused."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from pyroaring import BitMap

from ndoo import nhs_number
from ndoo.v1 import check_pb2
from server.conftest import FIRST_KEY, NUMBERS, House, MakeHouse
from support.answers import refused


async def ask(house: House, *messages: bytes) -> list[check_pb2.CheckSetResponse]:
    requests = iter([check_pb2.CheckSetRequest(keys=message) for message in messages])
    return [response async for response in house.stub.CheckSet(requests)]


def expected(keys: BitMap, opted_out: set[int]) -> tuple[BitMap, int]:
    """The cleared ones among *keys*, and how many are no NHS number."""
    array = np.array(keys.to_array(), dtype=np.uint32)
    digits = nhs_number.check_digits(array)
    numbers = array.astype(np.uint64) * np.uint64(10) + digits % 10
    valid = (digits != 10) & nhs_number.valid(numbers)
    listed = np.isin(array, np.array([number // 10 for number in opted_out], dtype=np.uint32))
    return BitMap(array[valid & ~listed]), int((~valid).sum())


async def test_each_message_is_answered_and_summed_up(house: House) -> None:
    rng = np.random.default_rng(11)
    sets = [
        BitMap(range(FIRST_KEY, FIRST_KEY + 200_000)),  # runs, once optimised
        BitMap((rng.choice(NUMBERS, 50_000) // 10).astype(np.uint32)),
        BitMap(rng.integers(FIRST_KEY, FIRST_KEY + 900_000, 3000).astype(np.uint32)),
        BitMap(),
        BitMap([0, 111_111_111, 999_999_999]),
    ]
    sets[0].run_optimize()
    responses = await ask(house, *(keys.serialize() for keys in sets))
    assert [r.WhichOneof("message") for r in responses] == ["chunk"] * len(sets) + ["summary"]
    totals = np.zeros(4, dtype=int)
    for keys, response in zip(sets, responses):
        cleared, invalid = expected(keys, house.opted_out)
        assert BitMap.deserialize(response.chunk.cleared) == cleared
        counts = response.chunk.counts
        got = [counts.received, counts.cleared, counts.opted_out, counts.invalid]
        assert got == [
            len(keys), len(cleared), len(keys) - len(cleared) - invalid, invalid
        ]  # fmt: skip
        totals += got
    counts = responses[-1].summary.counts
    assert [counts.received, counts.cleared, counts.opted_out, counts.invalid] == totals.tolist()
    assert responses[-1].summary.revision.token


async def test_no_keys_are_an_empty_answer(house: House) -> None:
    responses = await ask(house, b"")
    assert len(BitMap.deserialize(responses[0].chunk.cleared)) == 0
    assert responses[0].chunk.counts == check_pb2.Counts()


async def reason_of(house: House, message: bytes) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(house, message)
    got = refused(caught.value)
    assert got.code == grpc.StatusCode.INVALID_ARGUMENT
    return got.reason


@pytest.mark.parametrize("cut", [1, 4, 7, 8, 11, 15, 16, 20, -1, -2])
async def test_a_bitmap_cut_short_is_refused(house: House, cut: int) -> None:
    keys = BitMap([FIRST_KEY, FIRST_KEY + 1, FIRST_KEY + 100_000]).serialize()
    assert await reason_of(house, keys[:cut]) == "BAD_SET"


async def test_a_key_of_more_than_nine_digits_is_refused(house: House) -> None:
    assert await reason_of(house, BitMap([1_000_000_000]).serialize()) == "BAD_SET"
    assert await reason_of(house, BitMap([FIRST_KEY, 2**32 - 1]).serialize()) == "BAD_SET"


async def test_trailing_bytes_are_refused(house: House) -> None:
    assert await reason_of(house, BitMap([FIRST_KEY]).serialize() + b"\0") == "BAD_SET"


async def test_a_few_bytes_that_stand_for_a_billion_keys_are_refused(
    make_house: MakeHouse,
) -> None:
    house = await make_house()
    house.publish(set())
    everybody = BitMap(range(10**9))
    everybody.run_optimize()
    bomb = everybody.serialize()
    assert len(bomb) < 300_000
    assert await reason_of(house, bomb) == "SET_TOO_LARGE"


async def test_a_claim_of_many_containers_costs_nothing(house: House) -> None:
    claim = (12346).to_bytes(4, "little") + (2**32 - 1).to_bytes(4, "little")
    assert await reason_of(house, claim + bytes(64)) in {"BAD_SET", "SET_TOO_LARGE"}


async def test_a_bitmap_and_a_token_in_one_message(house: House) -> None:
    keys = BitMap([FIRST_KEY + 5]).serialize()
    token = house.replica.state.verified.token
    request = check_pb2.CheckSetRequest(keys=keys, exactly_at=token)
    responses = [response async for response in house.stub.CheckSet(iter([request]))]
    assert responses[-1].summary.revision.token == token
