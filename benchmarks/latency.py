"""How long a single check takes, at fixed rates, beside a handler that does nothing.

Open loop: calls are sent at moments fixed beforehand, whatever became of those before, and their
time counts from that moment; a stall is seen by every call that falls into it. A thread keeps the
time, because the event loop's own timers have steps of a millisecond; how late calls were sent is
recorded too, and is what the client itself adds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.data import Asked, WrongAnswer
from benchmarks.harness import Facts, spread
from benchmarks.processes import Child
from benchmarks.streams import CHECK, ECHO, EMPTY, STREAM_CHECK, channel
from benchmarks.workshop import Workshop
from ndoo.v1 import check_pb2

QUESTION = "How long does a single check take, idle and beside two bulk streams?"

LOADED = "beside two bulk streams"
IDLE = "idle"
_LEAD_S = 0.05
_HIGHEST_US = 60_000_000
_DIGITS = 3

Call = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared: the service, or the handler that does nothing."""

    name: str
    process: Child
    target: str
    method: str
    bulk_method: str


@dataclass(slots=True)
class Recording:
    """Of one run: microseconds from the intended moment to the answer, and to the sending."""

    answered: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    responses: list[tuple[int, bytes]] = field(default_factory=list, repr=False)


def measure(shop: Workshop) -> Facts:
    scale = shop.scale
    with shop.service() as served, shop.echo() as (process, echo_target):
        sides = (
            Side("empty handler", process, echo_target, EMPTY, ECHO),
            Side("Check", served, served.target, CHECK, STREAM_CHECK),
        )
        rows = [
            _open_loop_row(shop, side, condition, rate)
            for condition in (IDLE, LOADED)
            for rate in scale.call_rates
            for side in sides
        ]
        in_a_row = calls_in_a_row(shop, sides)
        together = [
            _closed_loop_row(shop, side, count) for count in scale.calls_in_flight for side in sides
        ]
    return {
        "parameters": {
            "opt_outs": len(shop.register), "seconds": scale.call_s, "rates": scale.call_rates,
        },
        "rows": rows,
        "in_a_row": in_a_row,
        "together": together,
    }  # fmt: skip


