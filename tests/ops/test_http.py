"""What the HTTP endpoint tells of a fault of its own."""

from __future__ import annotations

import socket

import pytest
from prometheus_client import CollectorRegistry

from ndoo.config import split_address
from ndoo.ops.http import HttpEndpoint
from support.people import number


def test_a_fault_is_told_with_its_place_and_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> bool:
        raise ValueError(number(0))

    endpoint = HttpEndpoint(
        "127.0.0.1:0", CollectorRegistry(), has_started=broken, is_ready=broken
    )  # fmt: skip
    try:
        with socket.create_connection(split_address(endpoint.address)) as caller:
            caller.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert caller.recv(100) == b""
    finally:
        endpoint.close()
    (event,) = (record for record in caplog.records if record.message == "http_failed")
    assert event.fields["error"] == "ValueError"
    assert ".broken:" in event.fields["where"]
    assert number(0) not in caplog.text
