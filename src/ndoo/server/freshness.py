"""Which state answers a call: the newest, or one as fresh as, or exactly, what the caller names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ndoo.errors import OtherGeneration, RevisionGone, RevisionNotReached
from ndoo.register.replica import Replica, State
from ndoo.revision import Revision

WAIT_S_MAX = 30.0
"""How long a call without a deadline may wait for a revision."""


class Freshness:
    """Picks states from the replica, waiting for the follower where a caller asks for it."""

    def __init__(self, replica: Replica, clock: Callable[[], float]) -> None:
        self._replica = replica
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        replica.listen(self._on_publication)

    def newest(self) -> State:
        """The newest state. Raises NotAnswering."""
        return self._replica.answering_state(self._clock())

    async def state_for(
        self, at_least_as_fresh: str, exactly_at: str, time_remaining_s: float | None
    ) -> State:
        """The state that fulfils both tokens, "" standing for no demand.

        Raises NotAnswering, BadToken, OtherGeneration, RevisionGone, or RevisionNotReached after
        *time_remaining_s*, or WAIT_S_MAX when the call has no deadline.
        """
        if not at_least_as_fresh and not exactly_at:
            return self.newest()
        exact = Revision.from_token(exactly_at) if exactly_at else None
        least = Revision.from_token(at_least_as_fresh) if at_least_as_fresh else None
        wanted = [revision for revision in (exact, least) if revision is not None]
        try:
            async with asyncio.timeout(
                WAIT_S_MAX if time_remaining_s is None else time_remaining_s
            ):
                state = await self._reached(wanted)
        except TimeoutError:
            raise RevisionNotReached(
                "The replica has not reached the demanded revision yet; try again."
            ) from None
        if exact is not None and state.verified.revision != exact:
            raise RevisionGone(
                "The register at that revision is not held any more; start over at the current one."
            )
        return state

    async def _reached(self, wanted: list[Revision]) -> State:
        while True:
            changed = self._loop.create_future()
            self._waiting.add(changed)
            try:
                state = self.newest()
                if all(_has_reached(state, revision) for revision in wanted):
                    return state
                await changed
            finally:
                self._waiting.discard(changed)

    def _on_publication(self, _state: State) -> None:
        if self._waiting:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def _has_reached(state: State, revision: Revision) -> bool:
    current = state.verified.revision
    if current.generation != revision.generation:
        raise OtherGeneration(
            "The token belongs to another generation; start over at the current revision."
        )
    return current.seq >= revision.seq
