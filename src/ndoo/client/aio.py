"""The same client for asyncio. Concurrent checks share messages; columns go over threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar, Unpack

import grpc

from ndoo.client.answers import Answer, Revision, Verdict, Verdicts, parse, read_batch
from ndoo.client.bulk import refuse_cleared_nonsense
from ndoo.client.channel import SERVICE, channel_options
from ndoo.client.client import STREAMS, TIMEOUT_S, Client, Terms, targets_of
from ndoo.client.coalesce import Batch, Coalescer
from ndoo.client.columns import Column, one_number, select
from ndoo.client.connections import Connections, Tls
from ndoo.client.errors import CallFailed, ClientClosed, failure_of
from ndoo.client.introduction import Introduction, metadata_of
from ndoo.client.job import Stop
from ndoo.client.stream import run_header
from ndoo.client.tries import LOST_REASONS, TURN_PAUSE_S, Tries, turns_of
from ndoo.v1 import check_pb2

T = TypeVar("T")
V = TypeVar("V")


class AsyncClient:
    """As Client, on one event loop. Checks awaited at the same time go out in one message, while
    each keeps its own deadline and error, and may be cancelled.

    What concerns columns runs in threads, and is ended when its task is cancelled.
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
        self._introduction = introduction
        self._client = Client(
            targets, tls=tls, timeout_s=timeout_s, streams=streams, **introduction
        )
        self._connections = Connections(targets_of(targets), tls, _open_channel, self._close_later)
        self._closing: set[asyncio.Task[None]] = set()
        self._timeout_s = timeout_s
        self._coalescer: Coalescer | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End whatever runs, with ClientClosed."""
        self._is_closed = True
        self._client.close()
        if self._coalescer is not None:
            self._coalescer.close()
        self._connections.close()
        await asyncio.gather(*self._closing)

    async def check(self, number: str | int, **terms: Unpack[Terms]) -> Verdict:
        """May the record of the person with this NHS number be disclosed? Only CLEARED is true."""
        return (await self._ask(number, terms)).verdict

    async def answer(self, number: str | int, **terms: Unpack[Terms]) -> Answer:
        """The verdict on one number, with the revision that it is true for."""
        return await self._ask(number, terms)

    async def revision(self, **terms: Unpack[Terms]) -> Revision:
        """The revision that the service answers from now. Its token is what *exactly_at* takes."""
        return await self._in_thread(lambda stop: self._client.reach(stop, terms))

    async def check_many(self, values: Any, **terms: Unpack[Terms]) -> Verdicts:
        """The verdicts on a column of any length, as Client.check_many."""
        column = Column.of(values)
        return await self._in_thread(lambda stop: self._client.check_column(column, stop, terms))

    async def check_set(self, values: Any, **terms: Unpack[Terms]) -> Verdicts:
        """The verdicts on a large cohort, as Client.check_set."""
        column = Column.of(values)
        return await self._in_thread(lambda stop: self._client.column_as_set(column, stop, terms))

    async def filter(self, values: V, **terms: Unpack[Terms]) -> V:
        """Those of a column that are cleared, in order, as a column of the same type."""
        return select(values, (await self.check_many(values, **terms)).cleared)

    async def check_each(
        self, columns: Iterable[Any], **terms: Unpack[Terms]
    ) -> AsyncGenerator[Verdicts]:
        """The verdicts on each of *columns*, as Client.check_each; they are read in a thread."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1)
        with self._client.stop.child() as stop:
            verdicts = self._client.each_column(columns, stop, terms)
            try:
                while (one := await loop.run_in_executor(thread, next, verdicts, None)) is not None:
                    yield one
            finally:
                stop.stop()
                thread.submit(verdicts.close)
                thread.shutdown(wait=False)  # it may be reading *columns*, which may take long

    def _ask(self, number: str | int, terms: Terms) -> asyncio.Future[Answer]:
        if self._is_closed:
            raise ClientClosed
        if self._coalescer is None:
            self._coalescer = Coalescer(self._send)
        timeout_s = terms.get("timeout_s")
        return self._coalescer.ask(
            one_number(number),
            (terms.get("at_least_as_fresh", ""), terms.get("exactly_at", "")),
            self._timeout_s if timeout_s is None else timeout_s,
        )

    async def _send(self, batch: Batch) -> None:
        """Ask *batch* until it is answered, or nobody waits any more. Raises ClientError."""
        numbers = batch.numbers
        request = b"".join([
            check_pb2.BatchCheckRequest(
                at_least_as_fresh=batch.tokens[0], exactly_at=batch.tokens[1]
            ).SerializeToString(),
            run_header(numbers.nbytes),
            numbers.astype("<u8", copy=False).tobytes(),
        ])  # fmt: skip
        tries = Tries(batch.last_deadline - asyncio.get_running_loop().time())
        refusing: set[str] = set()
        while batch.is_awaited:
            try:
                message = await self._call(request, tries, refusing)
            except CallFailed as error:
                if error.reason not in LOST_REASONS or refusing >= set(self._connections.targets):
                    await asyncio.sleep(tries.pause_s(error))
                continue
            response = parse(check_pb2.BatchCheckResponse, message)
            answer, summary = read_batch(response, len(numbers), batch.tokens[1])
            refuse_cleared_nonsense(numbers, answer.cleared_mask())
            batch.settle(answer, summary.revision)

    async def _call(self, request: bytes, tries: Tries, refusing: set[str]) -> bytes:
        with self._connections.lease(is_shared=True, avoiding=refusing) as leased:
            turns = turns_of(leased.target)
            while True:
                turns -= 1
                try:
                    return await self._try(leased.channel, request, tries)
                except CallFailed as error:
                    if error.reason not in LOST_REASONS:
                        raise
                    if not turns or tries.is_over_in(TURN_PAUSE_S):
                        refusing.add(leased.target)
                        raise
                await asyncio.sleep(TURN_PAUSE_S)

    async def _try(self, channel: grpc.aio.Channel, request: bytes, tries: Tries) -> bytes:
        try:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            method = channel.unary_unary(f"{SERVICE}/BatchCheck")
            return await method(
                request,
                timeout=tries.remaining_s(),
                metadata=metadata_of(self._introduction) or None,
            )
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None

    async def _in_thread(self, work: Callable[[Stop], T]) -> T:
        with self._client.stop.child() as stop:
            try:
                return await asyncio.get_running_loop().run_in_executor(None, work, stop)
            except asyncio.CancelledError:
                stop.stop()
                raise

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _open_channel(target: str, tls: Tls | None) -> grpc.aio.Channel:
    options = channel_options(tls)
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.credentials(), options)