def percentiles(microseconds: Sequence[float]) -> Facts:
    """Of an HdrHistogram over *microseconds*; the histogram itself goes along, to be re-read."""
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415  (of the benchmarks' own dependencies)

    histogram = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    for value in microseconds:
        histogram.record_value(max(1, round(value)))
    shown = {f"p{mark:g}": histogram.get_value_at_percentile(mark) for mark in (50, 99, 99.9)}
    in_ms = {name: value / 1000 for name, value in shown.items()}
    return in_ms | {
        "max": histogram.get_max_value() / 1000,
        "count": len(microseconds),
        "hdr": histogram.encode().decode(),
    }


@contextlib.contextmanager
def metronome(
    beat: Callable[[int, float], object], rate: float, count: int
) -> Iterator[threading.Thread]:
    """Have *beat* called in a thread for each of *count* moments, *rate* a second, on time."""
    stopped = threading.Event()

    def run() -> None:
        start = time.perf_counter() + _LEAD_S
        for index in range(count):
            intended = start + index / rate
            time.sleep(max(0.0, intended - time.perf_counter()))
            if stopped.is_set():
                return
            beat(index, intended)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stopped.set()
        thread.join()


def _open_loop_row(shop: Workshop, side: Side, condition: str, rate: int) -> Facts:
    shop.progress.say(f"{side.name}, {condition}, {rate}/s")
    asked = shop.asked.first(max(1, int(rate * shop.scale.call_s)))
    requests = _requests(asked)
    bulk_per_s = None
    with contextlib.ExitStack() as stack:
        if condition == LOADED:
            bulk_per_s = stack.enter_context(shop.load_on(side.target, side.bulk_method))
        recording = shop.run(_open_loop(side, requests, rate))
        loaded = {"bulk_numbers_per_s": round(bulk_per_s())} if bulk_per_s else {}
    row = {
        "name": side.name, "condition": condition, "rate": rate,
        **percentiles(recording.answered), "sent_late": percentiles(recording.late), **loaded,
    }  # fmt: skip
    if side.method == CHECK:
        row["proof"] = _prove(recording, asked)
    return row


async def _open_loop(side: Side, requests: Sequence[bytes], rate: int) -> Recording:
    loop = asyncio.get_running_loop()
    recording = Recording()
    calls: set[asyncio.Task[None]] = set()
    done = asyncio.Event()
    async with channel(side.target) as connection:
        call = connection.unary_unary(side.method)
        await call(requests[0])

        async def ask(index: int, intended: float) -> None:
            recording.late.append((time.perf_counter() - intended) * 1e6)
            response = await call(requests[index])
            recording.answered.append((time.perf_counter() - intended) * 1e6)
            recording.responses.append((index, response))

        def begin(index: int, intended: float) -> None:
            calls.add(asyncio.create_task(ask(index, intended)))
            if index + 1 == len(requests):
                done.set()

        with (
            _no_collection(),
            metronome(
                lambda index, intended: loop.call_soon_threadsafe(begin, index, intended),
                rate,
                len(requests),
            ),
        ):
            await done.wait()
            await asyncio.gather(*calls)
    return recording


def calls_in_a_row(shop: Workshop, sides: Sequence[Side]) -> list[Facts]:
    """One call after the other, the two sides in turns of some calls each."""
    asked = shop.asked.first(shop.scale.calls_in_a_row)
    blocks = np.array_split(np.arange(len(asked)), max(1, len(asked) // 50))
    requests = _requests(asked)
    recordings = shop.run(_take_turns(sides, requests, blocks))
    return [
        {
            "name": side.name, "median_us": round(statistics.median(recording.answered), 1),
            **percentiles(recording.answered),
        }
        for side, recording in zip(sides, recordings)
    ]  # fmt: skip


async def _take_turns(
    sides: Sequence[Side], requests: Sequence[bytes], blocks: Sequence[np.ndarray]
) -> list[Recording]:
    recordings = [Recording() for _ in sides]
    async with contextlib.AsyncExitStack() as stack:
        calls = [
            (await stack.enter_async_context(channel(side.target))).unary_unary(side.method)
            for side in sides
        ]
        for call in calls:
            await call(requests[0])
        for block in blocks:
            for call, recording in zip(calls, recordings):
                for index in block:
                    started = time.perf_counter()
                    await call(requests[index])
                    recording.answered.append((time.perf_counter() - started) * 1e6)
    return recordings


def _closed_loop_row(shop: Workshop, side: Side, in_flight: int) -> Facts:
    """Calls a second with so many always under way, and the server's processor time for each."""
    asked = shop.asked.first(shop.scale.calls_in_a_row)
    requests = _requests(asked)
    rates, cpu_us = [], []
    for turn in range(shop.scale.rounds):
        shop.progress.say(f"{side.name}, {in_flight} at once, round {turn + 1}")
        cpu = side.process.cpu_s()
        seconds = shop.run(_closed_loop(side, requests, in_flight))
        rates.append(len(requests) / seconds)
        cpu_us.append((side.process.cpu_s() - cpu) / len(requests) * 1e6)
    return {
        "name": side.name, "in_flight": in_flight, "calls": len(requests),
        "calls_per_s": spread(rates), "server_cpu_us": spread(cpu_us),
    }  # fmt: skip


async def _closed_loop(side: Side, requests: Sequence[bytes], in_flight: int) -> float:
    async with channel(side.target) as connection:
        call = connection.unary_unary(side.method)
        await call(requests[0])
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                await call(request)

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return time.perf_counter() - started


def _requests(asked: Asked) -> list[bytes]:
    """One Check each. What is over ten digits is asked as it is, and is as invalid."""
    return [
        check_pb2.CheckRequest(nhs_number=f"{number:010d}").SerializeToString()
        for number in asked.numbers.tolist()
    ]


def _prove(recording: Recording, asked: Asked) -> Facts:
    expected = 2 - asked.truth.cleared.astype(int) + asked.truth.invalid
    found = {}
    for index, response in recording.responses:
        verdict = check_pb2.CheckResponse.FromString(response).verdict
        if verdict != expected[index]:
            raise WrongAnswer("Check did not tell the truth")
        name = check_pb2.Verdict.Name(verdict).removeprefix("VERDICT_").lower()
        found[name] = found.get(name, 0) + 1
    if sum(found.values()) != len(asked):
        raise WrongAnswer("a call was not answered")
    return found


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """The client's own garbage collections would show as the service's slowest answers."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
