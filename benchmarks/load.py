"""Two bulk streams that never end, and how many numbers they have got answered so far.

python -m benchmarks.load TARGET METHOD < numbers, as little-endian 64-bit integers
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence

import numpy as np
import uvloop

from benchmarks.data import message_of
from benchmarks.scale import CHUNK
from benchmarks.streams import channel

STREAMS = 2
_TELL_S = 0.1


class _Load:
    def __init__(self, target: str, method: str, messages: Sequence[bytes]) -> None:
        self._target = target
        self._method = method
        self._messages = messages
        self._answered = 0

    async def run(self) -> None:
        streams = [asyncio.create_task(self._stream()) for _ in range(STREAMS)]
        while self._answered < 4 * STREAMS:  # both run, and have been running for a moment
            await asyncio.wait(streams, timeout=_TELL_S, return_when=asyncio.FIRST_EXCEPTION)
            self._refuse_ended(streams)
        print("ready -")
        while True:
            print(self._answered * CHUNK)
            await asyncio.sleep(_TELL_S)
            self._refuse_ended(streams)

    async def _stream(self) -> None:
        async with channel(self._target) as connection:
            call = connection.stream_stream(self._method)(itertools.cycle(self._messages))
            async for _ in call:
                self._answered += 1

    def _refuse_ended(self, streams: Sequence[asyncio.Task[None]]) -> None:
        for stream in streams:
            if stream.done():
                stream.result()
                raise RuntimeError("a stream without end has ended")


def _messages() -> list[bytes]:
    numbers = np.frombuffer(sys.stdin.buffer.read(), dtype="<u8")
    whole = len(numbers) // CHUNK * CHUNK
    return [message_of(numbers[at : at + CHUNK]) for at in range(0, whole, CHUNK)]


if __name__ == "__main__":
    uvloop.run(_Load(*sys.argv[1:3], _messages()).run())
