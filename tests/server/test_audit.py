"""What is answered is recorded, and what cannot be recorded is not answered."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from pyroaring import BitMap

from ndoo.ops.audit_chain import CALL, STARTED, TORN, Head
from ndoo.ops.audit_file import parts_of
from ndoo.ops.audit_log import AuditLog
from ndoo.v1 import check_pb2, check_pb2_grpc
from server.conftest import KEYS, NUMBERS, House, MakeHouse
from support.answers import refused
from support.auditing import Counting, FaultyFile, verified
from support.people import KEYS as PEOPLE
from support.places import Place

CLEARED, OPTED_OUT = int(NUMBERS[1]), int(NUMBERS[0])
METADATA = (("ndoo-purpose", "research"), ("ndoo-reference", "study 7"), ("ndoo-call-id", "mine"))
MESSAGES = {
    "StreamCheck": check_pb2.StreamCheckRequest(nhs_numbers=np.full(20_000, CLEARED, np.uint64)),
    "CheckSet": check_pb2.CheckSetRequest(keys=BitMap(KEYS[:10]).serialize()),
}
AUDIT_FAILED = (grpc.StatusCode.UNAVAILABLE, "AUDIT_FAILED")


class Audited:
    """A server with an audit on a disk that fails on demand."""

    def __init__(self, house: House, log: AuditLog, file: FaultyFile, path: Path) -> None:
        self.house, self.log, self.file, self.path = house, log, file, path

    def records(self) -> list[dict]:
        lines = self.path.read_bytes().splitlines()
        records = [json.loads(line) for line in lines if line.endswith(b'"}')]
        return [record for record in records if record["kind"] == "call"]

    async def check(self, number: int = CLEARED, **more: object) -> check_pb2.CheckResponse:
        request = check_pb2.CheckRequest(nhs_number=f"{number:010d}")
        return await self.house.stub.Check(request, **more)


@pytest.fixture
async def make_audited(make_house: MakeHouse, tmp_path: Path) -> Callable[..., Audited]:
    async def make(*, required: bool = True) -> Audited:
        path = tmp_path / "audit.jsonl"
        file = FaultyFile(path, 10**9)
        log = AuditLog(file, Counting(), required=required)
        house = await make_house(audit=log)
        house.publish({OPTED_OUT})
        return Audited(house, log, file, path)

    return make


@pytest.fixture
async def audited(make_audited: Callable[..., Audited]) -> Audited:
    return await make_audited()


async def refusal(answer: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    got = refused(caught.value)
    assert got.retry_s is None or got.retry_s > 0
    return got.code, got.reason


def only(record: dict, *names: str) -> list[object]:
    return [record[name] for name in names]


COUNTS = ("received", "cleared", "opted_out", "invalid")


async def test_each_method_leaves_one_record(audited: Audited) -> None:
    stub = audited.house.stub
    numbers = [CLEARED, OPTED_OUT, CLEARED, 1]
    await audited.check(OPTED_OUT, metadata=METADATA)
    await stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers))
    messages = [check_pb2.StreamCheckRequest(nhs_numbers=numbers)] * 3
    assert len([answer async for answer in stub.StreamCheck(iter(messages))]) == 4
    await stub.GetRegister(check_pb2.GetRegisterRequest())
    check, batch, stream, register = audited.records()
    assert [each["rpc"] for each in audited.records()] == [
        "Check",
        "BatchCheck",
        "StreamCheck",
        "GetRegister",
    ]
    assert only(check, "purpose", "reference", "call_id") == ["research", "study 7", "mine"]
    assert only(check, *COUNTS) == [1, 0, 1, 0]
    assert only(batch, *COUNTS) == [4, 2, 1, 1]
    assert only(stream, *COUNTS) == [12, 6, 3, 3]
    assert only(register, *COUNTS) == [0, 0, 0, 0]
    token = audited.house.replica.state.view.revision.token
    for each in (check, batch, stream):
        assert only(each, "status", "reason", "revision") == ["OK", "", token]
        assert each["peer"].startswith("ipv4:127.0.0.1:")
        assert each["started_at"] <= each["ended_at"]
    assert verified(audited.path, audited.log.head).broken is None


async def test_no_number_nor_key_stands_in_the_records(audited: Audited) -> None:
    """Wherever callers put it: in what they ask, in what they say of themselves, in rubbish."""
    number = f"{OPTED_OUT:010d}"
    await audited.check(OPTED_OUT)
    for name in ("ndoo-purpose", "ndoo-reference"):
        assert (await refusal(audited.check(metadata=((name, number),))))[1] == "BAD_METADATA"
    await audited.check(metadata=(("ndoo-call-id", number), ("user-agent", number)))
    rubbish = b"\x0a\xff\xff" + number.encode()
    await refusal(audited.house.channel.unary_unary("/ndoo.v1.OptOutCheck/Check")(rubbish))
    assert [each["reason"] for each in audited.records()] == [
        "",
        "BAD_METADATA",
        "BAD_METADATA",
        "",
        "MALFORMED_MESSAGE",
    ]
    raw = audited.path.read_text("ascii")
    assert number not in raw
    assert str(OPTED_OUT // 10) not in raw


async def test_refused_and_broken_off_calls_are_recorded(audited: Audited) -> None:
    audited.house.publish({OPTED_OUT}, suspended=True)
    await refusal(audited.check())
    audited.house.publish({OPTED_OUT})
    stream = audited.house.stub.StreamCheck()
    await stream.write(check_pb2.StreamCheckRequest(nhs_numbers=[CLEARED]))
    await stream.read()
    stream.cancel()
    await audited.house.server.stop()
    first, second = audited.records()
    assert only(first, "status", "reason", "received") == ["UNAVAILABLE", "SUSPENDED", 0]
    assert only(second, "status", "received", "cleared") == ["CANCELLED", 1, 1]


async def test_a_record_that_cannot_be_kept_takes_its_answer_with_it(audited: Audited) -> None:
    audited.file.room = 40
    assert await refusal(audited.check()) == AUDIT_FAILED
    assert await refusal(audited.check()) == AUDIT_FAILED
    assert not audited.house.server.is_ready()
    audited.file.room = None
    assert await refusal(audited.check()) == AUDIT_FAILED, "it is tried anew in its own time"
    audited.log.keep()
    assert audited.house.server.is_ready()
    assert (await audited.check()).verdict == check_pb2.VERDICT_CLEARED
    assert len(audited.records()) == 1
    findings = verified(audited.path)
    assert (findings.broken, findings.lost) == (None, 3)


@pytest.mark.parametrize("method", MESSAGES)
async def test_a_disk_that_fills_in_mid_stream_ends_it_without_a_summary(
    audited: Audited, method: str
) -> None:
    message = MESSAGES[method]
    stream = getattr(audited.house.stub, method)()
    await stream.write(message)
    assert (await stream.read()).WhichOneof("message") == "chunk"
    audited.file.room = 40
    assert await refusal(audited.check()) == AUDIT_FAILED
    await stream.write(message)
    assert await refusal(stream.read()) == AUDIT_FAILED
    other = getattr(audited.house.stub, method)()
    assert await refusal(other.read()) == AUDIT_FAILED
    audited.file.room = None
    audited.log.keep()
    assert (await audited.check()).verdict == check_pb2.VERDICT_CLEARED
    assert verified(audited.path).lost == 3, "the stream that was answered in part among them"


async def test_a_summary_that_cannot_be_recorded_is_not_given(audited: Audited) -> None:
    stream = audited.house.stub.StreamCheck()
    await stream.write(check_pb2.StreamCheckRequest(nhs_numbers=[CLEARED]))
    assert (await stream.read()).chunk.count == 1
    audited.file.room = 40
    await stream.done_writing()
    assert await refusal(stream.read()) == AUDIT_FAILED


async def test_where_records_are_not_required_answers_go_on(make_audited) -> None:
    audited = await make_audited(required=False)
    audited.file.room = 0
    assert (await audited.check()).verdict == check_pb2.VERDICT_CLEARED
    audited.file.room = None
    audited.log.keep()
    await audited.check()
    assert (len(audited.records()), verified(audited.path).lost) == (1, 1)


class Process:
    """`ndoo serve` with required records, on a disk that its file may fill."""

    def __init__(self, feed: str, audit: Path) -> None:
        self.audit = audit
        self.command = [
            sys.executable, "-m", "ndoo", "serve", "--feed", feed, "--listen", "127.0.0.1:0",
            "--http-listen", "127.0.0.1:0", "--audit", str(audit), "--audit-required", "true",
        ]  # fmt: skip
        self.popen = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        try:
            self.address = self.until("listening")["grpc"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        with self.popen:  # which waits, and closes the pipe
            self.popen.kill()

    def until(self, name: str) -> dict:
        for line in self.popen.stdout:
            event = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the service ended without {name}")

    def let_file_grow(self, size: int) -> None:
        _, hard = resource.prlimit(self.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.popen.pid, resource.RLIMIT_FSIZE, (size, hard))

    def verdict(self) -> int:
        with grpc.insecure_channel(self.address) as channel:
            stub = check_pb2_grpc.OptOutCheckStub(channel)
            request = check_pb2.CheckRequest(nhs_number=f"{CLEARED:010d}")
            return stub.Check(request, timeout=30).verdict


@pytest.fixture
def process(directory_place: Place, tmp_path: Path) -> Iterator[Process]:
    directory_place.loaded(PEOPLE.index(OPTED_OUT // 10))
    with Process(directory_place.url, tmp_path / "audit.jsonl") as process:
        yield process


def test_a_service_whose_disk_is_full_answers_nothing_until_there_is_room(process: Process) -> None:
    assert process.verdict() == check_pb2.VERDICT_CLEARED
    process.let_file_grow(process.audit.stat().st_size + 25)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            process.verdict()
        assert (caught.value.code(), refused(caught.value).reason) == AUDIT_FAILED
    assert process.until("audit_failing")["error"] == "EFBIG"
    process.let_file_grow(resource.RLIM_INFINITY)
    process.until("audit_kept_again")
    assert process.verdict() == check_pb2.VERDICT_CLEARED
    process.popen.send_signal(signal.SIGTERM)
    head = process.until("audit_head")
    assert process.popen.wait() == 0
    findings = verified(process.audit, Head.parse(head["head"]))
    assert (findings.broken, head["when"]) == (None, "stopped")
    assert (findings.kinds[CALL], findings.kinds[TORN], findings.lost) == (2, 1, 2)


def test_a_second_service_does_not_write_to_the_same_file(process: Process) -> None:
    second = subprocess.run(
        process.command, capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 1
    assert "Error: Another process writes audit records" in second.stderr
    assert verified(process.audit).broken is None


def test_a_killed_service_goes_on_where_it_was(process: Process, tmp_path: Path) -> None:
    process.verdict()
    process.popen.kill()
    process.popen.wait()
    with Process(process.command[5], process.audit) as again:
        again.verdict()
    findings = verified(process.audit)
    assert findings.broken is None
    assert (findings.kinds[CALL], findings.kinds[STARTED], findings.files) == (2, 2, 1)
    assert len(parts_of(process.audit)) == 1
