"""The model of Redis against Redis: the same commands, drawn at random, and the same answers."""

from __future__ import annotations

import random
import socket

import hiredis

from ndoo.publish import scripts
from simulator.redis_model import RedisModel, Refused, Session, Status
from support.redis_server import RedisServer

SEEDS = range(12)
COMMANDS_PER_SEED = 150
NAMES = (b"{m}:a", b"{m}:b", b"{m}:c")
FIELDS = (b"generation", b"seq", b"header", b"x")
VALUES = (b"g", b"0", b"7", b'{"generation":"g","seq":3}')
IDS = (b"1-1", b"5-0", b"5-1", b"9-3", b"12-0")


def random_command(rng: random.Random) -> list[bytes]:
    key, other = rng.sample(NAMES, 2)
    return rng.choice(
        [
            [b"HSET", key, rng.choice(FIELDS), rng.choice(VALUES)],
            [b"HMGET", key, *FIELDS],
            [b"HGET", key, rng.choice(FIELDS)],
            [b"HINCRBY", key, rng.choice(FIELDS), b"2"],
            [b"XADD", key, rng.choice(IDS), b"seq", b"1", b"op", b"opt_out"],
            [b"XADD", key, b"%d-0" % rng.randrange(30), b"seq", b"2"],
            [b"XRANGE", key, rng.choice((b"-", b"(5-0", *IDS)), b"+"],
            [b"XRANGE", key, rng.choice(IDS), b"+", b"COUNT", b"2"],
            [b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"],
            [b"XREAD", b"COUNT", b"1", b"STREAMS", key, rng.choice(IDS)],
            [b"XTRIM", key, b"MAXLEN", b"=", rng.choice((b"0", b"1", b"3"))],
            [b"XDEL", key, rng.choice(IDS)],
            [b"XLEN", key],
            [b"XINFO", b"STREAM", key],
            [b"SET", key, rng.choice(VALUES)],
            [b"SET", key, b"", b"EX", b"1000"],
            [b"GET", key],
            [b"EXPIRE", key, b"1000"],
            [b"PERSIST", key],
            [b"EXISTS", key],
            [b"RENAME", key, other],
            [b"DEL", key, other],
            [b"DEL", key],
            [b"WATCH", key],
            [b"MULTI"],
            [b"EXEC"],
            [b"DISCARD"],
            [b"EVAL", *random_script(rng, key, other)],
        ]
    )


def random_script(rng: random.Random, key: bytes, other: bytes) -> list[bytes]:
    """The scripts of the publisher, on keys that may hold anything."""
    append = [b"", b"1", b"100", b"4", b"op", b"opt_out", b"nhs", b"x"]
    last = rng.choice((b"{}", b'{"op":"opt_out"}', b'{"nhs":"x"}'))
    snapshot = [b"g", b"3", b"h", b"r", b"l", b"5-0", last, b"1"]
    load = [b"new", b"h", b"r", b"l", rng.choice((b"0", b"1")), b"g", b"7", b"5-0", last, b"3"]
    return rng.choice(
        [
            [b"return {KEYS[1], 3, ARGV[1], false, 4}", b"1", key, b"v"],
            [b"return redis.call('HGET', KEYS[1], 'seq')", b"1", key],
            [scripts.SNAPSHOT.encode(), b"3", key, other, key, *snapshot],
            [scripts.LOAD.encode(), b"4", key, other, *rng.sample(NAMES, 2), *load],
            [scripts.APPEND.encode(), b"3", key, other, other, *append],
        ]
    )


class Real:
    """A real server, asked in its own protocol."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._reader = hiredis.Reader()

    def call(self, request: list[bytes]) -> object:
        self._socket.sendall(hiredis.pack_command(tuple(request)))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        return reply

    def close(self) -> None:
        self._socket.close()


def plain(reply: object) -> object:
    """*reply* as both sides can tell it: errors by their code, streams by what the model knows."""
    match reply:
        case Refused() | hiredis.ReplyError():
            return "refused"
        case Status():
            return reply.encode()
        case [b"length", *_]:
            facts = dict(zip(reply[::2], reply[1::2]))
            names = (b"length", b"last-generated-id", b"entries-added", b"first-entry")
            return [facts[name] for name in names]
        case list():
            return [plain(each) for each in reply]
        case _:
            return reply


def test_the_model_answers_as_a_real_server_does(redis_server: RedisServer) -> None:
    refused = answered = 0
    for seed in SEEDS:
        rng, real = random.Random(seed), Real(redis_server)
        real.call([b"FLUSHALL"])
        model = Session(RedisModel(lambda: 20_000))
        for number in range(COMMANDS_PER_SEED):
            request = random_command(rng)
            theirs, ours = plain(real.call(request)), plain(model.call(request))
            if _is_of_another_clock(request):
                assert type(theirs) is type(ours)
                if theirs != "refused":
                    break
                continue
            assert ours == theirs, f"seed {seed}, command {number}: {request}"
            refused += theirs == "refused"
            answered += theirs != "refused"
        real.close()
    assert refused > 100
    assert answered > 300


def _is_of_another_clock(request: list[bytes]) -> bool:
    """Whether entries get ids by the server's clock, so that from here on the two differ."""
    return request[0] == b"EVAL" and b"'XADD', KEYS" in request[1]
