"""A span for each call over a real server: whose child it is, and what it says."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from leaks.asking import messages, metadata
from leaks.canaries import digits, leaks
from ndoo.ops.tracing import Tracing
from ndoo.server.calls import SERVICE_NAME
from ndoo.v1 import check_pb2
from server.conftest import NUMBERS, House, make_house  # noqa: F401

TRACE, PARENT = int("ab" * 16, 16), int("cd" * 8, 16)


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def house(make_house: Callable[..., object], sent: InMemorySpanExporter) -> House:  # noqa: F811
    made = await make_house(traces=Tracing(SERVICE_NAME, "1.0", SimpleSpanProcessor(sent)))
    made.publish(set(NUMBERS[::3].tolist()))
    return made


def only(sent: InMemorySpanExporter) -> ReadableSpan:
    (span,) = sent.get_finished_spans()
    return span


async def test_a_call_is_a_span_below_that_of_its_caller(
    house: House, sent: InMemorySpanExporter
) -> None:
    given = (("traceparent", f"00-{TRACE:032x}-{PARENT:016x}-01"), ("ndoo-call-id", "call-7"))
    request = check_pb2.BatchCheckRequest(nhs_numbers=[*NUMBERS[:4].tolist(), 1])
    answer = await house.stub.BatchCheck(request, metadata=given)
    span = only(sent)
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, PARENT)
    assert (span.name, span.kind) == (f"{SERVICE_NAME}/BatchCheck", SpanKind.SERVER)
    assert dict(span.attributes) == {
        "rpc.system.name": "grpc", "rpc.method": f"{SERVICE_NAME}/BatchCheck",
        "rpc.response.status_code": "OK", "ndoo.call_id": "call-7", "ndoo.received": 5,
        "ndoo.cleared": 2, "ndoo.opted_out": 2, "ndoo.invalid": 1,
        "ndoo.revision": answer.revision.token,
    }  # fmt: skip
    assert span.start_time <= span.end_time
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("suspended", "status", "outcome"),
    [(True, "UNAVAILABLE", StatusCode.ERROR), (False, "INVALID_ARGUMENT", StatusCode.UNSET)],
)
async def test_only_a_fault_of_the_service_makes_a_failed_span(
    house: House, sent: InMemorySpanExporter, *, suspended: bool, status: str, outcome: StatusCode
) -> None:
    house.publish(set(), suspended=suspended)
    with pytest.raises(grpc.RpcError):
        await house.stub.Check(check_pb2.CheckRequest(exactly_at="" if suspended else "no token"))
    span = only(sent)
    assert span.attributes["rpc.response.status_code"] == status
    assert span.attributes["error.type"]
    assert span.status.status_code is outcome


async def test_a_span_holds_nothing_of_anybody(house: House, sent: InMemorySpanExporter) -> None:
    count = 0
    for method, message in messages():
        for given in metadata() if not count else ((),):
            call = house.channel.stream_stream(f"/{SERVICE_NAME}/{method}")(
                iter([message]), metadata=(*given, ("tracestate", f"a={digits('metadata')}"))
            )
            with contextlib.suppress(grpc.RpcError):
                async for _ in call:
                    pass
            count += 1
    spans = sent.get_finished_spans()
    assert len(spans) > count / 2  # methods that are not there have none
    assert leaks(*(span.to_json() for span in spans)) == []


def test_who_does_not_trace_does_not_load_the_library() -> None:
    code = (
        "import sys; import ndoo.cli.serve, ndoo.server.server; "
        "sys.exit('opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
