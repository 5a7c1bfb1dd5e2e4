"""Made-up people from a seed, what is asked about them, and the truth.

Everything is drawn at run time and nothing of it is stored: results hold counts, times and hashes
of answer bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.cli.demo_data import draw_questions
from ndoo.nhs_number import Keys, Numbers
from ndoo.v1 import check_pb2

Mask = npt.NDArray[np.bool_]


class WrongAnswer(Exception):
    """A contender's answers are not the truth, so its time means nothing."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One boolean a number."""

    cleared: Mask = field(repr=False)
    invalid: Mask = field(repr=False)

    @property
    def opted_out(self) -> Mask:
        return ~(self.cleared | self.invalid)

    def repeated(self, times: int) -> Truth:
        return Truth(np.tile(self.cleared, times), np.tile(self.invalid, times))

    def proof(self) -> dict[str, int | str]:
        """What goes into results: how many of each verdict, and a hash over all answer bits."""
        bits = np.packbits([self.cleared, self.invalid], axis=1, bitorder="little")
        return {
            "cleared": int(self.cleared.sum()),
            "opted_out": int(self.opted_out.sum()),
            "invalid": int(self.invalid.sum()),
            "sha256": hashlib.sha256(bits.tobytes()).hexdigest(),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """Numbers in the order in which they are asked, and the truth about them."""

    numbers: Numbers = field(repr=False)
    truth: Truth = field(repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    def first(self, count: int) -> Asked:
        truth = self.truth
        return Asked(self.numbers[:count], Truth(truth.cleared[:count], truth.invalid[:count]))

    def at(self, places: npt.NDArray[np.int64]) -> Asked:
        truth = self.truth
        return Asked(self.numbers[places], Truth(truth.cleared[places], truth.invalid[places]))

    def ascending(self) -> Asked:
        return self.at(np.argsort(self.numbers))

    def mixed(
        self, rng: np.random.Generator, register: Keys, opted_out_share: float, invalid_share: float
    ) -> Asked:
        """As many numbers in random order, with these shares; the rest is cleared."""
        opted_out, invalid = (int(len(self) * share) for share in (opted_out_share, invalid_share))
        cleared = len(self) - opted_out - invalid
        people = nhs_number.numbers_of(register[rng.integers(0, len(register), opted_out)])
        others = self.numbers[rng.choice(np.flatnonzero(self.truth.cleared), cleared)]
        nobody = self.numbers[rng.choice(np.flatnonzero(self.truth.invalid), invalid)]
        kinds = np.repeat([0, 1, 2], [cleared, opted_out, invalid])
        ordered = Asked(np.concatenate([others, people, nobody]), Truth(kinds == 0, kinds == 2))
        return ordered.at(rng.permutation(len(self)))

    def messages(self, size: int) -> list[bytes]:
        """The numbers as messages of BatchCheck or StreamCheck, *size* in each."""
        return [message_of(self.numbers[at : at + size]) for at in range(0, len(self), size)]


def draw(rng: np.random.Generator, register: Keys, count: int) -> Asked:
    """*count* questions: 5.4 % opted out, 1 % invalid, in random order."""
    questions = draw_questions(rng, register, count)
    cleared, invalid = (
        np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)
        for bits in (questions.cleared, questions.invalid)
    )
    return Asked(questions.numbers, Truth(cleared, invalid))


def message_of(numbers: Numbers) -> bytes:
    """One request. On the wire a packed run of fixed64 and a field of bytes look the same."""
    raw = numbers.astype("<u8", copy=False).tobytes()
    return check_pb2.CheckSetRequest(keys=raw).SerializeToString()


def prove(answered: Truth, truth: Truth) -> dict[str, int | str]:
    """The proof of *answered*. Raises WrongAnswer unless it is *truth*, number by number."""
    if not (
        np.array_equal(answered.cleared, truth.cleared)
        and np.array_equal(answered.invalid, truth.invalid)
    ):
        raise WrongAnswer("the answers are not the truth")
    return answered.proof()
