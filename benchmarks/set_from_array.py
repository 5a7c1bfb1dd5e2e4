"""CheckSet counted from what people have: an unsorted array of NHS numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyroaring import BitMap

from benchmarks.data import WrongAnswer
from benchmarks.harness import Contender, Facts, interleave
from benchmarks.sets import SetClient, draw_people
from benchmarks.workshop import Workshop
from ndoo import nhs_number
from ndoo.v1 import check_pb2

QUESTION = "How long does CheckSet take, counted from an unsorted array?"

_PREPARING, _WHOLE = "preparing the messages", "preparing and calling"


def measure(shop: Workshop) -> Facts:
    from ndoo.client.sets import set_messages  # noqa: PLC0415  (only here is it needed)

    people = draw_people(shop)
    numbers = nhs_number.numbers_of(people)
    shop.rng("order").shuffle(numbers)
    opted_out = BitMap(shop.register)
    cleared = len(people) - BitMap(people).intersection_cardinality(opted_out)

    with shop.service() as served:
        client = SetClient(shop, served.target)

        def whole() -> list[bytes]:
            return client.call([_request(keys) for keys in set_messages(numbers)])

        def proven(responses: list[bytes]) -> Facts:
            counts = check_pb2.CheckSetResponse.FromString(responses[-1]).summary.counts
            if (counts.received, counts.cleared) != (len(people), cleared):
                raise WrongAnswer("the totals of CheckSet are not the truth")
            return {"cleared": counts.cleared, "opted_out": counts.opted_out}

        def prepared(messages: list[Any]) -> Facts:
            parts = [BitMap.deserialize(bytes(message)) for message in messages]
            if BitMap.union(*parts) != BitMap(people):
                raise WrongAnswer("the messages do not hold exactly the numbers given")
            return {"messages": len(messages)}

        rows = interleave(
            [
                Contender(_PREPARING, len(people), lambda: set_messages(numbers), prepared),
                Contender(_WHOLE, len(people), whole, proven, served.cpu_s),
            ],
            max(1, shop.scale.rounds // 2),
            shop.progress,
        )
    return {"parameters": {"keys": len(people), "opt_outs": len(shop.register)}, "rows": rows}


def _request(keys: Any) -> bytes:
    return check_pb2.CheckSetRequest(keys=bytes(keys)).SerializeToString()
