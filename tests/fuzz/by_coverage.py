"""`python -m fuzz.by_coverage TARGET DIRECTORY …`: atheris over one target. See `fuzz.__main__`.

What numba compiles cannot be instrumented: it reads the very byte code that would be changed. So
targets of it are bent by our own mutator, every other time.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

COMPILED = ["ndoo.register.kernel", "ndoo.register.containers", "ndoo.register.sets"]
GENERATED = ["ndoo.v1"]
READERS = ["ndoo", "jwt"]

with atheris.instrument_imports(include=READERS, exclude=COMPILED + GENERATED):
    from fuzz import corpus
    from fuzz.mutation import mutated
    from fuzz.target import Target
    from fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    seeds = [*corpus.stored(target), *corpus.found(target)]
    more = {"custom_mutator": _mutator(target, seeds)} if target.compiled else {}
    learnt, *others = sys.argv[2:]
    beside = Path(learnt).with_name("seeds")
    beside.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (beside / str(number)).write_bytes(seed)
    options = [f"-max_len={target.bytes_max}", "-len_control=0", *others, learnt, str(beside)]
    atheris.Setup([sys.argv[0], *options], target.run, **more)
    atheris.Fuzz()


def _mutator(target: Target, seeds: list[bytes]):
    """Bends *seeds* and whatever the fuzzer has, in turns with the fuzzer's own ways."""

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, size)
        return mutated(rng, [data, data, *seeds], min(size, target.bytes_max))

    return mutate


if __name__ == "__main__":
    main()
