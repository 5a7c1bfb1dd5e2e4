"""A caller who is interrupted again and again, and asks on each time, as another thread does.

    python -m support.interrupted ADDRESS OPERATION steps
    python -m support.interrupted ADDRESS OPERATION TIMES SEED

The first does an operation as often as its main thread takes different steps after which Python
looks for signals, and raises KeyboardInterrupt once after each. In the second a signal comes TIMES
times at some moment, be it while the thread waits. Whoever waits for what the interrupt left locked
waits for ever. The answer is how often the caller was interrupted.
"""

from __future__ import annotations

import contextlib
import dis
import faulthandler
import gc
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import CodeType, FrameType
from typing import Any

import grpc
import numpy as np

from client.people import mixed_numbers
from ndoo.client import Client, bulk, channel, check_stream, open_channel
from ndoo.client.frames.in_order import in_order
from ndoo.client.set_stream import check_set
from ndoo.client.sets import KeySet

HANGING_S = 60
NUMBERS = mixed_numbers(600, seed=7)[0]
PARTS = np.array_split(NUMBERS, 6)

Answer = list[bool]
Tracer = Callable[[FrameType, str, Any], Any]


def _streamed(line: grpc.Channel) -> Answer:
    with check_stream(line, PARTS, in_flight_max=3) as stream:
        answer = [is_cleared for chunk in stream for is_cleared in chunk.cleared_mask().tolist()]
    return [*answer, stream.summary.cleared == sum(answer)]


def _in_order(client: Client) -> Answer:
    asked = in_order(client, PARTS, lambda part, ask: ask(part).cleared.tolist(), {})
    return [is_cleared for part in asked for is_cleared in part]


OPERATIONS: dict[str, Callable[[Client, grpc.Channel], Answer]] = {
    "check": lambda client, _: [bool(client.check(int(number))) for number in NUMBERS[:3]],
    "short column": lambda client, _: client.check_many(PARTS[0]).cleared.tolist(),
    "long column": lambda client, _: client.check_many(NUMBERS).cleared.tolist(),
    "columns": lambda client, _: [each.summary.cleared > 0 for each in client.check_each(PARTS)],
    "in order": lambda client, _: _in_order(client),
    "stream": lambda _, line: _streamed(line),
    "set": lambda _, line: (
        check_set(line, KeySet.of(NUMBERS)).cleared.holds(NUMBERS).tolist()
    ),
    "register": lambda _, line: [channel.get_register(line).opt_outs > 0],
}  # fmt: skip


class _Steps:
    """Raises KeyboardInterrupt after the first step that it has not yet raised it after."""

    def __init__(self) -> None:
        self.struck: set[tuple[CodeType, int]] = set()

    def trace(self, frame: FrameType, _event: str, _arg: object) -> Tracer:
        """For sys.settrace, which ends the trace when it raises."""
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        looking, last = _looking(frame.f_code), -1

        def step(frame: FrameType, event: str, _arg: object) -> Tracer:
            nonlocal last
            if event == "opcode":
                place, last = (frame.f_code, last), frame.f_lasti
                if place[1] in looking and place not in self.struck:
                    self.struck.add(place)
                    raise KeyboardInterrupt
            return step

        return step


@cache
def _looking(code: CodeType) -> frozenset[int]:
    """Where *code* looks whether a signal has come."""
    names = ("CALL", "RESUME", "JUMP_BACKWARD")
    return frozenset(
        each.offset for each in dis.get_instructions(code) if each.opname.startswith(names)
    )


def _at_each_step(operate: Callable[[], Answer]) -> Iterator[None]:
    steps = _Steps()
    before = -1
    while before < len(steps.struck):
        before = len(steps.struck)
        gc.disable()  # what a finalizer raises is lost, and it may be anybody's
        with contextlib.suppress(KeyboardInterrupt):
            sys.settrace(steps.trace)
            operate()
        sys.settrace(None)
        gc.enable()
        yield


def _at_any_moment(operate: Callable[[], Answer], times: int, seed: int) -> Iterator[None]:
    moments = random.Random(seed)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(times):
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 0.02))
            while True:
                operate()
        except KeyboardInterrupt:
            yield


def main() -> None:
    address, name, how, *seed = sys.argv[1:]
    faulthandler.dump_traceback_later(HANGING_S, exit=True)
    bulk.SEGMENT_NUMBERS = 200
    with (
        ThreadPoolExecutor(1) as others,
        Client(address, streams=2) as client,
        open_channel(address) as line,
    ):

        def operate() -> Answer:
            return OPERATIONS[name](client, line)

        right, times = operate(), 0
        struck = _at_any_moment(operate, int(how), int(seed[0])) if seed else _at_each_step(operate)
        for _ in struck:
            times += 1
            for answer in (operate(), others.submit(operate).result()):
                if answer != right:
                    raise AssertionError("the answer is another one after an interrupt")
    sys.stdout.write(str(times))


if __name__ == "__main__":
    main()
