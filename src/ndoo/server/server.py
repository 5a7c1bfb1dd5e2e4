"""Start and stop of the gRPC service, in order.

Up: handlers, health, reflection, then the port. Down: health says NOT_SERVING first, new calls are
refused, running calls get their grace, and streams still running at its end are told to retry. Why
connections and streams live as long as they do: docs/adr/0010-life-of-connections.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from ndoo.config import Settings
from ndoo.errors import InputError, NotAnswering
from ndoo.ops.audit import Audit, AuditFailed, NoAudit
from ndoo.ops.metrics import Metrics
from ndoo.register.replica import Replica, State
from ndoo.server.access import Door, OpenDoor
from ndoo.server.activity import Activity
from ndoo.server.call import Traces
from ndoo.server.calls import SERVICE_NAME, Calls
from ndoo.server.health import NOT_SERVING, SERVING, Health
from ndoo.server.limits import Limits
from ndoo.server.ports import HealthPort, certificates_of, open_port
from ndoo.server.service import Service

LIVENESS = ""
HTTP2_FRAME_BYTES = 4 * 1024 * 1024
BULK_NICENESS = 10
HEALTH_CHECK_S = 0.5
"""How often readiness is looked at besides each publication: going stale is no event, only time."""

KEEPALIVE_MS = 60_000
"""How often a silent connection is tried, so that a caller who vanished does not keep a stream."""

CALLS_PER_CONNECTION_MAX = 256
"""More wait in the caller's own gRPC, so that one connection cannot fill the memory here."""

HANDSHAKE_MS = 10_000
"""What a connection may take until it speaks TLS and HTTP/2."""

METADATA_BYTES_MAX = 16 * 1024
"""A certificate's names are not in it, a token is: 16 KiB hold the largest that anybody issues."""

_QUIET_S = 0.05
_LEAVE_S_MAX = 1.0
"""So long without a call means that all callers have left; they get so much time to."""

_CUT_OFF_S = 1.0
"""What a stream that was told to end gets to send its status."""


