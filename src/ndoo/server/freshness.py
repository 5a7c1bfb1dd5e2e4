"""Which state answers a call: the newest, or one as fresh as, or exactly, what the caller names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ndoo.errors import InputError, NotAnswering, OtherGeneration, RevisionNotReached
from ndoo.register.history import gone
from ndoo.register.replica import Replica, State
from ndoo.revision import Revision
from ndoo.server.past import Past

WAIT_S_MAX = 30.0
"""How long a call without a deadline may wait for a revision."""


class TokensContradict(InputError):
    """A call that demands a revision, and one after it."""

    reason = "TOKENS_CONTRADICT"


class Freshness:
    """Picks states from the replica, waiting for the follower where a caller asks for it, and going
    back in *past* where a caller asks for that.
    """

    def __init__(self, replica: Replica, past: Past, clock: Callable[[], float]) -> None:
        self._replica = replica
        self._past = past
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        replica.listen(self._on_publication)

    def newest(self) -> State:
        """The newest state. Raises NotAnswering."""
        return self._replica.answering_state(self._clock())

    def refuse_if_stopped(self, state: State) -> None:
        """Raise NotAnswering if answers from *state* are over: a call keeps its state, but not past
        a suspension nor past that state's age limit.
        """
        if self._replica.state.suspended:
            raise NotAnswering("All answers are suspended.", reason="SUSPENDED")
        self._replica.refuse_if_stale(state, self._clock())

    async def state_for(
        self, at_least_as_fresh: str, exactly_at: str, time_remaining_s: float | None
    ) -> State:
        """The state that fulfils both tokens, "" standing for no demand.

        Raises NotAnswering, BadToken, TokensContradict, OtherGeneration, RevisionGone, Busy, or
        RevisionNotReached after *time_remaining_s*, or WAIT_S_MAX when the call has no deadline.
        """
        if not at_least_as_fresh and not exactly_at:
            return self.newest()
        exact = Revision.from_token(exactly_at) if exactly_at else None
        least = Revision.from_token(at_least_as_fresh) if at_least_as_fresh else None
        wanted = [revision for revision in (exact, least) if revision is not None]
        _refuse_contradiction(exact, least)
        try:
            async with asyncio.timeout(
                WAIT_S_MAX if time_remaining_s is None else time_remaining_s
            ):
                state = await self._reached(wanted)
        except TimeoutError:
            raise RevisionNotReached(
                "The replica has not reached the demanded revision yet; try again."
            ) from None
        if exact is None or state.verified.revision == exact:
            return state
        return await self._past_state(state, exact)

    async def _past_state(self, newest: State, exact: Revision) -> State:
        state = await self._past.state_at(exact.seq, newest)
        self.refuse_if_stopped(newest)
        try:
            self.refuse_if_stopped(state)
        except NotAnswering:
            raise gone() from None  # to try again cannot help: it grows no younger
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


def _refuse_contradiction(exact: Revision | None, least: Revision | None) -> None:
    if exact is None or least is None or exact.generation != least.generation:
        return  # of two generations one is not the current one, and refused as such
    if exact.seq < least.seq:
        raise TokensContradict("The revision of 'exactly_at' lies before 'at_least_as_fresh'.")


def _has_reached(state: State, revision: Revision) -> bool:
    current = state.verified.revision
    if current.generation != revision.generation:
        raise OtherGeneration(
            "The token belongs to another generation; start over at the current revision."
        )
    return current.seq >= revision.seq
