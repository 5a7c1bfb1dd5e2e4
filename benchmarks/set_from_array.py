"""CheckSet counted from what people have, an unsorted array of NHS numbers, through the client."""

from __future__ import annotations

import numpy as np

from benchmarks.data import Mask, WrongAnswer
from benchmarks.harness import Contender, Facts, interleave
from benchmarks.workshop import Workshop
from ndoo import nhs_number
from ndoo.client import open_channel
from ndoo.client.set_stream import SetAnswer, check_set
from ndoo.client.sets import KeySet

QUESTION = "How long does CheckSet take, counted from an unsorted array of numbers?"

PREPARING = "array to set"
CALLING = "array to set, and the call"
WHOLE = "array to set, the call, and a boolean a number"


def measure(shop: Workshop) -> Facts:
    people = shop.population
    numbers = nhs_number.numbers_of(people)
    shop.rng("order").shuffle(numbers)
    truth = ~np.isin(numbers, nhs_number.numbers_of(shop.register), kind="sort")
    cleared = int(truth.sum())

    def prepared(keys: KeySet) -> Facts:
        return _counted(len(keys), len(people))

    def called(answer: SetAnswer) -> Facts:
        return _counted(answer.summary.cleared, cleared)

    def told(mask: Mask) -> Facts:
        if not np.array_equal(mask, truth):
            raise WrongAnswer("the booleans are not the truth")
        return _counted(int(mask.sum()), cleared)

    with shop.service() as served, open_channel(served.target) as channel:
        rows = interleave(
            [
                Contender(PREPARING, len(people), lambda: KeySet.of(numbers), prepared),
                Contender(
                    CALLING, len(people), lambda: check_set(channel, KeySet.of(numbers)), called,
                    served.cpu_s,
                ),
                Contender(
                    WHOLE, len(people),
                    lambda: check_set(channel, KeySet.of(numbers)).cleared.holds(numbers), told,
                    served.cpu_s,
                ),
            ],
            max(1, shop.scale.rounds // 2),
            shop.progress,
        )  # fmt: skip
    return {"parameters": {"keys": len(people), "opt_outs": len(shop.register)}, "rows": rows}


def _counted(count: int, truth: int) -> Facts:
    if count != truth:
        raise WrongAnswer("the totals of CheckSet are not the truth")
    return {"count": count}