class Server:
    """The gRPC service on one port. Make it, `start` it and `stop` it on one event loop."""

    def __init__(
        self,
        settings: Settings,
        replica: Replica,
        metrics: Metrics,
        version: str,
        *,
        door: Door | None = None,
        audit: Audit | None = None,
        traces: Traces | None = None,
    ) -> None:
        if settings.clients and door is None:
            raise RuntimeError("only some may call, and there is no door that knows them")
        self._settings = settings
        self._replica = replica
        self._metrics = metrics
        self._version = version
        self._door = door or OpenDoor()
        self._audit = audit or NoAudit()
        self._traces = traces
        self._has_started = False
        self._is_stopping = False
        self._hurried = asyncio.Event()
        self._health = Health()
        self._health_port: HealthPort | None = None
        self.health_address = ""  # of the port for health alone, once it is open
        self._executor = ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="check", initializer=_step_back
        )

    async def start(self) -> str:
        """Open the ports and return HOST:PORT as the main one came to be.

        Raises InputError if one is taken, or the files of TLS cannot be used.
        """
        self._certificates = certificates_of(self._settings, self._metrics)
        limits = Limits.of(self._settings)
        activity = Activity(self._metrics.registry, time.time)
        self._service = Service(
            self._replica, limits, self._executor, self._version, activity.message
        )
        self._calls = Calls(
            self._service, self._metrics, limits, self._door, self._audit, self._traces
        )
        self._grpc = grpc.aio.server(
            options=[
                *channel_options(self._settings.message_bytes_max),
                *_life_options(self._settings),
            ]
        )
        try:
            address = open_port(self._grpc, self._settings.listen, self._certificates)
            await self._open_health_port()
        except InputError:
            await self._grpc.stop(None)
            raise
        self._grpc.add_generic_rpc_handlers((self._calls.generic_handler(),))
        self._add_health()
        if _offers_reflection(self._settings):
            reflection.enable_server_reflection(
                (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
            )
        await self._grpc.start()
        self._certificate_watch = asyncio.create_task(self._watch_certificates())
        return address

    @property
    def has_tls(self) -> bool:
        """Whether callers must speak TLS."""
        return self._certificates is not None

    async def stop(self) -> None:
        """Stop as the module says; returns when every call has ended and the port is closed."""
        self._is_stopping = True
        self._health_watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._health_watch
        self._health.end()
        self._calls.refuse_new()
        await self._grace()
        self._calls.end_streams()
        await self._until_callers_leave()
        await self._grpc.stop(_CUT_OFF_S)
        self._certificate_watch.cancel()
        if self._health_port is not None:
            await self._health_port.stop()
        self._executor.shutdown()

    async def _grace(self) -> None:
        """Wait until all calls have ended, for as long as they are given."""
        waiting = {
            asyncio.create_task(self._calls.wait_until_done()),
            asyncio.create_task(self._hurried.wait()),
        }
        await asyncio.wait(
            waiting, timeout=self._settings.grace_s, return_when=asyncio.FIRST_COMPLETED
        )
        for each in waiting:
            each.cancel()

    async def _until_callers_leave(self) -> None:
        """Wait a moment for callers to have heard that they are to go elsewhere.

        From when gRPC itself stops, calls that have come and were not looked at yet end as
        CANCELLED, which tells nobody to try again.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S_MAX):
                while (left_s := _QUIET_S - self._calls.quiet_s) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(left_s)  # for nothing to happen there is no event

    def hurry(self) -> None:
        """End the grace of `stop`, now or as soon as it begins."""
        self._hurried.set()

    def is_ready(self) -> bool:
        """Whether a check asked now would be answered. For any thread."""
        return not self._is_stopping and is_ready(self._replica, self._audit)

    def has_started(self) -> bool:
        """Whether there ever was a verified register here. For any thread."""
        return self._has_started or self._replica.state.view is not None

    async def _open_health_port(self) -> None:
        if self._settings.health_listen:
            self._health_port = HealthPort(self._settings.health_listen, self._health)
            self.health_address = await self._health_port.start()

    async def _watch_certificates(self) -> None:
        if self._certificates is not None:
            await self._certificates.watch()

    def _add_health(self) -> None:
        self._grpc.add_generic_rpc_handlers((self._health.generic_handler(),))
        self._health.set(LIVENESS, SERVING)
        self._health.set(SERVICE_NAME, NOT_SERVING)
        self._health_watch = asyncio.create_task(self._keep_readiness())

    async def _keep_readiness(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def on_publication(state: State) -> None:
            self._has_started = self._has_started or state.view is not None
            loop.call_soon_threadsafe(changed.set)

        self._replica.listen(on_publication)
        while True:
            ready = self.is_ready()
            self._health.set(SERVICE_NAME, SERVING if ready else NOT_SERVING)
            # Not wait_for: until Python 3.12 it can swallow a cancellation, and `stop` would hang.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_CHECK_S):
                    await changed.wait()
            changed.clear()


def _step_back() -> None:
    """Let the event loop go first. On two cores beside two bulk streams, single checks that took 25
    ms at the 99th percentile take 8 then, and the streams lose nothing.
    """
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BULK_NICENESS)


def is_ready(replica: Replica, audit: Audit) -> bool:
    """Whether a check asked now would be answered."""
    try:
        audit.refuse_if_failing()
        replica.answering_state(time.time())
    except (AuditFailed, NotAnswering):
        return False
    return True


def channel_options(message_bytes_max: int) -> list[tuple[str, int]]:
    """How the service sets up gRPC; for benchmarks that compare with bare gRPC, too."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", -1),
        # A message of a megabyte in one frame in place of 64: some 1 ns a number less.
        ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it silently
        # No compression: a small compressed message may claim a lot of memory and time.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS // 3),
        ("grpc.http2.max_pings_without_data", 0),
        # Idle streams may be kept open by pings, but not by a flood of them.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _life_options(settings: Settings) -> list[tuple[str, int]]:
    """How long connections live, and what one of them may bring."""
    return [
        ("grpc.max_connection_age_ms", int(settings.connection_age_s * 1000)),
        # No stream is cut by the age of its connection before it reaches its own limit.
        ("grpc.max_connection_age_grace_ms", int(settings.stream_s_max * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
        # With it, callers who keep to that number are refused as well: gRPC counts calls here that
        # have ended for the caller already.
        ("grpc.http.overload_protection", 0),
        # Both, or gRPC refuses what lies between them at random.
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    ]


def _offers_reflection(settings: Settings) -> bool:
    """By default only while everybody may ask everything: it tells strangers what there is."""
    return settings.reflection == "true" or (settings.reflection == "auto" and not settings.clients)
