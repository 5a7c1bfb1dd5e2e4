"""Spent budgets that replicas share, in a Redis of any shape. One hash a client and day, which goes
away by itself.
"""

from __future__ import annotations

from redis.exceptions import RedisError

from ndoo.budgets.store import DAYS_KEPT, Claim, Granted, StoreFailed
from ndoo.feed.connection import cause_of
from ndoo.feed.master import Master
from ndoo.feed.url import PREFIX, RedisUrl

ANSWER_S_MAX = 1.0
"""A caller may be waiting."""

_KEPT_S = DAYS_KEPT * 86_400

# KEYS: the hash. ARGV: as in `Claim`, and for how many seconds it is kept. The field of a holder
# has its last turn and what it holds; `total` is the sum of all. Numbers stay below 2^53, where
# Lua's are exact. What cannot be read raises an error before anything is written.
_CLAIM = """
local holder, turn, held, wanted, ceiling, kept_s =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local total = tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
local last, before = string.match(redis.call('HGET', KEYS[1], holder) or '0 0', '^(%d+) (%d+)$')
if turn <= tonumber(last) then return redis.error_reply('OVERTAKEN') end
total = total - tonumber(before) + held
local granted = math.max(0, math.min(wanted, ceiling - total))
total = total + granted
redis.call('HSET', KEYS[1], 'total', string.format('%.0f', total),
  holder, string.format('%.0f %.0f', turn, held + granted))
redis.call('EXPIRE', KEYS[1], kept_s)
return {string.format('%.0f', granted), string.format('%.0f', total)}
"""


class RedisStore:
    """See `ndoo.budgets.store.Store`. *prefix* begins the keys."""

    def __init__(self, url: RedisUrl, prefix: str = PREFIX) -> None:
        self._url = url
        self._budgets = f"{{{prefix}}}:budget:"
        self._master = Master(url, prefix)
        self._client = self._master.connect(ANSWER_S_MAX)
        self._claim = self._client.register_script(_CLAIM)

    @property
    def name(self) -> str:
        return self._url.name

    def claim(self, claim: Claim) -> Granted:
        told: list[str | int] = [
            claim.holder,
            claim.turn,
            claim.held,
            claim.wanted,
            claim.ceiling,
            _KEPT_S,
        ]
        try:
            self._master.prove()  # one that was replaced, and does not know it, would grant twice
            numbers, total = self._claim(
                keys=[f"{self._budgets}{claim.client}:{claim.day}"], args=told
            )
        except (RedisError, OSError) as error:
            self._client.connection_pool.disconnect()  # to look for the master anew
            raise StoreFailed(
                f"Spent budgets cannot be kept in {self.name}: {cause_of(error)}."
            ) from None
        return Granted(int(numbers), int(total))

    def close(self) -> None:
        self._client.close()
        self._master.close()
