"""CheckSet: a whole population as Roaring bitmaps, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pyroaring import BitMap

from benchmarks.data import WrongAnswer
from benchmarks.harness import Contender, Facts, interleave
from benchmarks.workshop import Workshop
from ndoo.client import open_channel
from ndoo.nhs_number import Keys
from ndoo.v1 import check_pb2

QUESTION = "How long does CheckSet take for a whole population?"

CHECK_SET = "/ndoo.v1.OptOutCheck/CheckSet"
MESSAGES = 12


def measure(shop: Workshop) -> Facts:
    people = shop.population
    parts = np.array_split(people, MESSAGES)
    with shop.service() as served:
        client = SetClient(shop, served.target)
        requests = [
            check_pb2.CheckSetRequest(keys=BitMap(part).serialize()).SerializeToString()
            for part in parts
        ]
        contender = Contender(
            "CheckSet", len(people), lambda: client.call(requests),
            prover(parts, shop.register), served.cpu_s,
        )  # fmt: skip
        rows = interleave([contender], shop.scale.rounds, shop.progress)
    return {
        "parameters": {
            "opt_outs": len(shop.register), "keys": len(people), "messages": MESSAGES,
            "request_bytes": sum(map(len, requests)),
        },
        "rows": rows,
    }  # fmt: skip


class SetClient:
    """CheckSet over one stream, raw bytes both ways.

    With the blocking client, as in the client library: the other one takes three times as long to
    receive messages of megabytes.
    """

    def __init__(self, shop: Workshop, target: str) -> None:
        channel = open_channel(target)
        shop.close_later(channel.close)
        self._call = channel.stream_stream(CHECK_SET)

    def call(self, requests: Sequence[bytes]) -> list[bytes]:
        return list(self._call(iter(requests)))


def prover(parts: Sequence[Keys], register: Keys) -> Callable[[list[bytes]], Facts]:
    """Proves that a call cleared exactly those of *parts* who are not in *register*."""
    opted_out = BitMap(register)
    expected = [BitMap(part) - opted_out for part in parts]

    def proven(responses: list[bytes]) -> Facts:
        *chunks, last = map(check_pb2.CheckSetResponse.FromString, responses)
        cleared = [BitMap.deserialize(each.chunk.cleared) for each in chunks]
        if last.WhichOneof("message") != "summary" or cleared != expected:
            raise WrongAnswer("CheckSet did not clear exactly those who may be")
        counts = last.summary.counts
        if counts.received != sum(map(len, parts)) or counts.cleared != sum(map(len, expected)):
            raise WrongAnswer("the totals of CheckSet are not the truth")
        return {"cleared": counts.cleared, "opted_out": counts.opted_out}

    return proven
