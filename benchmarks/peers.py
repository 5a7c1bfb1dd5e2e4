"""What somebody could use instead, each asked for the same people in its own best way.

All of them only look numbers up: none checks a check digit, speaks to a network (but Redis), or
says as of when it is true. Where a peer can only hold keys, it gets them ready-made, with invalid
numbers replaced, outside the time that is measured.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable

import numpy as np
import redis
from pyroaring import BitMap

from benchmarks.data import Asked, Mask, WrongAnswer
from benchmarks.harness import Contender, Facts
from ndoo import nhs_number
from ndoo.nhs_number import KEY_MAX, Keys, Numbers

PER_CALL = 10_000
_LOAD_PER_CALL = 50_000
_NOBODY = KEY_MAX + 1  # a key that stands for every invalid number, and is in no register
_SET, _BITS = "opted_out", "opted_out_bits"


def missing() -> list[str]:
    """Peers that are not installed: benchmarks go on without them and say so."""
    return [name for name in ("polars", "duckdb") if importlib.util.find_spec(name) is None]


def redis_peers(client: redis.Redis, register: Keys, asked: Asked, share: float) -> list[Contender]:
    """SMISMEMBER on a set of numbers; BITFIELD and GETBIT on one bit a key."""
    numbers = nhs_number.numbers_of(register)
    for at in range(0, len(numbers), _LOAD_PER_CALL):
        client.sadd(_SET, *numbers[at : at + _LOAD_PER_CALL].tolist())
    table = np.zeros((_NOBODY >> 3) + 1, dtype=np.uint8)
    np.bitwise_or.at(table, register >> 3, (128 >> (register & 7)).astype(np.uint8))
    client.set(_BITS, table.tobytes())
    some, few, fewer = (asked.first(int(count * share)) for count in (1e6, 5e5, 1e5))
    return [
        _member("Redis SMISMEMBER", some, _smismember(client, some.numbers)),
        _member("Redis BITFIELD", few, _bitfield(client, _keys_of(few))),
        _member("Redis GETBIT pipeline", fewer, _getbit(client, _keys_of(fewer))),
    ]


def local_peers(register: Keys, asked: Asked, share: float) -> list[Contender]:
    """Libraries in this very process, without a network."""
    members = set(nhs_number.numbers_of(register).tolist())
    bitmap = BitMap(register)
    some, few = (asked.first(int(count * share)) for count in (5e6, 2e6))
    keys = _keys_of(few)
    contenders = [
        _member("Python set", some, lambda: [n in members for n in some.numbers.tolist()]),
        _member("pyroaring loop", few, lambda: [key in bitmap for key in keys.tolist()]),
    ]
    absent = missing()
    if "polars" not in absent:
        contenders += _polars(register, asked)
    if "duckdb" not in absent:
        contenders += _duckdb(register, asked)
    return contenders


def polars_anti_join(register: Keys, asked: Asked) -> Contender:
    return _polars(register, asked)[0]


def _smismember(client: redis.Redis, numbers: Numbers) -> Callable[[], list[int]]:
    def run() -> list[int]:
        found: list[int] = []
        for at in range(0, len(numbers), PER_CALL):
            found += client.smismember(_SET, numbers[at : at + PER_CALL].tolist())
        return found

    return run


def _bitfield(client: redis.Redis, keys: Numbers) -> Callable[[], list[int]]:
    def run() -> list[int]:
        found: list[int] = []
        for at in range(0, len(keys), PER_CALL):
            operation = client.bitfield(_BITS)
            for key in keys[at : at + PER_CALL].tolist():
                operation.get("u1", key)
            found += operation.execute()
        return found

    return run


def _getbit(client: redis.Redis, keys: Numbers) -> Callable[[], list[int]]:
    def run() -> list[int]:
        found: list[int] = []
        for at in range(0, len(keys), PER_CALL):
            pipeline = client.pipeline(transaction=False)
            for key in keys[at : at + PER_CALL].tolist():
                pipeline.getbit(_BITS, key)
            found += pipeline.execute()
        return found

    return run


def _polars(register: Keys, asked: Asked) -> list[Contender]:
    import polars as pl  # noqa: PLC0415  (of the benchmarks' own dependencies)

    questions = pl.DataFrame({"number": asked.numbers})
    opted_out = pl.DataFrame({"number": nhs_number.numbers_of(register)})
    members = opted_out["number"].implode()

    def anti_join() -> Numbers:
        return questions.join(opted_out, on="number", how="anti")["number"].to_numpy()

    def is_in() -> Mask:
        return questions["number"].is_in(members).to_numpy()

    return [
        _survivors("polars anti-join", asked, anti_join),
        _member("polars is_in", asked, is_in),
    ]


def _duckdb(register: Keys, asked: Asked) -> list[Contender]:
    import duckdb  # noqa: PLC0415  (of the benchmarks' own dependencies)

    database = duckdb.connect()
    for table, numbers in (
        ("questions", asked.numbers),
        ("register", nhs_number.numbers_of(register)),
    ):
        database.register("given", {"number": numbers})
        database.execute(f"create table {table} as select number from given")

    def joined(kind: str) -> Callable[[], Numbers]:
        query = f"select number from questions {kind} join register using (number)"
        return lambda: database.execute(query).fetchnumpy()["number"]

    return [
        _survivors("DuckDB anti-join", asked, joined("anti")),
        _survivors("DuckDB semi-join", asked, joined("semi"), opted_out=True),
    ]


def _keys_of(asked: Asked) -> Numbers:
    return np.where(asked.truth.invalid, np.uint64(_NOBODY), asked.numbers // np.uint64(10))


def _member(name: str, asked: Asked, run: Callable[[], Iterable[object]]) -> Contender:
    """A peer that says of each number, in order, whether it is in the register."""

    def prove(found: Iterable[object]) -> Facts:
        return _same(np.asarray(found, dtype=np.bool_), asked.truth.opted_out)

    return Contender(name, len(asked), run, prove)


def _survivors(
    name: str, asked: Asked, run: Callable[[], Numbers], *, opted_out: bool = False
) -> Contender:
    """A peer that returns the numbers that are in the register, or are not, in any order."""
    truth = asked.truth.opted_out
    expected = np.sort(asked.numbers[truth if opted_out else ~truth])

    def prove(numbers: Numbers) -> Facts:
        if not np.array_equal(np.sort(numbers), expected):
            raise WrongAnswer(f"{name} returns other numbers than it should")
        return {"returned": len(numbers)}

    return Contender(name, len(asked), run, prove)


def _same(found: Mask, truth: Mask) -> Facts:
    if not np.array_equal(found, truth):
        raise WrongAnswer("a peer's answers are not the truth")
    return {"opted_out": int(found.sum()), "sha256": hashlib.sha256(np.packbits(found)).hexdigest()}
