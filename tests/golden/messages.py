"""One message of each kind, with every field of it set in one of them."""

from __future__ import annotations

from google.protobuf.message import Message

from ndoo.v1 import check_pb2

TOKEN, OTHER_TOKEN = "revision-token", "other-token"
NUMBERS = [9_990_000_026, 9_990_000_042, 0, 2**64 - 1]
REVISION = check_pb2.Revision(token=TOKEN)
REVISION.as_of.FromJsonString("2026-01-01T00:00:00.25Z")
COUNTS = check_pb2.Counts(received=1_000, cleared=900, opted_out=70, invalid=30)
CHUNK = check_pb2.Chunk(
    offset=2**40, count=300, cleared=b"\x01\x80", invalid=b"\x02\x00", revision=REVISION
)
SUMMARY = check_pb2.Summary(counts=COUNTS, revision=REVISION)
DEMANDS = {"at_least_as_fresh": TOKEN, "exactly_at": OTHER_TOKEN}
SET = bytes.fromhex("3a30000000000000")

MESSAGES: dict[str, Message] = {
    "CheckRequest": check_pb2.CheckRequest(nhs_number="999 000 0026", **DEMANDS),
    "CheckResponse": check_pb2.CheckResponse(
        verdict=check_pb2.VERDICT_OPTED_OUT, revision=REVISION
    ),
    "BatchCheckRequest": check_pb2.BatchCheckRequest(nhs_numbers=NUMBERS, **DEMANDS),
    "BatchCheckResponse": check_pb2.BatchCheckResponse(
        cleared=b"\x05", invalid=b"\x08", counts=COUNTS, revision=REVISION
    ),
    "StreamCheckRequest": check_pb2.StreamCheckRequest(nhs_numbers=NUMBERS, **DEMANDS),
    "StreamCheckResponse with chunk": check_pb2.StreamCheckResponse(chunk=CHUNK),
    "StreamCheckResponse with summary": check_pb2.StreamCheckResponse(summary=SUMMARY),
    "CheckSetRequest": check_pb2.CheckSetRequest(keys=SET, **DEMANDS),
    "CheckSetResponse with chunk": check_pb2.CheckSetResponse(
        chunk=check_pb2.SetChunk(cleared=SET, counts=COUNTS)
    ),
    "CheckSetResponse with summary": check_pb2.CheckSetResponse(summary=SUMMARY),
    "GetRegisterRequest": check_pb2.GetRegisterRequest(),
    "GetRegisterRequest with demands": check_pb2.GetRegisterRequest(
        exactly_at=TOKEN, with_digest=True
    ),
    "GetRegisterResponse": check_pb2.GetRegisterResponse(
        phase=check_pb2.PHASE_LIVE,
        revision=REVISION,
        opt_outs=3_619_104,
        limits=check_pb2.Limits(numbers_per_message=131_072, bytes_per_message=2**22, streams=64),
        version="1.2.3",
    ),
    "GetRegisterResponse with all": check_pb2.GetRegisterResponse(
        digest=b"\x00\xff" * 16,
        activity=check_pb2.Activity(
            numbers=10**12, calls=10**6, streams=8, changes=300, started_at=REVISION.as_of
        ),
    ),
}
