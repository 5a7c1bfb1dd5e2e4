"""What a caller writes of itself is kept as it is or not at all, and never with an NHS number."""

from __future__ import annotations

import grpc
import pytest

from ndoo.ops.audit import AuditFailed, AuditRecord
from ndoo.server.caller import call_id_of
from ndoo.v1 import check_pb2
from server.conftest import NUMBERS, House, MakeHouse
from support.answers import refused

NUMBER = str(NUMBERS[0])
GROUPED = f"{NUMBER[:3]} {NUMBER[3:6]} {NUMBER[6:]}"
HIDING = [
    NUMBER, GROUPED, GROUPED.replace(" ", "-"), f"ref {NUMBER}", f"7{NUMBER}7", f"x{NUMBER}x",
    NUMBER[:9],
]  # fmt: skip
UNREADABLE = ["a" * 101, "-x", "{}", "a;b", "a,b"]


class Records:
    """An audit that only remembers, and may fail from some record on."""

    def __init__(self, good: int = 1_000) -> None:
        self.records: list[AuditRecord] = []
        self._good = good

    def refuse_if_failing(self) -> None:
        pass

    def record(self, record: AuditRecord) -> None:
        if len(self.records) >= self._good:
            raise AuditFailed
        self.records.append(record)


async def recording(make_house: MakeHouse, audit: Records) -> House:
    house = await make_house(audit=audit)
    house.publish({int(NUMBERS[0])})
    return house


@pytest.mark.parametrize("name", ["ndoo-purpose", "ndoo-reference"])
@pytest.mark.parametrize("text", HIDING + UNREADABLE)
async def test_what_cannot_be_kept_is_refused_and_not_repeated(
    make_house: MakeHouse, name: str, text: str
) -> None:
    audit = Records()
    house = await recording(make_house, audit)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.stub.Check(check_pb2.CheckRequest(nhs_number=NUMBER), metadata=[(name, text)])
    told = refused(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_METADATA")
    assert text not in told.everything
    (record,) = audit.records
    assert (record.reason, record.purpose, record.reference) == ("BAD_METADATA", "", "")


@pytest.mark.parametrize("text", [*HIDING, *UNREADABLE, ""])
def test_a_call_id_that_cannot_be_kept_is_replaced(text: str) -> None:
    made_up = call_id_of({"ndoo-call-id": text})
    assert len(made_up) == 16
    assert made_up.isalpha(), "digits could be an NHS number by chance"
    assert made_up != text


async def test_a_record_tells_who_asked_what_for_and_how_many(make_house: MakeHouse) -> None:
    audit = Records()
    house = await recording(make_house, audit)
    metadata = [
        ("ndoo-call-id", "job-7"), ("ndoo-purpose", "research"), ("ndoo-reference", "18/CAG/1")
    ]  # fmt: skip
    numbers = [*NUMBERS[:3].tolist(), 5]

    async def requests():
        for _ in range(2):
            yield check_pb2.StreamCheckRequest(nhs_numbers=numbers)

    answers = [each async for each in house.stub.StreamCheck(requests(), metadata=metadata)]
    (record,) = audit.records
    assert (record.call_id, record.purpose, record.reference) == ("job-7", "research", "18/CAG/1")
    assert (record.rpc, record.status, record.reason) == ("StreamCheck", "OK", "")
    counts = (record.received, record.cleared, record.opted_out, record.invalid)
    assert counts == (8, 4, 2, 2)
    assert record.revision == answers[-1].summary.revision.token
    assert record.started_at <= record.ended_at


@pytest.mark.parametrize("rpc", ["Check", "BatchCheck", "GetRegister", "StreamCheck"])
async def test_no_result_is_given_that_could_not_be_recorded(
    make_house: MakeHouse, rpc: str
) -> None:
    house = await recording(make_house, Records(good=0))
    results = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        match rpc:
            case "Check":
                results.append(await house.stub.Check(check_pb2.CheckRequest(nhs_number=NUMBER)))
            case "BatchCheck":
                request = check_pb2.BatchCheckRequest(nhs_numbers=[int(NUMBER)])
                results.append(await house.stub.BatchCheck(request))
            case "GetRegister":
                results.append(await house.stub.GetRegister(check_pb2.GetRegisterRequest()))
            case _:
                request = check_pb2.StreamCheckRequest(nhs_numbers=[int(NUMBER)])
                call = house.stub.StreamCheck(iter([request]))
                results += [each async for each in call if each.HasField("summary")]
    told = refused(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_FAILED")
    assert not results
