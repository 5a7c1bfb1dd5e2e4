"""Every metric of the service, in one file: name, meaning, unit, labels, buckets.

A registry of its own, never the global one, so that tests can have as many as they like. Labels
come from short fixed lists and are created at zero. Counting is per message, never per number, and
no label ever carries an identifier. Calls use the names that the gRPC ecosystem agreed on, so
public dashboards work.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ndoo.ops.watch import Sign, Watch
from ndoo.register.changes import Kind
from ndoo.register.replica import Phase, Replica
from ndoo.register.view import Counted, Verdict

CALL_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2, 10, 60, 600, 3600)
PUBLISH_SECONDS = (0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1)
_CALL_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_CODES = (
    "OK",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "UNAVAILABLE",
)
REFUSALS = (
    "NOT_LOADED",
    "STALE",
    "SUSPENDED",
    "REVISION_NOT_REACHED",
    "REVISION_GONE",
    "OTHER_GENERATION",
    "TOO_MANY_STREAMS",
    "TOO_MANY_REVISIONS",
    "TOO_MANY_NUMBERS",
    "SET_TOO_LARGE",
    "BAD_SET",
    "BAD_TOKEN",
    "TOKENS_CONTRADICT",
    "MALFORMED_MESSAGE",
    "SHUTTING_DOWN",
    "INTERNAL",
)
RESYNCS = (
    "OTHER_GENERATION",
    "TRIMMED",
    "GAP",
    "BACKWARDS",
    "REWRITTEN",
    "CHANGE_REFUSED",
    "INTERNAL",
)
FEED_REFUSALS = (
    "CHANGE_REFUSED",
    *(
        f"SNAPSHOT_{what}"
        for what in (
            "COUNT", "DIGEST", "EMPTY", "FILE", "FORMAT", "GENERATION", "HEADER", "KEY", "LINKS",
            "NOT_ROARING", "POSITION", "SHRUNKEN", "TOO_LARGE",
        )
    ),
)  # fmt: skip
STATE_REFUSALS = (
    "STATE_DAMAGED",
    "STATE_FOREIGN",
    "STATE_FUTURE",
    "STATE_UNREADABLE",
    "STATE_NOT_WRITTEN",
)
_RPCS = ("Check", "BatchCheck", "StreamCheck", "CheckSet")


class Metrics:
    """The registry and everything in it. *clock* gives Unix seconds."""

    def __init__(
        self,
        replica: Replica,
        version: str,
        clock: Callable[[], float] = time.time,
        watch: Watch | None = None,
    ) -> None:
        self._clock = clock
        self._watch = watch or Watch()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_ReplicaCollector(replica, self._watch, clock))
        self._define_calls()
        self._define_feed()
        self._define_state()
        Gauge(
            "ndoo_build_info", "1, with the versions of the software and of Python",
            ("version", "python"), registry=self.registry,
        ).labels(version, platform.python_version()).set(1)  # fmt: skip

    def _define_calls(self) -> None:
        registry = self.registry
        self._started = Counter(
            "grpc_server_started", "Calls begun", _CALL_LABELS, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by status", (*_CALL_LABELS, "grpc_code"),
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Time from start to end of a call", _CALL_LABELS,
            buckets=CALL_SECONDS, registry=registry,
        )  # fmt: skip
        self._received = Counter(
            "grpc_server_msg_received", "Messages received", _CALL_LABELS, registry=registry
        )
        self._sent = Counter(
            "grpc_server_msg_sent", "Messages sent", _CALL_LABELS, registry=registry
        )
        self.streams_in_flight = Gauge(
            "ndoo_streams_in_flight", "Streams running now", registry=registry
        )
        self._refused = Counter(
            "ndoo_refused", "Calls not answered, by reason", ("reason",), registry=registry
        )
        _create(self._refused, REFUSALS)
        numbers = Counter(
            "ndoo_numbers", "NHS numbers answered, by method and verdict", ("rpc", "verdict"),
            registry=registry,
        )  # fmt: skip
        self._numbers = {
            (rpc, verdict): numbers.labels(rpc, verdict.name.lower())
            for rpc in _RPCS
            for verdict in Verdict
        }

    def _define_feed(self) -> None:
        registry = self.registry
        self._connected = Gauge(
            "ndoo_feed_connected", "1 while the feed answers", registry=registry
        )
        self._resyncs = Counter(
            "ndoo_resyncs", "Reloads of the snapshot after a fault in the feed, by reason",
            ("reason",), registry=registry,
        )  # fmt: skip
        self._feed_refused = Counter(
            "ndoo_feed_refused", "Snapshots and changes refused, by reason", ("reason",),
            registry=registry,
        )  # fmt: skip
        _create(self._resyncs, RESYNCS)
        _create(self._feed_refused, FEED_REFUSALS)
        changes = Counter(
            "ndoo_changes_applied", "Changes applied, by kind", ("kind",), registry=registry
        )
        self._changes = {kind: changes.labels(kind.value) for kind in Kind}
        self._recorded_at = 0.0  # the last change applied
        self._publish_seconds = Histogram(
            "ndoo_publish_seconds", "Time to apply a batch of changes and make the new view",
            buckets=PUBLISH_SECONDS, registry=registry,
        )  # fmt: skip
        self._lag_seconds = Histogram(
            "ndoo_feed_lag_seconds",
            "Time from the recording of a change in the feed to its publication; two clocks",
            buckets=LAG_SECONDS, registry=registry,
        )  # fmt: skip

    def _define_state(self) -> None:
        registry = self.registry
        self._state_as_of = Gauge(
            "ndoo_state_as_of_timestamp_seconds",
            "Moment until which the register in the state directory is complete; 0 without one",
            registry=registry,
        )
        self._state_refused = Counter(
            "ndoo_state_refused", "Failures to read or write the state directory, by reason",
            ("reason",), registry=registry,
        )  # fmt: skip
        _create(self._state_refused, STATE_REFUSALS)

    def call(self, grpc_type: str, service: str, method: str) -> CallMetrics:
        """The metrics of one method, every series of it created."""
        labels = (grpc_type, service, method)
        return CallMetrics(
            self._started.labels(*labels),
            self._received.labels(*labels),
            self._sent.labels(*labels),
            self._seconds.labels(*labels),
            {code: self._handled.labels(*labels, code) for code in _CODES},
        )

    def count_refusal(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def count_verdict(self, verdict: Verdict) -> None:
        self._numbers["Check", verdict].inc()

    def count_answers(self, rpc: str, answers: Counted) -> None:
        self._numbers[rpc, Verdict.CLEARED].inc(answers.cleared_count)
        self._numbers[rpc, Verdict.OPTED_OUT].inc(answers.opted_out_count)
        self._numbers[rpc, Verdict.INVALID].inc(answers.invalid_count)

    def on_connected(self, connected: bool) -> None:
        self._connected.set(connected)

    def on_resync(self, reason: str) -> None:
        self._resyncs.labels(reason).inc()

    def on_refused(self, reason: str) -> None:
        self._feed_refused.labels(reason).inc()

    def on_changes(self, counts: Mapping[Kind, int], recorded_at: float) -> None:
        for kind, count in counts.items():
            self._changes[kind].inc(count)
        self._recorded_at = recorded_at
        self._watch.on_news(recorded_at, self._clock())

    def on_published(self, seconds: float) -> None:
        self._publish_seconds.observe(seconds)
        if self._recorded_at:  # by the writer's clock, which may be ahead of ours
            self._lag_seconds.observe(max(0.0, self._clock() - self._recorded_at))

    def on_state_kept(self, as_of: float) -> None:
        self._state_as_of.set(as_of)

    def on_state_refused(self, reason: str) -> None:
        self._state_refused.labels(reason).inc()


class CallMetrics:
    """What is counted around one method, its label look-ups done once."""

    __slots__ = ("_handled", "_seconds", "received", "sent", "start")

    def __init__(
        self,
        started: Counter,
        received: Counter,
        sent: Counter,
        seconds: Histogram,
        handled: dict[str, Counter],
    ) -> None:
        self.start = started.inc
        self.received = received.inc
        self.sent = sent.inc
        self._seconds = seconds
        self._handled = handled

    def finish(self, code: str, seconds: float) -> None:
        self._handled[code].inc()
        self._seconds.observe(seconds)


class _ReplicaCollector(Collector):
    """What the replica knows, read when Prometheus asks."""

    def __init__(self, replica: Replica, watch: Watch, clock: Callable[[], float]) -> None:
        self._replica = replica
        self._watch = watch
        self._clock = clock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        now = self._clock()
        state = self._replica.state
        view = state.view
        yield GaugeMetricFamily(
            "ndoo_opt_outs", "Opted-out NHS numbers in the register", view.opt_outs if view else 0
        )
        yield GaugeMetricFamily(
            "ndoo_revision_seq",
            "Sequence number of the last change applied",
            view.revision.seq if view else 0,
        )
        yield GaugeMetricFamily(
            "ndoo_as_of_age_seconds",
            "Seconds since the replica last knew that it had every change; +Inf before",
            now - state.as_of if view else float("inf"),
        )
        phases = GaugeMetricFamily(
            "ndoo_phase", "1 for the phase the replica is in", labels=("phase",)
        )
        current = self._replica.phase(now)
        for phase in Phase:
            phases.add_metric([phase.name.lower()], float(phase is current))
        yield phases
        # Counts of opt-outs and revisions of two replicas compare where this is the same.
        generation = GaugeMetricFamily(
            "ndoo_generation_info", "1, with the generation of the register", labels=("generation",)
        )
        if view is not None:
            generation.add_metric([view.revision.generation], 1.0)
        yield generation
        yield from self._signs(now)

    def _signs(self, now: float) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "ndoo_last_change_timestamp_seconds",
            "When the feed recorded the newest change applied; 0 before one was",
            self._watch.last_news,
        )
        warnings = GaugeMetricFamily(
            "ndoo_warning", "1 while somebody should look, by reason", labels=("reason",)
        )
        current = self._watch.warnings(now)
        for sign in Sign:
            warnings.add_metric([sign.value], float(sign in current))
        yield warnings


def _create(counter: Counter, reasons: Iterable[str]) -> None:
    """Have every series of *counter* begin at zero."""
    for reason in reasons:
        counter.labels(reason)
