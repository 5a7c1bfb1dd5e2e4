"""The small HTTP endpoint beside the gRPC port: /metrics, /livez, /readyz.

It runs in a thread of its own, so that it answers while the event loop is busy. /livez says that
the process runs, and depends on nothing else; /readyz says whether a check asked now would be
answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ndoo.errors import InputError

_TEXT = "text/plain; charset=utf-8"
_IDLE_S_MAX = 5.0


class HttpEndpoint:
    """Serves *registry* and the two probes on *listen* ("HOST:PORT") until closed."""

    def __init__(
        self, listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._server = ThreadingHTTPServer((host, int(port)), _handler(registry, is_ready))
        except (OSError, OverflowError):
            raise InputError(
                f"Cannot listen on {listen}; choose a free port of this machine with "
                "--http-listen HOST:PORT."
            ) from None
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="http", kwargs={"poll_interval": 0.1}
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
                    self._answer(404, _TEXT, b"There is /metrics, /livez and /readyz.\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Probes and scrapes are no events."""

    return Handler
