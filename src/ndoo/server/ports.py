"""The ports of the service: one with TLS or without, and one beside it for health alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from ndoo.config import Settings
from ndoo.errors import InputError

if TYPE_CHECKING:
    from ndoo.server.health import Health
    from ndoo.server.tls import CertificateObserver, Certificates

_HEALTH_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it silently
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.compression_enabled_algorithms_bitset", 1),
)


def certificates_of(settings: Settings, observer: CertificateObserver) -> Certificates | None:
    """What TLS needs, None where none is set. Raises InputError."""
    if not settings.tls_certificate:
        return None
    # A start without TLS is faster by what this takes to import.
    from ndoo.server.tls import Certificates  # noqa: PLC0415

    return Certificates(settings, observer)


def open_port(server: grpc.aio.Server, listen: str, certificates: Certificates | None) -> str:
    """Have *server* listen, in plaintext without *certificates*, and return HOST:PORT as it came to
    be. Raises InputError if the port is taken.
    """
    try:
        if certificates is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, certificates.credentials())
    except RuntimeError:
        port = 0
    if port == 0:
        raise InputError(
            f"Cannot listen on {listen}; choose a free port here with --listen HOST:PORT."
        )
    return f"{listen.rpartition(':')[0]}:{port}"


class HealthPort:
    """A plaintext port for probes that cannot do TLS. Nothing but *health* is reachable there."""

    def __init__(self, listen: str, health: Health) -> None:
        self._listen = listen
        self._grpc = grpc.aio.server(options=_HEALTH_OPTIONS)
        self._grpc.add_generic_rpc_handlers((health.generic_handler(),))

    async def start(self) -> str:
        """Open the port and return HOST:PORT. Raises InputError if it is taken."""
        try:
            address = open_port(self._grpc, self._listen, None)
        except InputError:
            await self._grpc.stop(None)
            raise InputError(
                f"Cannot listen on {self._listen}; choose a free port here with --health-listen "
                "HOST:PORT."
            ) from None
        await self._grpc.start()
        return address

    async def stop(self) -> None:
        await self._grpc.stop(None)
