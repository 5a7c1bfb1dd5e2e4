"""The small HTTP endpoint beside the gRPC port: /metrics, /livez, /startupz, /readyz.

It runs in threads of its own, so that it answers while the event loop is busy. /livez says that the
process runs, and depends on nothing else; /startupz whether a verified register was ever here;
/readyz whether a check asked now would be answered. When all threads are taken, whoever has held
one longest gives way: slow callers, however many, do not keep a probe out.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ndoo.config import split_address
from ndoo.errors import InputError
from ndoo.ops.logs import log_event, place

_TEXT = "text/plain; charset=utf-8"
_THERE_IS = b"There is GET /metrics, /livez, /startupz and /readyz.\n"
_IDLE_S_MAX = 5.0
_CALLERS_MAX = 16
_GIVE_WAY_S = 1.0

Probe = Callable[[], bool]
"""Asked in a thread of the endpoint."""

Probes = Mapping[str, tuple[str, Probe]]
"""What a path is asked for, in a word."""


class HttpEndpoint:
    """Serves *registry* and the probes on *listen* ("HOST:PORT") until closed.

    Raises InputError if it cannot listen there. What a caller sends is never repeated to anybody.
    """

    def __init__(
        self, listen: str, registry: CollectorRegistry, *, has_started: Probe, is_ready: Probe
    ) -> None:
        probes: Probes = {
            "/livez": ("alive", lambda: True),
            "/startupz": ("started", has_started),
            "/readyz": ("ready", is_ready),
        }
        try:
            self._server = _Server(split_address(listen), _handler(registry, probes))
        except OSError:
            raise InputError(
                f"Cannot listen on {listen}; choose a free port of this machine with "
                "--http-listen HOST:PORT."
            ) from None
        self.address = f"{listen.rpartition(':')[0]}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="http", kwargs={"poll_interval": 0.1}
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """A thread a connection, so many at once, the oldest of which gives way to a new one.

    No look-up of names: a slow resolver must not delay the start.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._callers: dict[socket.socket, None] = {}  # the oldest first
        self._free = threading.Semaphore(_CALLERS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called in the one thread that accepts connections."""
        if not self._free.acquire(blocking=False):
            _hang_up(next(iter(list(self._callers)), None))
            if not self._free.acquire(timeout=_GIVE_WAY_S):
                self.shutdown_request(request)
                return
        self._callers[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._callers.pop(request, None)
            self._free.release()

    def handle_error(self, *_where: Any) -> None:
        """Callers that go away are no events; a fault of ours is one, without its words."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            log_event("error", "http_failed", error=type(error).__name__, where=place(error))


def _hang_up(caller: socket.socket | None) -> None:
    """End the connection, on which its thread notices that and ends too."""
    with contextlib.suppress(OSError):
        if caller is not None:
            caller.shutdown(socket.SHUT_RDWR)


def _handler(registry: CollectorRegistry, probes: Probes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE_S_MAX
        server_version = "ndoo"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, content_type, encode(registry))
            elif path in probes:
                word, is_so = probes[path]
                status, text = (200, f"{word}\n") if is_so() else (503, f"not {word}\n")
                self._answer(status, _TEXT, text.encode())
            else:
                self._answer(404, _TEXT, _THERE_IS)

        do_HEAD = do_GET  # noqa: N815  (named by http.server)

        def send_error(self, code: int, *_words: str | None) -> None:
            """What http.server refuses; its own words would repeat the request."""
            self.close_connection = True
            self._answer(code, _TEXT, _THERE_IS)

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Probes and scrapes are no events."""

    return Handler
