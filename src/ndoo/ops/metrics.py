"""Every metric of the service, in one file: name, meaning, unit, labels, buckets.

`docs/metrics.md` is the table of it. A registry of its own, never the global one, so that tests can
have as many as they like. Labels come from short fixed lists and are created at zero. Counting is
per message, never per number, and no label ever carries an identifier. Calls use the names that the
gRPC ecosystem agreed on, so public dashboards work.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ndoo.ops.call_metrics import CallMetrics
from ndoo.ops.reasons import CODES, FEED_REFUSALS, REFUSALS, RESYNCS, STATE_REFUSALS
from ndoo.ops.watch import Sign, Watch
from ndoo.register.changes import Kind
from ndoo.register.replica import Phase, Replica
from ndoo.register.view import Verdict

CALL_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
CHUNK_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2, 10, 60, 600, 3600)
PUBLISH_SECONDS = (0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1)
_CALL_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_RPCS = ("Check", "BatchCheck", "StreamCheck", "CheckSet")
_BULK = _RPCS[1:]


class Metrics:
    """The registry and everything in it. *clock* gives Unix seconds.

    Whoever has something to tell declares a small protocol for it, and this class fulfils them all:
    the methods `on_...`. They may be called from any thread, and do not block.
    """

    def __init__(
        self,
        replica: Replica,
        version: str,
        clock: Callable[[], float] = time.time,
        watch: Watch | None = None,
    ) -> None:
        self._clock = clock
        self._watch = watch or Watch()
        # The moments at which counters began are a quarter of a scrape, and tell nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._counter = functools.partial(Counter, registry=self.registry)
        self._gauge = functools.partial(Gauge, registry=self.registry)
        self._histogram = functools.partial(Histogram, registry=self.registry)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_ReplicaCollector(replica, self._watch, clock))
        self._define_calls()
        self._define_numbers()
        self._define_feed()
        self._define_state()
        self._define_guards()
        self._define_clients()
        self._define_process(version)

    def _define_calls(self) -> None:
        self._started = self._counter("grpc_server_started", "Calls begun", _CALL_LABELS)
        self._handled = self._counter(
            "grpc_server_handled", "Calls ended, by status", (*_CALL_LABELS, "grpc_code")
        )
        self._seconds = self._histogram(
            "grpc_server_handling_seconds", "Time from start to end of a call", _CALL_LABELS,
            buckets=CALL_SECONDS,
        )  # fmt: skip
        self._received = self._counter(
            "grpc_server_msg_received", "Messages received", _CALL_LABELS
        )
        self._sent = self._counter("grpc_server_msg_sent", "Messages sent", _CALL_LABELS)
        self.streams_in_flight = self._gauge("ndoo_streams_in_flight", "Streams running now")
        self._refused = self._counter("ndoo_refused", "Calls not answered, by reason", ("reason",))
        _create(self._refused, REFUSALS)

    def _define_numbers(self) -> None:
        numbers = self._counter(
            "ndoo_numbers", "NHS numbers answered, by method and verdict", ("rpc", "verdict")
        )
        self._numbers = {
            rpc: {verdict: numbers.labels(rpc, verdict.name.lower()) for verdict in Verdict}
            for rpc in _RPCS
        }
        chunk_seconds = self._histogram(
            "ndoo_chunk_seconds", "Time from reading a bulk message to its answer, by method",
            ("rpc",), buckets=CHUNK_SECONDS,
        )  # fmt: skip
        self._chunk_seconds = {rpc: chunk_seconds.labels(rpc) for rpc in _BULK}

    def _define_feed(self) -> None:
        self._connected = self._gauge("ndoo_feed_connected", "1 while the feed answers")
        self._resyncs = self._counter(
            "ndoo_resyncs", "Reloads of the snapshot after a fault in the feed, by reason",
            ("reason",),
        )  # fmt: skip
        self._feed_refused = self._counter(
            "ndoo_feed_refused", "Snapshots and changes refused, by reason", ("reason",)
        )
        _create(self._resyncs, RESYNCS)
        _create(self._feed_refused, FEED_REFUSALS)
        changes = self._counter("ndoo_changes_applied", "Changes applied, by kind", ("kind",))
        self._changes = {kind: changes.labels(kind.value) for kind in Kind}
        self._recorded_at = 0.0  # the last change applied
        self._publish_seconds = self._histogram(
            "ndoo_publish_seconds", "Time to apply a batch of changes and make the new view",
            buckets=PUBLISH_SECONDS,
        )  # fmt: skip
        self._lag_seconds = self._histogram(
            "ndoo_feed_lag_seconds",
            "Time from the recording of a change in the feed to its publication; two clocks",
            buckets=LAG_SECONDS,
        )
        self._lag_changes = self._gauge(
            "ndoo_feed_lag_changes", "Changes that the feed was seen to hold beyond those applied"
        )
        self._snapshot_at = self._gauge(
            "ndoo_snapshot_timestamp_seconds",
            "When the newest snapshot seen in the feed was made; 0 before one was",
        )

    def _define_state(self) -> None:
        self._state_as_of = self._gauge(
            "ndoo_state_as_of_timestamp_seconds",
            "Moment until which the register in the state directory is complete; 0 without one",
        )
        self._state_refused = self._counter(
            "ndoo_state_refused", "Failures to read or write the state directory, by reason",
            ("reason",),
        )  # fmt: skip
        _create(self._state_refused, STATE_REFUSALS)

    def _define_guards(self) -> None:
        self._audit_records = self._counter("ndoo_audit_records", "Audit records kept")
        self._audit_failing = self._gauge(
            "ndoo_audit_failing", "1 while audit records cannot be kept"
        )
        self._certificate_expiry = self._gauge(
            "ndoo_certificate_expiry_timestamp_seconds", "When the certificate in use expires",
            ("certificate",),
        )  # fmt: skip
        self._certificate_refused = self._gauge(
            "ndoo_certificate_refused",
            "1 while a newer file is broken and the certificate before it stays in use",
            ("certificate",),
        )
        self._policy_at = self._gauge(
            "ndoo_policy_timestamp_seconds", "When the file of clients was read; 0 without one"
        )
        self._policy_refused = self._gauge(
            "ndoo_policy_refused",
            "1 while a newer file of clients is broken and the one before it stays in use",
        )
        self._budget_store_failing = self._gauge(
            "ndoo_budget_store_failing", "1 while spent budgets cannot be read or written"
        )

    def _define_clients(self) -> None:
        self._client_numbers = self._counter(
            "ndoo_client_numbers", "NHS numbers that a client asked about", ("client",)
        )
        self._client_budget = self._gauge(
            "ndoo_client_budget_remaining", "NHS numbers that a client may still ask about today",
            ("client",),
        )  # fmt: skip
        self._client_signal = self._gauge(
            "ndoo_client_signal", "1 while what a client asks looks unusual, by signal",
            ("client", "signal"),
        )  # fmt: skip
        self._clients: frozenset[str] = frozenset()

    def _define_process(self, version: str) -> None:
        self._loop_lag = self._gauge(
            "ndoo_event_loop_lag_seconds", "How late the event loop was when last looked at"
        )
        self._loop_stalls = self._counter(
            "ndoo_event_loop_stalls", "Times that the event loop was blocked for too long"
        )
        self._log_suppressed = self._counter(
            "ndoo_log_suppressed", "Events not logged because there were too many of their kind"
        )
        self._gauge(
            "ndoo_build_info", "1, with the versions of the software and of Python",
            ("version", "python"),
        ).labels(version, platform.python_version()).set(1)  # fmt: skip

    def call(self, grpc_type: str, service: str, method: str) -> CallMetrics:
        """The metrics of one method, every series of it created."""
        labels = (grpc_type, service, method)
        return CallMetrics(
            self._started.labels(*labels),
            self._received.labels(*labels),
            self._sent.labels(*labels),
            self._seconds.labels(*labels),
            {code: self._handled.labels(*labels, code) for code in CODES},
            self._numbers.get(method, {}),
            self._chunk_seconds.get(method),
        )

    def count_refusal(self, reason: str) -> None:
        self._refused.labels(reason).inc()

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

    def on_behind(self, changes: int) -> None:
        self._lag_changes.set(changes)

    def on_snapshot(self, made_at: float) -> None:
        self._snapshot_at.set(made_at)

    def on_state_kept(self, as_of: float) -> None:
        self._state_as_of.set(as_of)

    def on_state_refused(self, reason: str) -> None:
        self._state_refused.labels(reason).inc()

    def on_audit_record(self) -> None:
        self._audit_records.inc()

    def on_audit_failing(self, failing: bool) -> None:
        self._audit_failing.set(failing)

    def on_certificate(self, name: str, not_after: float) -> None:
        self._certificate_expiry.labels(name).set(not_after)

    def on_certificate_refused(self, name: str, refused: bool) -> None:
        self._certificate_refused.labels(name).set(refused)

    def on_policy(self, loaded_at: float) -> None:
        self._policy_at.set(loaded_at)

    def on_policy_refused(self, refused: bool) -> None:
        self._policy_refused.set(refused)

    def on_clients(self, names: Collection[str]) -> None:
        """These are the clients now: their series begin, those of others end."""
        for gone in self._clients.difference(names):
            for metric in (self._client_numbers, self._client_budget, self._client_signal):
                metric.remove_by_labels({"client": gone})
        self._clients = frozenset(names)
        _create(self._client_numbers, names)

    def on_spent(self, client: str, numbers: int) -> None:
        self._client_numbers.labels(client).inc(numbers)

    def on_budget(self, client: str, remaining: int) -> None:
        self._client_budget.labels(client).set(remaining)

    def on_signal(self, client: str, signal: str, raised: bool) -> None:
        self._client_signal.labels(client, signal).set(raised)

    def on_budget_store_failing(self, failing: bool) -> None:
        self._budget_store_failing.set(failing)

    def on_loop_lag(self, seconds: float) -> None:
        self._loop_lag.set(seconds)

    def on_loop_stall(self) -> None:
        self._loop_stalls.inc()

    def on_log_suppressed(self, count: int) -> None:
        self._log_suppressed.inc(count)


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
        yield GaugeMetricFamily(
            "ndoo_staleness_max_seconds",
            "Age of a register over which it answers nothing any more",
            self._replica.staleness_s_max,
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


def _create(counter: Counter, labels: Iterable[str]) -> None:
    """Have every series of *counter* begin at zero."""
    for label in labels:
        counter.labels(label)
