"""What the methods answer, over a real port, against what is true."""

from __future__ import annotations

import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.revision import Revision
from ndoo.v1 import check_pb2
from server.conftest import GENERATION, NUMBERS, House
from support.answers import bits

CLEARED, OPTED_OUT, INVALID = (
    check_pb2.VERDICT_CLEARED,
    check_pb2.VERDICT_OPTED_OUT,
    check_pb2.VERDICT_INVALID,
)


FULL_WIDTH = "".join(chr(0xFF10 + int(digit)) for digit in "9990000026")
ARABIC_INDIC = "".join(chr(0x0660 + int(digit)) for digit in "9990000026")


def mixed(seed: int, count: int) -> np.ndarray:
    """Test numbers in random order, some made invalid, some absurd."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(NUMBERS, count)
    spoilt = rng.random(count) < 0.1
    numbers[spoilt] += rng.integers(1, 9, spoilt.sum()).astype(np.uint64)
    numbers[rng.random(count) < 0.01] = np.uint64(2**64 - 1)
    numbers[rng.random(count) < 0.01] = 0
    return numbers


def expected(numbers: np.ndarray, opted_out: set[int]) -> tuple[np.ndarray, np.ndarray]:
    invalid = ~nhs_number.valid(numbers)
    listed = np.isin(numbers, np.array(sorted(opted_out), dtype=np.uint64))
    return ~invalid & ~listed, invalid


def text(number: int) -> str:
    return f"{number:010d}"


@pytest.mark.parametrize("form", ["{}{}{}", "{} {} {}", "{}-{}-{}"])
async def test_check_reads_every_accepted_form(house: House, form: str) -> None:
    for number in NUMBERS[:30].tolist():
        digits = text(number)
        written = form.format(digits[:3], digits[3:6], digits[6:])
        answer = await house.stub.Check(check_pb2.CheckRequest(nhs_number=written))
        assert answer.verdict == (OPTED_OUT if number in house.opted_out else CLEARED)


@pytest.mark.parametrize(
    "written",
    ["", " ", "9990000027", "999000002", "99900000266", "9999999999", "0000000000", "+9990000026",
     "999-000 0026", "999 0000026", FULL_WIDTH, ARABIC_INDIC,
     "9990000026\n", "9990000026\0"],
)  # fmt: skip
async def test_check_calls_everything_else_invalid(house: House, written: str) -> None:
    answer = await house.stub.Check(check_pb2.CheckRequest(nhs_number=written))
    assert answer.verdict == INVALID


async def test_every_answer_names_its_revision(house: House) -> None:
    number = text(int(NUMBERS[1]))
    check = await house.stub.Check(check_pb2.CheckRequest(nhs_number=number))
    batch = await house.stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=NUMBERS[:3]))
    register = await house.stub.GetRegister(check_pb2.GetRegisterRequest())
    tokens = {answer.revision.token for answer in (check, batch, register)}
    assert tokens == {Revision(GENERATION, 0).token}
    as_of = check.revision.as_of.ToMicroseconds() / 1e6
    assert as_of == pytest.approx(house.replica.state.as_of, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 1000, 20_000])
async def test_batch_check_answers_in_request_order(house: House, count: int) -> None:
    numbers = mixed(count, count)
    answer = await house.stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers))
    cleared, invalid = expected(numbers, house.opted_out)
    assert (bits(answer.cleared, count) == cleared).all()
    assert (bits(answer.invalid, count) == invalid).all()
    assert bool(answer.invalid) == bool(invalid.any()), "empty when no number is invalid"
    counts = answer.counts
    assert (counts.received, counts.cleared, counts.invalid) == (
        count, cleared.sum(), invalid.sum()
    )  # fmt: skip
    assert counts.received == counts.cleared + counts.opted_out + counts.invalid


async def test_stream_check_answers_each_message_and_sums_up(house: House) -> None:
    chunks = [mixed(seed, size) for seed, size in enumerate([1, 0, 5000, 64, 30_000, 3])]
    call = house.stub.StreamCheck(
        check_pb2.StreamCheckRequest(nhs_numbers=numbers) for numbers in chunks
    )
    responses = [response async for response in call]
    assert [response.WhichOneof("message") for response in responses] == (
        ["chunk"] * len(chunks) + ["summary"]
    )
    offset = 0
    for numbers, response in zip(chunks, responses):
        chunk = response.chunk
        cleared, invalid = expected(numbers, house.opted_out)
        assert (chunk.offset, chunk.count) == (offset, len(numbers))
        assert (bits(chunk.cleared, len(numbers)) == cleared).all()
        assert (bits(chunk.invalid, len(numbers)) == invalid).all()
        offset += len(numbers)
    everything = np.concatenate(chunks)
    cleared, invalid = expected(everything, house.opted_out)
    counts = responses[-1].summary.counts
    assert (counts.received, counts.cleared, counts.invalid, counts.opted_out) == (
        offset, cleared.sum(), invalid.sum(), offset - cleared.sum() - invalid.sum()
    )  # fmt: skip
    assert responses[0].chunk.revision.token == responses[-1].summary.revision.token != ""


async def test_an_empty_stream_is_summed_up_as_nothing(house: House) -> None:
    responses = [response async for response in house.stub.StreamCheck(iter(()))]
    assert len(responses) == 1
    assert responses[0].summary.counts == check_pb2.Counts()
    assert responses[0].summary.revision.token


async def test_get_register_tells_state_and_limits(house: House) -> None:
    register = await house.stub.GetRegister(check_pb2.GetRegisterRequest())
    assert register.phase == check_pb2.PHASE_LIVE
    assert register.opt_outs == len(house.opted_out)
    assert register.limits.numbers_per_message == 1_048_576
    assert register.limits.bytes_per_message >= 8 * register.limits.numbers_per_message
    assert register.limits.streams == 64
    assert register.version == "test"


async def test_numbers_are_counted_by_verdict(house: House) -> None:
    numbers = mixed(5, 10_000)
    await house.stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers))
    await house.stub.Check(check_pb2.CheckRequest(nhs_number=text(int(NUMBERS[0]))))
    cleared, invalid = expected(numbers, house.opted_out)
    sample = house.metrics.registry.get_sample_value
    got = {
        verdict: sample("ndoo_numbers_total", {"rpc": "BatchCheck", "verdict": verdict})
        for verdict in ("cleared", "opted_out", "invalid")
    }
    assert got == {
        "cleared": cleared.sum(),
        "invalid": invalid.sum(),
        "opted_out": len(numbers) - cleared.sum() - invalid.sum(),
    }
    assert sample("ndoo_numbers_total", {"rpc": "Check", "verdict": "opted_out"}) == 1
