"""A line to a server that can be cut, stalled, reset or chopped, by the byte."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from enum import Enum

_NO_FAREWELL = struct.pack("ii", 1, 0)
_PIECE_BYTES = 65_536


class Fault(Enum):
    """What befalls a connection."""

    CUT = "cut"
    RESET = "reset"
    STALL = "stall"  # it stays open, and nothing comes any more
    HALF_OPEN = "half-open"  # the server's end is closed, and the client is not told
    CHOPPED = "chopped"  # a few bytes at a time, all of them


class Proxy:
    """Stands before the server at *target*, a port that may change; *struck* counts the faults that
    befell a connection.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.struck: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._way, self._left = "down", 0
        self._healed = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def strike(self, fault: Fault, *, way: str = "down", after: int = 0) -> None:
        """From now on, once *after* more bytes went *way* (to the server is up), *fault* befalls
        each connection on which more would go.
        """
        with self._lock:
            self._fault, self._way, self._left = fault, way, after
            self._healed.clear()

    def heal(self) -> None:
        """End the connections that the fault befell, and let new ones be."""
        with self._lock:
            self._fault = None
            self._healed.set()

    def close(self) -> None:
        self.heal()
        for each in (self._listener, *tuple(self._open)):
            _end(each)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the server is away
                _end(client)
                continue
            self._open |= {client, server}
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                thread = threading.Thread(target=self._carry, args=(source, sink, way))
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        fault = None
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                fault, allowed = self._befalls(way, len(piece))
                step = 7 if fault is Fault.CHOPPED else _PIECE_BYTES
                for start in range(0, allowed, step):
                    sink.sendall(piece[start : min(start + step, allowed)])
                if allowed < len(piece):
                    break
        if fault is Fault.HALF_OPEN:
            _end(source if way == "down" else sink)
        if fault in {Fault.STALL, Fault.HALF_OPEN}:
            self._healed.wait()
        for each in (source, sink):
            _end(each, farewell=fault is not Fault.RESET)
            self._open.discard(each)

    def _befalls(self, way: str, size: int) -> tuple[Fault | None, int]:
        """What befalls a piece of *size* bytes, and how many of them may go."""
        with self._lock:
            if self._fault is None or way != self._way:
                return None, size
            allowed, self._left = min(size, self._left), max(0, self._left - size)
            if allowed == size:
                return None, size
            self.struck[self._fault] += 1
            return self._fault, size if self._fault is Fault.CHOPPED else allowed


def _end(each: socket.socket, *, farewell: bool = True) -> None:
    with contextlib.suppress(OSError):
        if farewell:
            each.shutdown(socket.SHUT_RDWR)
        else:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_FAREWELL)
            each.shutdown(socket.SHUT_RD)  # wakes who reads from it, which would hold it open
    each.close()
