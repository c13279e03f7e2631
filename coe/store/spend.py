"""What each key has spent, and what its running requests may still cost.

A request reserves what it may cost before it is sent to an expert, and settles what it did cost
after. What is spent and what is reserved together stay within the budget, so that no number of
requests at once overdraws it; only a request that costs more than it reserved can. Money is
counted in whole billionths of a dollar: sums do not depend on their order.

Each replica, and each process of one, keeps its own total, which only grows; it is written over,
never added to, on disk and in Redis. So writing it twice, late, or after a newer one does no harm.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from coe.errors import BudgetExceeded
from coe.store.database import Database
from coe.store.keys import PERIODS, ApiKey, Period
from coe.store.periods import Span, span_of

NANOS = 1_000_000_000


@dataclass(slots=True, eq=False)
class Reservation:
    """Money set aside for one request."""

    id: str
    """Of no other reservation, on any replica."""
    account: Account = field(repr=False)
    """What it is charged to: a request of the last second of a month belongs to that month."""
    nanos: int
    expires_s: float
    """When it is let go if it was not settled. What is settled later is spent all the same."""
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """Where a key stands in the current period."""

    period: str
    spent_usd: float
    reserved_usd: float
    budget_usd: float | None
    renews_in_s: float | None
    """None: never."""


class Spend(Protocol):
    """Holds keys to their budgets."""

    async def reserve(self, key: ApiKey, usd: float) -> Reservation:
        """Sets aside what a request may cost. Raises `BudgetExceeded`."""
        ...

    async def settle(self, reservation: Reservation, usd: float) -> None:
        """Spends what it did cost and lets go of the rest; 0 if it was not served.

        Counted in this process before anything is waited for, so that a cancelled caller has
        settled. Once is enough, and a second time does nothing.
        """
        ...

    async def spent(self, key: ApiKey) -> Spent: ...


@dataclass(slots=True, eq=False)
class Account:
    """One key in one period. All money in nanos."""

    key_id: str
    period: str
    own: int = 0
    """Spent by way of this process."""
    others: int = 0
    """By way of other processes and replicas, when last heard of."""
    reserved: int = 0
    reservations: dict[str, Reservation] = field(default_factory=dict)
    """Those of this process, in the order in which they expire."""

    def take_on(self, reservation: Reservation) -> None:
        self.reservations[reservation.id] = reservation
        self.reserved += reservation.nanos

    def take_off(self, reservation: Reservation) -> None:
        if self.reservations.pop(reservation.id, None) is not None:
            self.reserved -= reservation.nanos

    def let_go(self, now_s: float) -> None:
        """Of reservations that leaked."""
        while self.reservations:
            oldest = next(iter(self.reservations.values()))
            if oldest.expires_s > now_s:
                return
            self.take_off(oldest)


class SqliteSpend:
    """Counted in memory and written to the file: a kill loses what the last commit had not."""

    def __init__(
        self,
        database: Database,
        reservation_s: float = 900.0,
        clock: Callable[[], float] = time.time,
        worker: int = 0,
    ) -> None:
        """Blocks while earlier spend is read. `clock`: seconds since the epoch. `worker`: which of
        the file's processes this is.
        """
        self._database = database
        self._reservation_s = reservation_s
        self._clock = clock
        self._worker = worker
        self._spans = {period: span_of(period, clock()) for period in PERIODS}
        self.earlier = database.read_now(self._load)
        """Of all processes when this one began: key, period, worker and nanos."""
        self._accounts: dict[tuple[str, str], Account] = {}
        for key_id, period, by, nanos in self.earlier:
            self.take_up(key_id, period, by, nanos)
        self._numbers = itertools.count()

    async def reserve(self, key: ApiKey, usd: float) -> Reservation:
        reservation = self.proposal(key, usd)
        account = reservation.account
        self.check(key, reservation.nanos, account.own + account.others, account.reserved)
        account.take_on(reservation)
        return reservation

    async def settle(self, reservation: Reservation, usd: float) -> None:
        self.settle_now(reservation, usd)

    async def spent(self, key: ApiKey) -> Spent:
        account = self.account(key)
        return self.standing(key, account.own + account.others, account.reserved)

    def account(self, key: ApiKey) -> Account:
        """Of the current period, without reservations that leaked."""
        now = self._clock()
        period = key.limits.budget_period
        span = self._spans[period]
        if not span.covers(now):
            span = self._turn(period, now)
        slot = (key.id, span.label)
        account = self._accounts.get(slot)
        if account is None:
            account = self._accounts[slot] = Account(*slot)
        account.let_go(now)
        return account

    def take_up(self, key_id: str, period: str, worker: int, nanos: int) -> None:
        """Counts what a process is known to have spent before this one began to."""
        account = self._accounts.setdefault((key_id, period), Account(key_id, period))
        if worker == self._worker:
            account.own = max(account.own, nanos)
        else:
            account.others += nanos

    def proposal(self, key: ApiKey, usd: float) -> Reservation:
        """A reservation that the budget has not been asked about yet."""
        id_ = f"{_PROCESS}-{next(self._numbers)}"
        expires_s = self._clock() + self._reservation_s
        return Reservation(id_, self.account(key), nanos_of(usd), expires_s)

    def check(self, key: ApiKey, nanos: int, spent: int, reserved: int) -> None:
        """Raises `BudgetExceeded` if so much more is too much."""
        budget = key.limits.budget_usd
        if budget is None or spent + reserved + nanos <= nanos_of(budget):
            return
        standing = self.standing(key, spent, reserved)
        raise BudgetExceeded(_refusal(key, nanos, standing), standing.renews_in_s)

    def settle_now(self, reservation: Reservation, usd: float) -> None:
        if reservation.is_settled:
            return
        reservation.is_settled = True
        account = reservation.account
        account.take_off(reservation)
        account.own += nanos_of(usd)
        slot = (account.key_id, account.period)
        row = (*slot, self._worker, account.own)
        self._database.put_latest(("spend", *slot), _UPSERT, row)

    def standing(self, key: ApiKey, spent: int, reserved: int) -> Spent:
        span = self._spans[key.limits.budget_period]
        renews_in_s = None if span.end_s is None else span.end_s - self._clock()
        budget = key.limits.budget_usd
        return Spent(span.label, spent / NANOS, reserved / NANOS, budget, renews_in_s)

    def _turn(self, period: Period, now_s: float) -> Span:
        """Keeps the accounts of the period that is over, for a clock that is set back a little."""
        before = self._spans[period]
        span = self._spans[period] = span_of(period, now_s)
        kept = {before.label, *(current.label for current in self._spans.values())}
        self._accounts = {slot: acc for slot, acc in self._accounts.items() if slot[1] in kept}
        return span

    def _load(self, connection: sqlite3.Connection) -> tuple[tuple[str, str, int, int], ...]:
        labels = [span.label for span in self._spans.values()]
        rows = connection.execute(
            "SELECT key_id, period, worker, nanos FROM spend WHERE period IN (?, ?, ?)", labels
        )
        return tuple(rows.fetchall())


_PROCESS = secrets.token_hex(8)
_UPSERT = (
    "INSERT INTO spend (key_id, period, worker, nanos) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key_id, period, worker) DO UPDATE SET nanos = max(nanos, excluded.nanos)"
)


def nanos_of(usd: float) -> int:
    """Never less than nothing: totals only grow. Raises ValueError for what is no amount."""
    if not 0 <= usd < 1e9:
        raise ValueError(f"{usd} is no amount in dollars that a request can cost")
    return round(usd * NANOS)


def _refusal(key: ApiKey, nanos: int, standing: Spent) -> str:
    is_over = f"it renews when {standing.period} (UTC) is over"
    when = "it does not renew" if standing.renews_in_s is None else is_over
    return (
        f"key {key.name!r} has spent ${standing.spent_usd:.6g} of ${standing.budget_usd:.6g}, its "
        f"running requests may cost ${standing.reserved_usd:.6g} and this one "
        f"${nanos / NANOS:.6g}; {when}"
    )
