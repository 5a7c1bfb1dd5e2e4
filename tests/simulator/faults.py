"""Every kind of fault, by name. Each does its harm, or says that it cannot now.

Some strike at once and are counted here; others lie in wait for the next thing that they fit, and
are counted when they strike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from simulator.directory_storage import DirectoryStorage
from simulator.redis_storage import RedisStorage
from simulator.replicas import Follow
from simulator.world import KEEPERS, World

Fault = Callable[[World], bool]


def _at_once(name: str, harm: Callable[[World], bool]) -> Fault:
    def strike(world: World) -> bool:
        done = harm(world)
        if done:
            world.fired(name)
        return done

    return strike


def _of_storage(name: str, method: str) -> Fault:
    """A fault of the storage, which it must be in a state for."""

    def harm(world: World) -> bool:
        storage = world.storage
        up = not isinstance(storage, RedisStorage) or storage.server.up
        if not up or world.truth.tip is None or storage.damaged or storage.stored() is None:
            return False
        return getattr(storage, method)()

    return _at_once(name, harm)


def _tampering(method: str) -> Fault:
    """A snapshot that is not what it says, and a replica that comes to read it."""

    def strike(world: World) -> bool:
        storage = world.storage
        if world.truth.tip is None or not getattr(storage, method)():
            return False
        _someone(world).restart()
        world.schedule.later(world.rng.uniform(2.0, 10.0), storage.untamper)
        return True

    return strike


def _of_link(name: str, *, restart: bool) -> Fault:
    """A connection that ends when a replica does what *name* says."""

    def strike(world: World) -> bool:
        follow = _someone(world)
        follow.link.armed.add(name)
        if restart:
            follow.restart()
        return True

    return strike


def _someone(world: World) -> Follow:
    return world.rng.choice(world.follows)


def _restart(world: World) -> bool:
    _someone(world).restart()
    return True


def _slow_reader(world: World) -> bool:
    link = _someone(world).link
    link.slow = True

    def hurry() -> None:
        link.slow = False

    world.schedule.later(world.rng.uniform(5.0, 20.0), hurry)
    return True


def _clock_jump(sign: int) -> Callable[[World], bool]:
    def jump(world: World) -> bool:
        _someone(world).clock.jump(sign * world.rng.choice((1.0, 20.0, 55.0, 100.0, 5000.0)))
        return True

    return jump


def _answer_to_a_writer_lost(world: World) -> bool:
    actor = world.rng.choice([actor for actor in world.writers.values() if not actor.done])
    world.links[actor].armed.add("answer to a writer lost")
    return True


def _kill_a_writer(world: World) -> bool:
    actor = world.rng.choice([actor for actor in world.writers.values() if not actor.done])
    if isinstance(world.storage, DirectoryStorage):
        world.disk.doomed[actor] = world.rng.randrange(12)
    else:
        world.links[actor].armed.add("writer killed between steps")
    return True


def _disk_full(name: str, *, of_the_feed: bool) -> Fault:
    def strike(world: World) -> bool:
        disk = world.disk
        path = (
            world.storage.path if of_the_feed else world.rng.choice(world.follows[:KEEPERS]).state
        )
        disk.full, disk.full_under = name, str(path)

        def empty() -> None:
            disk.full = ""

        world.schedule.later(world.rng.uniform(2.0, 8.0), empty)
        return True

    return strike


def _damaged_state(world: World) -> bool:
    """A replica comes back to a file that was damaged or cut short."""
    follow = world.rng.choice(world.follows[:KEEPERS])
    files = [path for name in ("register", "confirmed") if (path := follow.state / name).exists()]
    if not files:
        return False
    path = world.rng.choice(files)
    raw = bytearray(path.read_bytes())
    at = world.rng.randrange(len(raw))
    raw[at] ^= 1 << world.rng.randrange(8)
    with path.open("wb") as file:
        file.write(raw[:at] if world.rng.random() < 0.5 else raw)
    follow.restart()
    return True


def _restart_without_the_feed(world: World) -> bool:
    """A replica has nothing but what it kept."""
    follow = world.rng.choice(world.follows[:KEEPERS])
    if not world.storage.server.up or not (follow.state / "confirmed").exists():
        return False
    world.storage.go_away()
    follow.restart()
    return True


def _torn_log_line(world: World) -> bool:
    world.disk.armed.add("torn log line")
    return True


EVERYWHERE: Mapping[str, Fault] = {
    "trim past the cursor": _of_storage("trim past the cursor", "trim_past_the_cursor"),
    "duplicate entry": _of_storage("duplicate entry", "duplicate_an_entry"),
    "reordered entries": _of_storage("reordered entries", "reorder_entries"),
    "missing entry": _of_storage("missing entry", "delete_an_entry"),
    "undecodable change": _of_storage("undecodable change", "write_unreadable"),
    "wrong digest": _tampering("wrong_digest"),
    "wrong count": _tampering("wrong_count"),
    "empty snapshot": _tampering("empty_snapshot"),
    "clock jumped forward": _at_once("clock jumped forward", _clock_jump(1)),
    "clock jumped back": _at_once("clock jumped back", _clock_jump(-1)),
    "replica killed": _at_once("replica killed", _restart),
    "writer killed between steps": _kill_a_writer,
    "disk full in the state directory": _disk_full(
        "disk full in the state directory", of_the_feed=False
    ),
    "state directory damaged": _at_once("state directory damaged", _damaged_state),
}
IN_REDIS: Mapping[str, Fault] = {
    "stream deleted and recreated": _of_storage(
        "stream deleted and recreated", "delete_and_recreate_the_stream"
    ),
    "failover to an older replica": _of_storage("failover to an older replica", "fail_over"),
    "redis restarted empty": _of_storage("redis restarted empty", "restart_empty"),
    "redis away": _of_storage("redis away", "go_away"),
    "disconnect inside the snapshot": _of_link("disconnect inside the snapshot", restart=True),
    "disconnect between snapshot and tail": _of_link(
        "disconnect between snapshot and tail", restart=True
    ),
    "disconnect in the tail": _of_link("disconnect in the tail", restart=False),
    "slow reader": _at_once("slow reader", _slow_reader),
    "replica started without redis": _at_once(
        "replica started without redis", _restart_without_the_feed
    ),
    "answer to a writer lost": _answer_to_a_writer_lost,
}
IN_A_DIRECTORY: Mapping[str, Fault] = {
    "log deleted": _of_storage("log deleted", "delete_a_segment"),
    "directory restored from a copy": _of_storage("directory restored from a copy", "fail_over"),
    "disk full": _disk_full("disk full", of_the_feed=True),
    "torn log line": _torn_log_line,
}
BY_THEMSELVES = {"two writers at once"}

KINDS = frozenset({*EVERYWHERE, *IN_REDIS, *IN_A_DIRECTORY, *BY_THEMSELVES})


def faults_of(seed: int) -> Mapping[str, Fault]:
    """Those that can strike in the world of *seed*."""
    return EVERYWHERE | (IN_REDIS if seed % 2 else IN_A_DIRECTORY)
