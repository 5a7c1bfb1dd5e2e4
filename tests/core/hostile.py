"""Bitmaps that are wrong inside. Run with a seed, it reads many mutated ones and prints what became
of them: refused, or read with contents that hold together. A crash of the reader ends the process.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pyroaring import BitMap

from ndoo.errors import SnapshotRefused
from ndoo.nhs_number import KEY_MAX
from ndoo.register.snapshot import Packed, Snapshot, unpack

ROOT = Path(__file__).resolve().parent.parent.parent
NO_RUNS, RUNS = 12346, 12347
BASE_HIGH = 999_000_000 >> 16


def array_bitmap(values: list[int], cardinality: int | None = None, high: int = BASE_HIGH) -> bytes:
    """One container of sixteen-bit *values* as they are, and said to be *cardinality* many."""
    said = (len(values) if cardinality is None else cardinality) - 1
    head = struct.pack("<IIHHI", NO_RUNS, 1, high, said % 65536, 16)
    return head + struct.pack(f"<{len(values)}H", *values)


def run_bitmap(runs: list[tuple[int, int]], said: int, cardinality: int) -> bytes:
    """One container of runs (start, length - 1), said to be *said* many."""
    head = struct.pack("<IBHHH", RUNS, 1, BASE_HIGH, (cardinality - 1) % 65536, said)
    return head + b"".join(struct.pack("<HH", *run) for run in runs)


def two_containers(first_high: int, second_high: int) -> bytes:
    head = struct.pack("<II", NO_RUNS, 2)
    head += struct.pack("<HHHH", first_high, 0, second_high, 0) + struct.pack("<II", 24, 26)
    return head + struct.pack("<HH", 5, 6)


def dense_bitmap(cardinality: int) -> bytes:
    """A container of 8,192 bytes with 5,000 bits set, said to be *cardinality* many."""
    flags = np.zeros(65536, dtype=np.uint8)
    flags[:5_000] = 1
    head = struct.pack("<IIHHI", NO_RUNS, 1, BASE_HIGH, cardinality - 1, 16)
    return head + np.packbits(flags, bitorder="little").tobytes()


def inconsistent_bitmaps() -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes, and the count that the writer of such bytes would claim."""
    assert list(BitMap.deserialize(array_bitmap([1, 3, 5]))) == [
        (BASE_HIGH << 16) + low for low in (1, 3, 5)
    ]
    assert len(BitMap.deserialize(run_bitmap([(3, 4), (20, 0)], 2, 6))) == 6
    assert len(BitMap.deserialize(dense_bitmap(5_000))) == 5_000
    assert len(BitMap.deserialize(two_containers(BASE_HIGH, BASE_HIGH + 1))) == 2
    yield "unsorted array", array_bitmap([5, 3, 1]), 3
    yield "array with a value twice", array_bitmap([1, 1, 5]), 3
    yield "array said to be longer", array_bitmap([1, 3, 5], 4), 4
    yield "array said to be shorter", array_bitmap([1, 3, 5], 2), 2
    yield "array said to be dense", array_bitmap([1, 3, 5], 5_000), 5_000
    yield "dense, wrong cardinality", dense_bitmap(4_999), 4_999
    yield "dense, cut", dense_bitmap(5_000)[:-1], 5_000
    yield "runs that overlap", run_bitmap([(3, 4), (5, 4)], 2, 10), 10
    yield "runs out of order", run_bitmap([(20, 0), (3, 4)], 2, 6), 6
    yield "runs past the end", run_bitmap([(65_530, 20)], 1, 21), 21
    yield "runs cut", run_bitmap([(3, 4)], 2, 6), 6
    yield "no runs", run_bitmap([], 0, 6), 6
    yield "containers out of order", two_containers(BASE_HIGH, BASE_HIGH - 1), 2
    yield "a container twice", two_containers(BASE_HIGH, BASE_HIGH), 2


def mutated(rng: random.Random, raw: bytes) -> bytes:
    bad = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(min(len(bad), 64) if rng.random() < 0.7 else len(bad))
        bad[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    cut = rng.random()
    if cut < 0.1:
        return bytes(bad[: rng.randrange(len(bad))])
    return bytes(bad) + bytes(8) if cut < 0.12 else bytes(bad)


def read(raw: bytes, count: int) -> Snapshot:
    header = {
        "format": 1, "generation": "hostile", "seq": 1, "stream_id": "1", "count": count,
        "created_at": "t", "sha256": hashlib.sha256(raw).hexdigest(),
    }  # fmt: skip
    return unpack(Packed(json.dumps(header).encode(), raw, b""))


def counted(raw: bytes) -> int:
    """What a writer with the same library would claim, so that the count gives nothing away."""
    try:
        return len(BitMap.deserialize(raw))
    except (ValueError, IndexError):
        return 1


def main(seed: int) -> None:
    rng = random.Random(seed)
    values = np.random.default_rng(seed)
    sparse = BitMap(values.integers(0, KEY_MAX, 40, dtype=np.uint32))
    mixed = BitMap(values.choice(65_536, 6_000, replace=False).astype(np.uint32))
    mixed |= BitMap(range(70_000, 80_000, 1)) | sparse
    plain, runs = mixed.serialize(), mixed.copy()
    runs.run_optimize()
    outcome = {"refused": 0, "read": 0}
    for raw in (sparse.serialize(), plain, runs.serialize()):
        for _ in range(1_500):
            bad = mutated(rng, raw)
            try:
                keys = read(bad, counted(bad)).keys
            except SnapshotRefused:
                outcome["refused"] += 1
                continue
            listed = np.array(keys.to_array(), dtype=np.int64)
            if len(listed) != len(keys) or not np.all(np.diff(listed) > 0) or listed[-1] > KEY_MAX:
                sys.exit("a bitmap was read whose contents do not hold together")
            if not all(int(key) in keys for key in listed[:50]):
                sys.exit("a bitmap was read that does not know its own keys")
            outcome["read"] += 1
    print(json.dumps(outcome))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
