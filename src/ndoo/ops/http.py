"""The small HTTP endpoint beside the gRPC port: /metrics, /livez, /readyz.

It runs in a thread of its own, so that it answers while the event loop is busy. /livez says that
the process runs, and depends on nothing else; /readyz says whether a check asked now would be
answered.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ndoo.config import split_address
from ndoo.errors import InputError
from ndoo.ops.logs import log_event

_TEXT = "text/plain; charset=utf-8"
_THERE_IS = b"There is GET /metrics, /livez and /readyz.\n"
_IDLE_S_MAX = 5.0


class HttpEndpoint:
    """Serves *registry* and the two probes on *listen* ("HOST:PORT") until closed.

    Raises InputError if it cannot listen there. What a caller sends is never repeated to anybody.
    """

    def __init__(
        self, listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        try:
            self._server = _Server(split_address(listen), _handler(registry, is_ready))
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
    """A thread a connection, and no look-up of names: a slow resolver must not delay the start."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, *_where: Any) -> None:
        """Callers that go away are no events; a fault of ours is one, without its words."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log_event("error", "http_failed", error=type(error).__name__)


def _handler(
    registry: CollectorRegistry, is_ready: Callable[[], bool]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE_S_MAX
        server_version = "ndoo"
        sys_version = ""

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, content_type, encode(registry))
                case "/livez":
                    self._answer(200, _TEXT, b"alive\n")
                case "/readyz":
                    ready = is_ready()
                    self._answer(
                        200 if ready else 503, _TEXT, b"ready\n" if ready else b"not ready\n"
                    )
                case _:
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
