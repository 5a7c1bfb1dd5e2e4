"""How soon a change shows: from the moment XADD has returned to an answer that knows of it.

Asking in a tight loop would measure the asking. Here each probe is one Check that names the
change's own revision as `at_least_as_fresh`: the service holds it until that revision is published,
then answers at once. So the time is that of becoming visible plus one way back, and the verdict
proves that the change is in it. Only some changes are probed, so that the probes are no load.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.data import WrongAnswer
from benchmarks.harness import Facts
from benchmarks.latency import IDLE, LOADED, metronome, percentiles
from benchmarks.processes import Served, redis_server
from benchmarks.streams import CHECK, STREAM_CHECK, channel
from benchmarks.workshop import Workshop
from ndoo import nhs_number
from ndoo.nhs_number import Keys
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.register.changes import Change, Kind
from ndoo.v1 import check_pb2

QUESTION = "How soon does a change show, idle and beside two bulk streams?"

PROBES_PER_S_MAX = 100
_ANSWER_S_MAX = 30.0


@dataclass(slots=True)
class _Recording:
    """Microseconds from the return of `append` to the answer, and when each append returned."""

    visible: list[float] = field(default_factory=list)
    appended_at: list[float] = field(default_factory=list)


def measure(shop: Workshop) -> Facts:
    scale = shop.scale
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(redis_server(shop.folder))
        url = f"redis://127.0.0.1:{port}/0"
        shop.load(url, shop.register)
        served = stack.enter_context(shop.service(url))
        publisher = stack.enter_context(contextlib.closing(open_publisher(url)))
        people = _others(shop)
        rows = [
            _row(shop, served, publisher, people, condition, rate)
            for condition in (IDLE, LOADED)
            for rate in scale.change_rates
        ]
    return {
        "parameters": {
            "opt_outs": len(shop.register), "seconds": scale.change_s,
            "probes_per_s_max": PROBES_PER_S_MAX,
        },
        "rows": rows,
    }  # fmt: skip


def _others(shop: Workshop) -> Iterator[int]:
    """Keys of people who have not opted out, each once."""
    cleared = shop.asked.numbers[shop.asked.truth.cleared]
    keys: Keys = np.unique(cleared // np.uint64(10))
    shop.rng("changes").shuffle(keys)
    return iter(keys.tolist())


def _row(
    shop: Workshop, served: Served, publisher: Publisher, people: Iterator[int], condition: str,
    rate: int,
) -> Facts:  # fmt: skip
    shop.progress.say(f"{condition}, {rate} changes/s")
    keys = [next(people) for _ in range(max(1, round(rate * shop.scale.change_s)))]
    with contextlib.ExitStack() as stack:
        if condition == LOADED:
            stack.enter_context(shop.load_on(served.target, STREAM_CHECK))
        recording = shop.run(_follow(served.target, publisher, keys, rate))
    appended = recording.appended_at
    taken = appended[-1] - appended[0] if len(appended) > 1 else 1.0
    return {
        "name": f"{rate}/s", "condition": condition, "changes": len(keys), "intended_per_s": rate,
        "changes_per_s": round(max(1, len(keys) - 1) / taken, 1), **percentiles(recording.visible),
    }  # fmt: skip


async def _follow(target: str, publisher: Publisher, keys: list[int], rate: int) -> _Recording:
    loop = asyncio.get_running_loop()
    recording = _Recording()
    probes: set[asyncio.Task[None]] = set()
    done = asyncio.Event()
    every = max(1, rate // PROBES_PER_S_MAX)
    async with channel(target) as connection:
        check = connection.unary_unary(CHECK)

        async def probe(key: int, token: str, appended: float) -> None:
            request = check_pb2.CheckRequest(nhs_number=_text(key), at_least_as_fresh=token)
            response = await check(request.SerializeToString(), timeout=_ANSWER_S_MAX)
            recording.visible.append((time.perf_counter() - appended) * 1e6)
            answer = check_pb2.CheckResponse.FromString(response)
            if answer.verdict != check_pb2.VERDICT_OPTED_OUT:
                raise WrongAnswer("an answer at a revision does not know its last change")

        def begin(index: int, token: str, appended: float) -> None:
            if index % every == 0:
                probes.add(asyncio.create_task(probe(keys[index], token, appended)))
            if index + 1 == len(keys):
                done.set()

        def append(index: int, _intended: float) -> None:
            revision = publisher.append([Change(Kind.OPT_OUT, key=keys[index])])
            appended = time.perf_counter()
            recording.appended_at.append(appended)
            loop.call_soon_threadsafe(begin, index, revision.token, appended)

        await connection.channel_ready()
        with metronome(append, rate, len(keys)):
            await done.wait()
            await asyncio.gather(*probes)
    return recording


def _text(key: int) -> str:
    return f"{nhs_number.numbers_of([key])[0]:010d}"
