"""A name server of one's own: one name, and the addresses that a test puts behind it."""

from __future__ import annotations

import socket
import threading

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

TTL_S = 5
"""What CoreDNS says of a headless Service."""

_PACKET_BYTES = 4096


class NameServer:
    """Answers over UDP, on a port of 127.0.0.1, that *name* has *addresses*; a test may change
    them at any time. Nobody has any other name, nor has *name* while there are none.
    """

    def __init__(self, name: str, *addresses: str) -> None:
        self.addresses = addresses
        self.is_down = False
        """While it is, everything is answered with SERVFAIL."""

        self.found = 0
        self.missed = 0
        """How often there were addresses to tell, and how often not."""

        self._name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def target(self, port: int) -> str:
        """What gRPC asks here, and nowhere else, for the addresses that have *port*."""
        return f"dns://127.0.0.1:{self._port}/{self._name}:{port}"

    @property
    def _port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self._port))
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        while True:
            packet, asker = self._socket.recvfrom(_PACKET_BYTES)
            if not packet:
                return
            self._socket.sendto(self._reply(DNSRecord.parse(packet)).pack(), asker)

    def _reply(self, question: DNSRecord) -> DNSRecord:
        reply = question.reply()
        if self.is_down:
            self.missed += 1
            reply.header.rcode = RCODE.SERVFAIL
        elif str(question.q.qname).rstrip(".") != self._name or not self.addresses:
            self.missed += 1
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype == QTYPE.A:
            self.found += 1
            for address in self.addresses:
                reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(address), ttl=TTL_S))
        return reply
