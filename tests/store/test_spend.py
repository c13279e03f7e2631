"""Money: budgets hold at once, while streaming, over replicas, restarts and a Redis that goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from coe.errors import BudgetExceeded
from coe.store.database import Database
from coe.store.keys import ApiKey, KeyLimits
from coe.store.ledger import Ledger
from coe.store.ledger_spend import LedgerSpend
from coe.store.link import RedisLink
from coe.store.own_redis import OwnRedis
from coe.store.periods import span_of
from coe.store.redis_spend import SharedSpend
from coe.store.spend import Account, Reservation, Spend, Spent, SqliteSpend, nanos_of

OpenLink = Callable[..., Awaitable[RedisLink]]
KeyWith = Callable[..., ApiKey]


@pytest.fixture(params=["sqlite", "ledger", "redis"])
async def spend(
    request: pytest.FixtureRequest,
    database: Database,
    clock: SimpleNamespace,
    open_link: OpenLink,
    ledger: Ledger,
) -> Spend:
    local = SqliteSpend(database, 900.0, lambda: clock.now_s)
    if request.param == "sqlite":
        return local
    if request.param == "ledger":
        return LedgerSpend(local, ledger, 0, lambda: clock.now_s)
    return SharedSpend(local, await open_link(), "replica", clock=lambda: clock.now_s)


async def test_budget_is_kept_and_told(
    spend: Spend, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(budget_usd=1.0)
    first = await spend.reserve(key, 0.75)
    message = (
        r"key 'acme' has spent \$0 of \$1, its running requests may cost \$0.75 and this one "
        r"\$0.3; it renews when 2026-03 \(UTC\) is over"
    )
    with pytest.raises(BudgetExceeded, match=message) as refused:
        await spend.reserve(key, 0.3)
    assert refused.value.renews_in_s == 28.5 * 86_400
    await spend.settle(first, 0.5)
    second = await spend.reserve(key, 0.3)
    assert await spend.spent(key) == Spent("2026-03", 0.5, 0.3, 1.0, 28.5 * 86_400)
    await spend.settle(second, 0.0)
    assert (await spend.spent(key)).reserved_usd == 0.0


async def test_settling_twice_spends_once(spend: Spend, key_with: KeyWith) -> None:
    key = key_with(budget_usd=1.0)
    reservation = await spend.reserve(key, 0.5)
    await spend.settle(reservation, 0.4)
    await spend.settle(reservation, 0.4)
    assert (await spend.spent(key)).spent_usd == 0.4


async def test_reservation_of_nothing_costs_nothing(spend: Spend, key_with: KeyWith) -> None:
    key = key_with(budget_usd=0.0)
    await spend.settle(await spend.reserve(key, 0.0), 0.0)
    with pytest.raises(BudgetExceeded):
        await spend.reserve(key, 1e-9)


async def test_leaked_reservation_is_let_go_and_late_cost_counts(
    spend: Spend, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(budget_usd=1.0, budget_period="total")
    leaked = await spend.reserve(key, 1.0)
    clock.now_s += 899.0
    with pytest.raises(BudgetExceeded, match="it does not renew") as refused:
        await spend.reserve(key, 0.1)
    assert refused.value.renews_in_s is None
    clock.now_s += 1.0
    await spend.settle(await spend.reserve(key, 1.0), 0.25)
    await spend.settle(leaked, 0.5)
    standing = await spend.spent(key)
    assert (standing.spent_usd, standing.reserved_usd) == (0.75, 0.0)


async def test_budget_renews_and_the_old_day_keeps_its_costs(
    spend: Spend, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(budget_usd=1.0, budget_period="day")
    evening = await spend.reserve(key, 1.0)
    clock.now_s += 43_200.0
    morning = await spend.reserve(key, 1.0)
    await spend.settle(evening, 1.0)
    assert (await spend.spent(key)).spent_usd == 0.0
    await spend.settle(morning, 0.125)
    assert await spend.spent(key) == Spent("2026-03-04", 0.125, 0.0, 1.0, 86_400.0)


async def test_key_without_a_budget_is_counted(spend: Spend, key_with: KeyWith) -> None:
    key = key_with()
    await spend.settle(await spend.reserve(key, 5.0), 3.0)
    assert (await spend.spent(key)).spent_usd == 3.0


async def test_many_requests_at_once_do_not_overdraw(spend: Spend, key_with: KeyWith) -> None:
    key = key_with(budget_usd=1.0)
    asked = [spend.reserve(key, 0.03) for _ in range(100)]
    granted = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, Reservation) for answer in granted) == 33


@pytest.mark.parametrize("usd", [-0.01, float("nan"), float("inf"), 1e9])
async def test_amounts_that_are_none_are_refused(
    spend: Spend, key_with: KeyWith, usd: float
) -> None:
    with pytest.raises(ValueError, match="no amount in dollars"):
        await spend.reserve(key_with(), usd)


async def test_spend_outlives_a_restart(
    tmp_path: Path, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(budget_usd=1.0)
    for expected in (0.0, 0.25, 0.5):
        database = Database(tmp_path / "store.db")
        spend = SqliteSpend(database, 900.0, lambda: clock.now_s)
        assert (await spend.spent(key)).spent_usd == expected
        await spend.reserve(key, 0.1)  # of a request that the restart ends
        await spend.settle(await spend.reserve(key, 0.3), 0.25)
        database.close()


async def test_cancelled_caller_has_settled(
    spend: Spend, key_with: KeyWith, database: Database
) -> None:
    key = key_with()
    reservation = await spend.reserve(key, 1.0)
    settling = asyncio.ensure_future(spend.settle(reservation, 1.0))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await database.flush()
    rows = await database.read(lambda c: c.execute("SELECT nanos FROM spend").fetchall())
    assert rows == [(10**9,)]


@given(st.sampled_from(["day", "month", "total"]), st.floats(0, 4e9))
def test_spans_hold_their_time_and_touch_each_other(period: str, now_s: float) -> None:
    span = span_of(period, now_s)  # type: ignore[arg-type]
    assert span.covers(now_s)
    if span.end_s is not None:
        assert not span.covers(span.end_s)
        after = span_of(period, span.end_s)  # type: ignore[arg-type]
        assert after.begin_s == span.end_s
        assert after.label > span.label


async def test_replicas_hold_a_budget_together(
    tmp_path: Path, open_link: OpenLink, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(budget_usd=1.0)
    databases = [Database(tmp_path / f"{n}.db") for n in range(3)]
    replicas = [
        SharedSpend(
            SqliteSpend(database, 900.0, lambda: clock.now_s),
            await open_link(),
            f"replica {n}",
            clock=lambda: clock.now_s,
        )
        for n, database in enumerate(databases)
    ]

    async def ask(replica: Spend) -> bool:
        try:
            reservation = await replica.reserve(key, 0.05)
        except BudgetExceeded:
            return False
        await asyncio.sleep(0)
        await replica.settle(reservation, 0.04)
        return True

    served = await asyncio.gather(*(ask(replica) for replica in replicas for _ in range(20)))
    served += [await ask(replica) for replica in replicas for _ in range(20)]
    assert sum(served) == 24  # 24 × 0.04 = 0.96, and 0.05 more do not fit
    for replica in replicas:
        assert (await replica.spent(key)).spent_usd == pytest.approx(0.96)
    for database in databases:
        database.close()


async def test_redis_that_forgot_spend_is_told_again(
    tmp_path: Path,
    redis: OwnRedis,
    open_link: OpenLink,
    key_with: KeyWith,
    clock: SimpleNamespace,
) -> None:
    key = key_with(budget_usd=1.0)
    databases = [Database(tmp_path / f"{n}.db") for n in range(2)]
    here, there = [
        SharedSpend(
            SqliteSpend(database, 900.0, lambda: clock.now_s),
            await open_link(retry_s=0.0),
            f"replica {n}",
            clock=lambda: clock.now_s,
        )
        for n, database in enumerate(databases)
    ]
    early = await there.reserve(key, 0.3)
    await here.settle(await here.reserve(key, 0.3), 0.3)
    await there.settle(early, 0.3)  # hears of what was spent since
    await here.reserve(key, 0.0)  # hears of the other's on the way
    redis.kill()
    with pytest.raises(BudgetExceeded):
        await here.reserve(key, 0.5)
    with pytest.raises(BudgetExceeded):
        await there.reserve(key, 0.5)
    # Alone, with what was last heard of the other.
    alone = await there.reserve(key, 0.4)
    with pytest.raises(BudgetExceeded):
        await there.reserve(key, 0.4)
    await there.settle(alone, 0.2)
    redis.start()
    assert (await there.spent(key)).spent_usd == pytest.approx(0.5)
    assert (await here.spent(key)).spent_usd == pytest.approx(0.8)
    with pytest.raises(BudgetExceeded):
        await there.reserve(key, 0.3)
    for database in databases:
        database.close()


class SpendMachine(RuleBasedStateMachine):
    """The model: exact sums over all that was ever reserved and settled."""

    reservations: Bundle[Reservation | None] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_772_539_200.0
        self.key = ApiKey("key", "acme", b"", 0.0, KeyLimits(budget_usd=1.0, budget_period="total"))
        self.spent = 0
        self.held: dict[str, tuple[int, float]] = {}

    @initialize()
    def open(self) -> None:
        self.spend = SqliteSpend(_NoDatabase(), 900.0, lambda: self.now_s)  # type: ignore[arg-type]

    @rule(target=reservations, usd=st.floats(0, 0.6))
    def reserve(self, usd: float) -> Reservation | None:
        held = sum(n for n, until in self.held.values() if until > self.now_s)
        fits = self.spent + held + nanos_of(usd) <= 10**9
        try:
            reservation = asyncio.run(self.spend.reserve(self.key, usd))
        except BudgetExceeded:
            assert not fits
            return None
        assert fits
        self.held[reservation.id] = (nanos_of(usd), self.now_s + 900.0)
        return reservation

    @rule(reservation=consumes(reservations), usd=st.floats(0, 0.3), again=st.booleans())
    def settle(self, reservation: Reservation | None, usd: float, again: bool) -> None:
        if reservation is None:
            return
        for _ in range(1 + again):
            asyncio.run(self.spend.settle(reservation, usd))
        self.held.pop(reservation.id)
        self.spent += nanos_of(usd)

    @rule(wait_s=st.floats(0, 1000.0))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @rule()
    def compare(self) -> None:
        held = sum(n for n, until in self.held.values() if until > self.now_s)
        standing = asyncio.run(self.spend.spent(self.key))
        assert standing.spent_usd == self.spent / 1e9
        assert standing.reserved_usd == held / 1e9


class _NoDatabase:
    def read_now(self, job: object) -> dict[tuple[str, str], Account]:
        return {}

    def put_latest(self, slot: object, sql: str, row: object) -> None:
        pass


TestSpendFollowsTheModel = SpendMachine.TestCase
TestSpendFollowsTheModel.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
