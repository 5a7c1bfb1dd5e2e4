"""Replicas behind one name, as a headless Service has them: whoever follows docs/balancing.md has
all of them in use, finds those that come, and misses none that goes.
"""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from ndoo.client import Client, Tls, check, check_stream
from ndoo.nhs_number import Numbers
from ndoo.v1 import check_pb2, check_pb2_grpc
from support.certificates import Authority
from support.dns import NameServer
from support.load import OPTED_OUT, PEOPLE, Load, asking, judge
from support.pages import Reader, steps
from support.people import number, opt_out
from support.places import Place
from support.service import Service, free_port

PAGE = "docs/balancing.md"
NAME = "ndoo-headless.ndoo.svc"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
ASKED_FOR = {"Check", "BatchCheck", "StreamCheck", "CheckSet", "GetRegister"}
"""By the client, except BatchCheck by the one for asyncio, and GetRegister by a stock channel."""

ROUNDS_MAX = 2000
_CALLS = re.compile(r'^grpc_server_handled_total\{.*grpc_method="(\w+)".*\} (\S+)$', re.MULTILINE)


class Replica(Service):
    """One of those that share a name, a certificate and a port."""

    def __init__(self, feed: str, host: str, ports: tuple[int, int], *flags: str) -> None:
        self._metrics = f"http://{host}:{ports[1]}/metrics"
        flags = (*flags, "--connection-age-s", "1", "--http-listen", f"{host}:{ports[1]}")
        super().__init__(feed, *flags, address=f"{host}:{ports[0]}")

    def answered(self) -> dict[str, float]:
        """How many calls, by method."""
        with urllib.request.urlopen(self._metrics) as told:
            found = _CALLS.findall(told.read().decode())
        return {
            method: sum(float(count) for of, count in found if of == method) for method in ASKED_FOR
        }


class Replicas:
    """Those of one feed, and the name that they are found by."""

    def __init__(self, folder: Path, feed: str, ending: contextlib.ExitStack) -> None:
        authority = Authority(folder, "ca")
        secret = authority.issue("server", names=f"DNS:{NAME}")
        self.tls = Tls(ca=authority.cert)
        self.name = NameServer(NAME)
        ending.callback(self.name.close)
        self._feed, self._ending = feed, ending
        self._ports = free_port(), free_port()
        self._flags = "--tls-certificate", str(secret.cert), "--tls-key", str(secret.key)
        self.target = self.name.target(self._ports[0])

    def start(self, host: str) -> Replica:
        replica = Replica(self._feed, host, self._ports, *self._flags)
        self._ending.callback(replica.kill)
        return replica

    def start_two(self) -> tuple[Replica, Replica]:
        """Behind the name already."""
        self.name.addresses = HOSTS[:2]
        return self.start(HOSTS[0]), self.start(HOSTS[1])


@pytest.fixture
def feed(directory_place: Place) -> Place:
    directory_place.loaded(*OPTED_OUT)
    return directory_place


@pytest.fixture
def replicas(feed: Place, tmp_path: Path) -> Iterator[Replicas]:
    with contextlib.ExitStack() as ending:
        yield Replicas(tmp_path, feed.url, ending)


def stock(replicas: Replicas, folder: Path) -> Callable[[], None]:
    """What asks about some people, and judges the answers, as the page says for a stock channel:
    in *folder* lies the certificate of the authority. What the page says is printed is printed.
    """
    reader = Reader(folder, "")
    for step in steps(PAGE):
        code = step.code.replace(f"dns:///{NAME}:50551", replicas.target)
        assert code != step.code
        reader.follow(replace(step, code="import ndoo.client\n" + code.replace("ca.crt", "ca.pem")))
    stub = reader.names["stub"]
    assert isinstance(stub, check_pb2_grpc.OptOutCheckStub)

    def ask() -> None:
        for person in range(20):
            answer = stub.Check(check_pb2.CheckRequest(nhs_number=number(person)), timeout=30)
            assert (answer.verdict == check_pb2.VERDICT_CLEARED) == (person not in OPTED_OUT)
        stub.GetRegister(check_pb2.GetRegisterRequest(), timeout=30)

    return ask


def go_on_until(load: Load, is_so: Callable[[], object]) -> None:
    assert any(is_so() or load.go_on() for _ in range(ROUNDS_MAX))


def until_all_asked(load: Load, *replicas: Replica) -> None:
    """Go on until each kind of load has reached each of *replicas* anew."""
    for each in replicas:
        before = each.answered()
        go_on_until(load, lambda: all(map(float.__gt__, each.answered().values(), before.values())))  # noqa: B023


def test_a_new_replica_is_found_and_old_ones_may_go(
    replicas: Replicas, feed: Place, tmp_path: Path
) -> None:
    """By calls of every kind. What only the old ones can answer is answered by them."""
    first, second = replicas.start_two()
    with (
        asking(replicas.target, stock(replicas, tmp_path), tls=replicas.tls) as load,
        Client(replicas.target, tls=replicas.tls) as client,
    ):
        until_all_asked(load, first, second)
        earlier = client.revision().token
        publisher = feed.publisher()
        publisher.append([opt_out(6000)])
        publisher.snapshot()
        third = replicas.start(HOSTS[2])
        of_the_past = Load(lambda: judge(client.check_many(PEOPLE, exactly_at=earlier)))
        replicas.name.addresses = HOSTS
        until_all_asked(load, third, first, second)
        of_the_past.go_on()
        of_the_past.close()
        for going, left in ((first, HOSTS[1:]), (second, HOSTS[2:])):
            replicas.name.addresses = left
            going.stop()
            load.go_on()


def test_replicas_that_die_are_not_missed_while_nobody_knows_the_name(
    replicas: Replicas, tmp_path: Path
) -> None:
    """The addresses that were known last are used."""
    name = replicas.name
    pair = replicas.start_two()
    with asking(replicas.target, stock(replicas, tmp_path), tls=replicas.tls) as load:
        until_all_asked(load, *pair)
        name.addresses = ()
        for replica in pair:
            load.go_on()
            replica.kill()
            load.go_on()
            replica.start()
            until_all_asked(load, replica)
        go_on_until(load, lambda: name.missed)


def test_without_the_policy_one_replica_has_all_calls_and_a_stream_outlives_its_connection(
    replicas: Replicas,
) -> None:
    """Looking the name up again is what gRPC does when the age of a connection has ended it."""
    pair = replicas.start_two()
    options = [("grpc.dns_min_time_between_resolutions_ms", 100)]
    credentials = replicas.tls.credentials()
    with grpc.secure_channel(replicas.target, credentials, options) as channel:

        def chunks() -> Iterator[Numbers]:
            yield PEOPLE[:1000]
            enough = replicas.name.found + 2
            for _ in range(ROUNDS_MAX * ROUNDS_MAX):
                check(channel, number(0))
                if replicas.name.found >= enough:
                    break
            yield PEOPLE[1000:]

        before = replicas.name.found
        with check_stream(channel, chunks(), in_flight_max=1) as stream:
            cleared = sum(int(answer.cleared_mask().sum()) for answer in stream)
        assert stream.summary.cleared == cleared == len(PEOPLE) - len(OPTED_OUT)
    assert replicas.name.found >= before + 2
    calls = [replica.answered() for replica in pair]
    assert min(each["Check"] for each in calls) == 0
    assert sum(each["StreamCheck"] for each in calls) == 1
