from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from client.fake_service import FakeService, serving
from ndoo.client import open_channel


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def channel(service: FakeService) -> Iterator[grpc.Channel]:
    with serving(service) as address, open_channel(address) as channel:
        yield channel
