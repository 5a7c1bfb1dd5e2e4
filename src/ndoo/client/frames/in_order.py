"""Work on batches: several at once, their results in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, TypeVar

from ndoo.client.answers import Verdicts
from ndoo.client.client import Client, Terms
from ndoo.client.columns import Column
from ndoo.client.crew import Crew, Outcome

ROWS_PER_BATCH = 131_072
"""What one message takes: fewer rows do not pay for it, more would only lie in memory."""

AT_ONCE = 3
_AHEAD = AT_ONCE + 1

B = TypeVar("B")
R = TypeVar("R")
Ask = Callable[[Any], Verdicts]
"""Gives the verdicts on one column."""


def in_order(
    client: Client, batches: Iterable[B], work: Callable[[B, Ask], R], terms: Terms
) -> Generator[R]:
    """What *work* makes of each of *batches*, with what it asks under *terms*.

    Batches are read by the caller's thread, at most five being held; *work* runs in others. Ends
    whatever still runs when it is closed, or raises what came first: a ClientError, or an error of
    *batches* or *work*. Every verdict is of the one revision only if *terms* fix it.
    """
    crew = Crew(AT_ONCE)
    with client.stop.child() as stop:

        def ask(values: Any) -> Verdicts:
            return client.check_column(Column.of(values), stop, terms)

        pending: deque[Outcome[R]] = deque()
        try:
            for batch in batches:
                pending.append(crew.begin(partial(work, batch, ask)))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            crew.dismiss()
            stop.stop()  # nothing runs any more, unless this is the end of an error
            crew.wait()
