"""A real server on a real port, over a replica that the test itself publishes to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from ndoo import nhs_number
from ndoo.config import Settings
from ndoo.ops.audit import Audit
from ndoo.ops.metrics import Metrics
from ndoo.register.register import Flips
from ndoo.register.replica import Phase, Replica, State
from ndoo.register.view import View
from ndoo.revision import Revision
from ndoo.server.access import Door
from ndoo.server.call import Traces
from ndoo.server.server import Server
from ndoo.v1 import check_pb2_grpc

FIRST_KEY = 999_000_000
KEYS = np.arange(FIRST_KEY, FIRST_KEY + 900_000, dtype=np.uint32)
NUMBERS = nhs_number.numbers_of(KEYS[nhs_number.check_digits(KEYS) != 10])
"""Valid numbers of the range that is kept for tests."""

GENERATION = "tests"


@dataclass
class House:
    """The server under test, what it answers from, and how to reach it."""

    replica: Replica
    server: Server
    metrics: Metrics
    address: str
    channel: grpc.aio.Channel
    opted_out: set[int] = field(default_factory=set)

    @property
    def stub(self) -> check_pb2_grpc.OptOutCheckStub:
        return check_pb2_grpc.OptOutCheckStub(self.channel)

    def publish(self, numbers: set[int], seq: int = 0, **state: object) -> None:
        """Make exactly *numbers* the register, whole and confirmed now."""
        self.opted_out = set(numbers)
        view = view_of(numbers, seq)
        fields = {"phase": Phase.LIVE, "view": view, "as_of": time.time(), "trouble": ""} | state
        self.replica.publish(State(**fields))

    def opt_out(self, number: int) -> None:
        """One change more, as the follower would publish it."""
        view = self.replica.state.view
        self.opted_out.add(number)
        flips = Flips(np.array([number // 10], np.uint32), np.array([], np.uint32))
        revision = Revision(GENERATION, view.revision.seq + 1)
        new = view.with_flips(flips, revision)
        self.replica.publish(State(Phase.LIVE, new, time.time(), trouble=""))


def view_of(numbers: set[int], seq: int = 0, generation: str = GENERATION) -> View:
    keys = np.array(sorted(number // 10 for number in numbers), dtype=np.uint32)
    return View.of(keys, Revision(generation, seq))


MakeHouse = Callable[..., object]


@pytest.fixture
async def make_house() -> AsyncIterator[MakeHouse]:
    opened: list[tuple[Server, grpc.aio.Channel]] = []

    async def make(
        *,
        door: Door | None = None,
        audit: Audit | None = None,
        traces: Traces | None = None,
        **settings: object,
    ) -> House:
        given = {"feed": "dir:unused", "listen": "127.0.0.1:0", "grace_s": 5.0} | settings
        checked = Settings.from_env({}, **given)
        replica = Replica(checked.staleness_s_max)
        metrics = Metrics(replica, "test")
        server = Server(checked, replica, metrics, "test", door=door, audit=audit, traces=traces)
        address = await server.start()
        channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        opened.append((server, channel))
        return House(replica, server, metrics, address, channel)

    yield make
    for server, channel in opened:
        await channel.close()
        await server.stop()


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    """A server in which every third test number is opted out."""
    made = await make_house()
    made.publish(set(NUMBERS[::3].tolist()))
    return made
