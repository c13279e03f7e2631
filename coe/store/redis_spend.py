"""Budgets that several replicas hold a key to together.

Redis has, of each key and period, the total of every replica and what running requests have
reserved. A replica sends its own total with everything that it asks, so that a Redis that was
away, or lost its memory, soon knows again. Money is exact up to 2**53 nanos, nine million dollars.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from coe.store.keys import ApiKey
from coe.store.link import RedisAway, RedisLink
from coe.store.spend import Account, Reservation, Spent, SqliteSpend, nanos_of

_DAY_S = 86_400
_KEEP_S = {10: 3 * _DAY_S, 7: 40 * _DAY_S}
"""How long Redis keeps a day and a month, by the length of their labels; the total for good."""

_LUA = """
local money, holds = KEYS[1], KEYS[2]
local replica, own, now, id, nanos = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local function standing()
  local spent, others, fields = 0, 0, redis.call('HGETALL', money)
  for i = 1, #fields, 2 do
    if fields[i] ~= 'reserved' then
      spent = spent + tonumber(fields[i + 1])
      if fields[i] ~= replica then others = others + tonumber(fields[i + 1]) end
    end
  end
  local reserved = tonumber(redis.call('HGET', money, 'reserved') or '0')
  return spent, others, math.max(0, reserved)
end
local function release(members)
  for _, member in ipairs(members) do
    local amount = string.match(member, ':(%d+)$')
    if redis.call('ZREM', holds, member) == 1 and amount ~= '0' then
      redis.call('HINCRBY', money, 'reserved', '-' .. amount)
    end
  end
end
if tonumber(own) > tonumber(redis.call('HGET', money, replica) or '-1') then
  redis.call('HSET', money, replica, own)
end
release(redis.call('ZRANGEBYSCORE', holds, '-inf', now))
if redis.call('EXISTS', holds) == 0 then redis.call('HSET', money, 'reserved', 0) end
"""
_KEEP = """
local keep = tonumber(ARGV[#ARGV])
if keep > 0 then
  redis.call('EXPIRE', money, keep)
  redis.call('EXPIRE', holds, keep)
end
"""
_RESERVE = f"""{_LUA}
local spent, others, reserved = standing()
local is_granted = 0
if spent + reserved + tonumber(nanos) <= tonumber(ARGV[6]) then
  is_granted = 1
  redis.call('ZADD', holds, ARGV[7], id .. ':' .. nanos)
  redis.call('HINCRBY', money, 'reserved', nanos)
end
{_KEEP}
return {{is_granted, spent, others, reserved}}
"""
_SETTLE = f"""{_LUA}
if id ~= '' then release({{id .. ':' .. nanos}}) end
local spent, others, reserved = standing()
{_KEEP}
return {{spent, others, reserved}}
"""


class SharedSpend:
    """By what all replicas spend; while Redis is away, by what it last told of the others."""

    def __init__(
        self,
        local: SqliteSpend,
        link: RedisLink,
        replica: str,
        prefix: str = "coe:",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`replica`: the id of the file that `local` writes. `clock`: about that of the others."""
        self._local = local
        self._link = link
        self._replica = replica
        self._prefix = f"{prefix}spend:"
        self._clock = clock

    async def reserve(self, key: ApiKey, usd: float) -> Reservation:
        budget = key.limits.budget_usd
        if budget is None:
            return await self._local.reserve(key, usd)
        reservation = self._local.proposal(key, usd)
        account, nanos = reservation.account, reservation.nanos
        asked = (reservation.id, nanos, nanos_of(budget), int(reservation.expires_s * 1000))
        try:
            is_granted, spent, others, reserved = await self._run(_RESERVE, account, *asked)
        except RedisAway:
            spent = account.own + account.others
            self._local.check(key, nanos, spent, account.reserved)
        else:
            account.others = max(account.others, others)
            if not is_granted:
                self._local.check(key, nanos, spent, reserved)
        account.take_on(reservation)
        return reservation

    async def settle(self, reservation: Reservation, usd: float) -> None:
        if reservation.is_settled:
            return
        self._local.settle_now(reservation, usd)
        account = reservation.account
        try:
            _, others, _ = await self._run(_SETTLE, account, reservation.id, reservation.nanos)
        except RedisAway:
            return  # the next that reaches Redis brings the new total with it
        account.others = max(account.others, others)

    async def spent(self, key: ApiKey) -> Spent:
        account = self._local.account(key)
        try:
            spent, _, reserved = await self._run(_SETTLE, account, "", 0)
        except RedisAway:
            return await self._local.spent(key)
        return self._local.standing(key, spent, reserved)

    async def _run(self, lua: str, account: Account, *asked: str | int) -> list[int]:
        where = f"{self._prefix}{{{account.key_id}}}:{account.period}"
        now_ms = int(self._clock() * 1000)
        keep_s = _KEEP_S.get(len(account.period), 0)
        mine = (self._replica, account.own, now_ms)
        answer: list[int] = await self._link.run(
            lua, [where, f"{where}:holds"], (*mine, *asked, keep_s)
        )
        return answer
