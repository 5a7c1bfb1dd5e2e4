"""What befalls the deployments: a fault or more for each, and for one of them none."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator

import grpc

from ndoo.client import Client
from ndoo.publish.source import Terms
from ndoo.register.changes import Change, Kind
from ndoo.revision import Revision
from ndoo.v1 import check_pb2, check_pb2_grpc
from ops.deployments import World
from support.people import number, opt_in, opt_out
from support.places import DirectoryHarm, bitmap

_BREATH_S = 0.05


def healthy(world: World, stop: threading.Event) -> None:
    """Checks, single and in bulk, and changes, without a fault, until told to stop."""
    addresses = [each.grpc for each in world.jobs["ndoo-healthy"].values()]
    publisher = world.publishers["healthy"]
    with Client(addresses) as client:
        while not stop.wait(_BREATH_S):
            publisher.append([opt_out(200), opt_in(200)])
            assert not client.check(number(1))
            assert client.filter([number(1), number(300)]) == [number(300)]


def apart(world: World) -> None:
    """Two replicas that come to hold different registers, and hear different things."""
    a, b = world.publishers["a"], world.publishers["b"]
    a.append([opt_out(150)])
    b.append([opt_in(1)])
    world.wait_until_fired("ndoo-apart", "NdooReplicasDisagree")
    a.append([opt_out(151)])
    world.wait_until_fired("ndoo-apart", "NdooReplicaBehind")
    a.append([Change(Kind.SUSPEND)])
    world.wait_until_fired("ndoo-apart", "NdooSuspended", "NdooSuspendedInPart")
    b.load(bitmap(*range(100)), Terms(accept_jump=True))


def away(world: World) -> None:
    """A feed that goes away and does not come back."""
    world.redis_away.kill()


def empty(world: World) -> None:
    """A replica that has nothing to answer from is asked all the same, and then shown nonsense."""
    with world.server("ndoo-empty").stub() as stub:
        _refused(stub.Check, check_pb2.CheckRequest(nhs_number=number(1)), times=30)
    raw = bytearray((world.feed("lost") / "snapshot").read_bytes())
    raw[-1] ^= 1
    (world.feed("empty") / "snapshot").write_bytes(raw)


def lost(world: World) -> None:
    """A feed that takes back what it had published; then the process dies."""
    server = world.server("ndoo-lost")
    token = world.publishers["lost"].append([opt_out(150), opt_out(151)]).token
    with server.stub() as stub:
        asked = check_pb2.CheckRequest(nhs_number=number(1), at_least_as_fresh=token)
        stub.Check(asked, timeout=30)
    DirectoryHarm(world.feed("lost")).remove_last()
    world.wait_until_fired("ndoo-lost", "NdooFeedLost", "NdooResyncLoop")
    server.process.kill()


def restarted(world: World) -> None:
    """A process that ends, and is started anew where it was, again and again."""
    for times in range(1, 4):
        world.restart("ndoo-restarted")
        started = 'process_start_time_seconds{job="ndoo-restarted"}'
        world.prometheus.wait_for(f"changes({started}[10m]) >= {times}")


def signs(world: World) -> None:
    """Signs of trouble that stop no answers, one after the other, on one server."""
    with world.server("ndoo-signs").stub() as stub:
        _fill(stub)
        reached = world.publishers["signs"].append([opt_out(each) for each in range(150)])
        _wait_in_vain(stub, reached)
    DirectoryHarm(world.feed("signs")).append_raw({"seq": "151", "op": "from the future"})


def blocked(world: World) -> None:
    """An event loop that does not run."""
    world.jobs["ndoo-blocked"]["one"].begin.set()


def guarded(world: World) -> None:
    """Clients that ask too much, or what nobody should; then files that break."""
    some = [number(person) for person in range(200, 220)]
    _refuses(world, "stranger", some[:1], times=15)
    _refuses(world, "letters", some, times=15)
    _refuses(world, "daily", some)
    _is_held_back(world, "hasty", some[:2])
    _refuses(world, "prober", range(10**10, 10**10 + 20_000))  # of eleven digits
    world.budgets.kill()
    _refuses(world, "letters", some[:1])
    world.policy.write_text("[clients.letters\n", "utf-8")
    shutil.copyfile(world.authority.cert, world.certificate.cert)  # the key is another's
    _refuses(world, "stranger", some[:1])  # at a new connection the files are looked at


def _refuses(world: World, name: str, numbers: list[str] | range, *, times: int = 1) -> None:
    """The client *name* asks the guarded server, and gets no answer."""
    asked = check_pb2.BatchCheckRequest(nhs_numbers=[int(each) for each in numbers])
    with world.server("ndoo-guarded").stub(world.credentials(name)) as stub:
        _refused(stub.BatchCheck, asked, times=times)


def _is_held_back(world: World, name: str, numbers: list[str]) -> None:
    """The client *name* streams faster than it may, and waits for its answers."""
    message = check_pb2.StreamCheckRequest(nhs_numbers=[int(each) for each in numbers])
    with world.server("ndoo-guarded").stub(world.credentials(name)) as stub:
        assert len(list(stub.StreamCheck(iter([message, message])))) == 3


def _fill(stub: check_pb2_grpc.OptOutCheckStub) -> None:
    """Take the one place for streams that there is, and ask for others."""
    message = check_pb2.StreamCheckRequest(nhs_numbers=[int(number(300))])
    ended = threading.Event()

    def messages() -> Iterator[check_pb2.StreamCheckRequest]:
        yield message
        ended.wait()

    stream = stub.StreamCheck(messages())
    assert next(stream).chunk.count == 1

    def ask(request: check_pb2.StreamCheckRequest, timeout: float) -> list[object]:
        return list(stub.StreamCheck(iter([request]), timeout))

    _refused(ask, message, times=20)
    ended.set()
    assert [each.HasField("summary") for each in stream] == [True]


def _wait_in_vain(stub: check_pb2_grpc.OptOutCheckStub, reached: Revision) -> None:
    """Demand a revision that does not come."""
    never = Revision(reached.generation, reached.seq + 1_000_000).token
    asked = check_pb2.CheckRequest(nhs_number=number(1), at_least_as_fresh=never)
    waiting = [stub.Check.future(asked, timeout=0.2) for _ in range(40)]
    for each in waiting:
        assert each.exception() is not None


def _refused(call: Callable[..., object], request: object, *, times: int) -> None:
    for _ in range(times):
        try:
            call(request, timeout=30)
        except grpc.RpcError:
            continue
        raise AssertionError("it was answered")
