"""Limits that several replicas hold a key to together."""

from __future__ import annotations

from collections.abc import Callable

from coe.store.keys import ApiKey
from coe.store.limits import UNLIMITED, Allowance, Limits, allowance, refusal
from coe.store.link import RedisAway, RedisLink

_TAKE = """
local now = tonumber(ARGV[1])
if now == nil then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local MINUTE = 60000000
local full_at, wait, is_refused = {}, {}, false
for i = 1, 2 do
  local n, per_minute = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  full_at[i], wait[i] = now, 0
  if per_minute > 0 then
    local start = math.max(tonumber(redis.call('HGET', KEYS[1], i) or now), now)
    local till = start + math.floor(n * MINUTE / per_minute)
    if start == now or till <= now + MINUTE then
      full_at[i] = till
    else
      full_at[i], wait[i] = start, math.min(till - now - MINUTE, start - now)
      is_refused = true
    end
  end
end
if not is_refused then
  for i = 1, 2 do redis.call('HSET', KEYS[1], i, string.format('%.0f', full_at[i])) end
  local longest = math.max(full_at[1], full_at[2]) - now
  redis.call('PEXPIRE', KEYS[1], math.floor(longest / 1000) + 1000)
end
return {now, wait[1], wait[2], full_at[1], full_at[2]}
"""
"""`taken` of `coe.store.limits`, for requests and for tokens: both are taken or neither."""

_CORRECT = """
local now = tonumber(ARGV[1])
if now == nil then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local start = math.max(tonumber(redis.call('HGET', KEYS[1], 2) or now), now)
local full_at = start + math.floor(tonumber(ARGV[2]) * 60000000 / tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 2, string.format('%.0f', full_at))
local requests_at = tonumber(redis.call('HGET', KEYS[1], 1) or now)
local longest = math.max(full_at, requests_at) - now
redis.call('PEXPIRE', KEYS[1], math.max(0, math.floor(longest / 1000)) + 1000)
"""


class SharedLimits:
    """By the clock of Redis, which all replicas share; while it is away, each by itself."""

    def __init__(
        self,
        link: RedisLink,
        alone: Limits,
        prefix: str = "coe:",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`alone` stands in. `clock`: another than that of Redis, in seconds."""
        self._link = link
        self._alone = alone
        self._prefix = f"{prefix}limits:"
        self._clock = clock

    async def take(self, key: ApiKey, n_tokens: int) -> Allowance:
        rpm, tpm = key.limits.rpm, key.limits.tpm
        if rpm is None and tpm is None:
            return UNLIMITED
        asked = (self._now(), 1, rpm or 0, n_tokens, tpm or 0)
        try:
            answer = await self._link.run(_TAKE, [self._prefix + key.id], asked)
        except RedisAway:
            return await self._alone.take(key, n_tokens)
        now, requests_wait, tokens_wait, requests_at, tokens_at = answer
        if requests_wait or tokens_wait:
            raise refusal(key, requests_wait, tokens_wait)
        return allowance(key, now, requests_at, tokens_at)

    async def correct(self, key: ApiKey, taken_tokens: int, used_tokens: int) -> None:
        tpm = key.limits.tpm
        if tpm is None or taken_tokens == used_tokens:
            return
        asked = (self._now(), used_tokens - taken_tokens, tpm)
        try:
            await self._link.run(_CORRECT, [self._prefix + key.id], asked)
        except RedisAway:
            await self._alone.correct(key, taken_tokens, used_tokens)

    def _now(self) -> int | str:
        return "" if self._clock is None else int(self._clock() * 1e6)
