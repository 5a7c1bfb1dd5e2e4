"""A span for each call, made from its record when it ends: numbers of numbers, and nobody's words.

OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, ...) say where
spans go. The caller's `traceparent` is their parent; its `tracestate`, and all else it says, is not
passed on.
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ndoo.ops.audit import AuditRecord

TRACEPARENT = "traceparent"
_PARENTS = TraceContextTextMapPropagator()
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""What the conventions call an error of the server; other statuses are the caller's doing."""


class Tracing:
    """Sends spans of the calls of *service*, through *processor*, until closed. Does not block."""

    def __init__(self, service: str, version: str, processor: SpanProcessor | None = None) -> None:
        resource = Resource.create({"service.name": "ndoo", "service.version": version})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("ndoo", version)
        self._service = service

    def ended(self, record: AuditRecord, traceparent: str) -> None:
        """The call of *record* is over; *traceparent* is what its caller sent, "" for nothing."""
        span = self._tracer.start_span(
            f"{self._service}/{record.rpc}",
            context=_PARENTS.extract({TRACEPARENT: traceparent}),
            kind=SpanKind.SERVER,
            attributes=self._attributes(record),
            start_time=_nanoseconds(record.started_at),
        )
        if record.status in _FAULTS:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(record.ended_at))

    def close(self) -> None:
        """Send what is left. May take seconds."""
        self._provider.shutdown()

    def _attributes(self, record: AuditRecord) -> dict[str, str | int]:
        told: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": f"{self._service}/{record.rpc}",
            "rpc.response.status_code": record.status,
            "ndoo.call_id": record.call_id,
            "ndoo.received": record.received,
            "ndoo.cleared": record.cleared,
            "ndoo.opted_out": record.opted_out,
            "ndoo.invalid": record.invalid,
            "ndoo.revision": record.revision,
        }
        if record.reason:
            told["error.type"] = record.reason
        return told


def _nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
