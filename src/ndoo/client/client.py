"""The client: one object to ask, from any number of threads. See the top of `ndoo.client`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc
import numpy as np

from ndoo import nhs_number
from ndoo.client import channel as calls
from ndoo.client.answers import Answer, Revision, Verdict, Verdicts
from ndoo.client.bulk import check_column, check_columns, refuse_cleared_nonsense
from ndoo.client.columns import Column, one_number, select
from ndoo.client.connections import Connections, Tls
from ndoo.client.crew import aside
from ndoo.client.errors import CallFailed
from ndoo.client.introduction import Introduction, checked
from ndoo.client.job import Job, Stop
from ndoo.client.set_stream import check_set
from ndoo.client.sets import KeySet
from ndoo.client.stream import NUMBERS_PER_CHUNK_MAX
from ndoo.client.tries import LOST_REASONS, Tries
from ndoo.nhs_number import NUMBER_MAX, Numbers

TIMEOUT_S = 30.0
STREAMS = 4
RESTARTS_MAX = 2
"""How often work that no revision was demanded for starts over when its revision is gone."""

SET_NUMBERS_MIN = 4_194_304
"""From here on a cohort is asked as a set: a few bits a number over the network, not 64."""

_MESSAGE_OVERHEAD_BYTES = 1024
_NUMBER_BYTES = 8

T = TypeVar("T")
V = TypeVar("V")


class Terms(TypedDict, total=False):
    """What every question may demand.

    *at_least_as_fresh* is the token of a revision to wait for; *exactly_at* that of the one and
    only revision to answer from. *timeout_s* bounds the whole, in place of the client's own.
    """

    at_least_as_fresh: str
    exactly_at: str
    timeout_s: float | None


class Client:
    """Asks one service, which may have several replicas, from any number of threads.

    *targets* is HOST:PORT, or several of them, which take turns, or dns:///NAME:PORT for all that a
    name stands for. *timeout_s* is what one question may take with all its tries: a check, or a
    million numbers of a column; a column as a whole has no limit but the *timeout_s* that its
    method is given. *streams* run at once for a column. *introduction* says who asks and what for;
    see Introduction.

    Methods raise CallFailed, IncompleteAnswer or ClientClosed, all of them ClientError: then there
    is no answer, and nobody is cleared.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        *,
        tls: Tls | None = None,
        timeout_s: float = TIMEOUT_S,
        streams: int = STREAMS,
        **introduction: Unpack[Introduction],
    ) -> None:
        addresses = targets_of(targets)
        checked(introduction, addresses, tls)
        open_channel = partial(calls.open_channel, introduction=introduction)
        self._connections = Connections(addresses, tls, open_channel, _close_aside)
        self.stop = Stop(self._connections)
        self._timeout_s = timeout_s
        self._streams = streams
        self._chunk_numbers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever runs, in every thread, with ClientClosed. Does not wait."""
        self._connections.close()
        self.stop.stop()

    def check(self, number: str | int, **terms: Unpack[Terms]) -> Verdict:
        """May the record of the person with this NHS number be disclosed? Only CLEARED is true."""
        return self.answer(number, **terms).verdict

    def answer(self, number: str | int, **terms: Unpack[Terms]) -> Answer:
        """The verdict on one number, with the revision that it is true for."""
        value = one_number(number)
        text = f"{value:010d}" if value <= NUMBER_MAX else ""
        with self._job(self.stop, terms, is_shared=True) as job:
            answer = job.ask(
                lambda channel, timeout_s: calls.check(
                    channel,
                    text,
                    at_least_as_fresh=job.at_least_as_fresh,
                    exactly_at=job.exactly_at,
                    timeout_s=timeout_s,
                )
            )
        refuse_cleared_nonsense(np.array([value], np.uint64), np.array([bool(answer.verdict)]))
        return answer

    def revision(self, **terms: Unpack[Terms]) -> Revision:
        """The revision that the service answers from now. Its token is what *exactly_at* takes."""
        return self.reach(self.stop, terms)

    def check_many(self, values: Any, **terms: Unpack[Terms]) -> Verdicts:
        """The verdicts on a column of any length, all at one revision.

        If that revision is lost on the way, and none was demanded, all is asked again at a newer
        one, twice at most. Raises TypeError if values of such a type cannot be NHS numbers.
        """
        return self.check_column(Column.of(values), self.stop, terms)

    def check_each(self, columns: Iterable[Any], **terms: Unpack[Terms]) -> Generator[Verdicts]:
        """The verdicts on each of *columns*, in order, all at one revision; memory is bounded.

        What it yields is proven for its column; the job is whole when the last one has come.
        """
        return self.each_column(columns, self.stop, terms)

    def check_set(self, values: Any, **terms: Unpack[Terms]) -> Verdicts:
        """As check_many, and for a large cohort with a fraction of the bytes, as a Roaring bitmap.

        Takes all numbers into memory at once: 8 bytes a number, and up to 250 MB beside.
        """
        return self.column_as_set(Column.of(values), self.stop, terms)

    def filter(self, values: V, **terms: Unpack[Terms]) -> V:
        """Those of a column that are cleared, in order, as a column of the same type."""
        return select(values, self.check_many(values, **terms).cleared)

    def reach(self, stop: Stop, terms: Terms) -> Revision:
        """revision, which *stop* can end."""
        with self._job(stop, terms) as job:
            return job.reach()

    def check_column(self, column: Column, stop: Stop, terms: Terms) -> Verdicts:
        """check_many, which *stop* can end."""
        return self._starting_over(
            stop,
            terms,
            lambda job: check_column(
                job,
                column,
                streams=self._streams,
                chunk_numbers=self._numbers_per_chunk(job),
            ),
        )

    def each_column(self, columns: Iterable[Any], stop: Stop, terms: Terms) -> Generator[Verdicts]:
        """check_each, which *stop* can end."""
        with self._job(stop, terms) as job:
            yield from check_columns(
                job,
                map(Column.of, columns),
                streams=self._streams,
                chunk_numbers=self._numbers_per_chunk(job),
            )

    def column_as_set(self, column: Column, stop: Stop, terms: Terms) -> Verdicts:
        """check_set, which *stop* can end."""
        if len(column) < SET_NUMBERS_MIN:
            return self.check_column(column, stop, terms)
        numbers = column.numbers(0, len(column))
        return self._starting_over(stop, terms, lambda job: _check_as_set(job, numbers))

    def _starting_over(self, stop: Stop, terms: Terms, work: Callable[[Job], T]) -> T:
        for _ in range(RESTARTS_MAX):
            try:
                with self._job(stop, terms) as job:
                    return work(job)
            except CallFailed as error:
                if terms.get("exactly_at") or error.reason not in LOST_REASONS:
                    raise
        with self._job(stop, terms) as job:
            return work(job)

    @contextlib.contextmanager
    def _job(self, stop: Stop, terms: Terms, *, is_shared: bool = False) -> Iterator[Job]:
        timeout_s = terms.get("timeout_s")
        with stop.child() as child:
            yield Job(
                self._connections,
                child,
                max(self._timeout_s, timeout_s or 0.0),
                Tries(timeout_s),
                terms.get("at_least_as_fresh", ""),
                terms.get("exactly_at", ""),
                is_shared,
            )

    def _numbers_per_chunk(self, job: Job) -> int:
        """What the service takes in one message, asked for once, and at most a full chunk."""
        if not self._chunk_numbers:
            limits = job.ask(
                lambda channel, timeout_s: calls.get_register(channel, timeout_s=timeout_s)
            ).limits
            fitting = (limits.bytes_per_message - _MESSAGE_OVERHEAD_BYTES) // _NUMBER_BYTES
            told = [limit for limit in (limits.numbers_per_message, fitting) if limit > 0]
            self._chunk_numbers = min(NUMBERS_PER_CHUNK_MAX, *told)
        return self._chunk_numbers


def targets_of(targets: str | Sequence[str]) -> tuple[str, ...]:
    """One address or several, as several. Raises ValueError if there is none."""
    given = (targets,) if isinstance(targets, str) else tuple(targets)
    if not given or not all(given):
        raise ValueError("name the service's address: HOST:PORT, or several of them")
    return given


def _check_as_set(job: Job, numbers: Numbers) -> Verdicts:
    keys = KeySet.of(numbers)
    answer = job.ask(
        lambda channel, timeout_s: check_set(
            channel,
            keys,
            at_least_as_fresh=job.at_least_as_fresh,
            exactly_at=job.exactly_at,
            timeout_s=timeout_s,
        )
    )
    cleared, is_valid = answer.cleared.holds(numbers), nhs_number.valid(numbers)
    return Verdicts.counted(cleared, ~is_valid, answer.summary.revision)


def _close_aside(channel: grpc.Channel) -> None:
    """Close *channel* without waiting for it, nor for its calls to end, as gRPC's close does."""
    aside(channel.close)
