"""The ledger of local experts: the decision, and the life under concurrency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.engines.local_memory import LocalMemory, Occupant, victims
from coe.errors import StartupError

_GIB = 1024**3
_OCCUPANTS = st.lists(st.tuples(st.integers(1, 10), st.booleans()), max_size=6).map(
    lambda rows: [Occupant(f"e{i}", size, i, busy) for i, (size, busy) in enumerate(rows)]
)


@given(_OCCUPANTS, st.integers(1, 20), st.integers(0, 30))
def test_victims_make_room_and_none_is_needless(
    occupants: list[Occupant], needed: int, spare: int
) -> None:
    held = sum(occupant.size_bytes for occupant in occupants)
    budget = max(held, needed) + spare
    chosen = victims(needed, budget, occupants)
    sizes = {occupant.expert_id: occupant.size_bytes for occupant in occupants}
    left = held - sum(sizes[expert_id] for expert_id in chosen)
    assert left + needed <= budget
    assert all(left + sizes[expert_id] + needed > budget for expert_id in chosen)


@given(_OCCUPANTS, st.integers(1, 20))
def test_victims_are_busy_only_where_the_idle_do_not_suffice(
    occupants: list[Occupant], needed: int
) -> None:
    held = sum(occupant.size_bytes for occupant in occupants)
    budget = max(held, needed)
    busy = {occupant.expert_id for occupant in occupants if occupant.is_busy}
    idle_bytes = sum(o.size_bytes for o in occupants if not o.is_busy)
    if budget - held + idle_bytes >= needed:
        assert not busy & set(victims(needed, budget, occupants))


def test_victims_go_least_recently_used_first() -> None:
    occupants = [Occupant("new", 4, 9, False), Occupant("old", 4, 1, False)]
    assert victims(4, 8, occupants) == ("old",)
    assert victims(8, 8, occupants) == ("old", "new")
    assert victims(0, 8, occupants) == ()


def test_victims_spare_a_small_one_that_a_large_one_makes_needless() -> None:
    occupants = [Occupant("small", 1, 1, False), Occupant("large", 7, 2, False)]
    assert victims(6, 8, occupants) == ("large",)


class FakeTenant:
    """Loads when allowed to, and watches the ledger's one law whenever it is called."""

    def __init__(self, expert_id: str, gib: float, memory: LocalMemory) -> None:
        self.expert_id = expert_id
        self._gib = gib
        self._memory = memory
        self.is_loaded = False
        self.n_loads = 0
        self.users = 0
        self.error: Exception | None = None

    def size_bytes(self) -> int:
        return int(self._gib * _GIB)

    async def load(self) -> None:
        assert not self.is_loaded
        assert self._memory.resident_bytes <= self._memory.budget_bytes
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.is_loaded = True
        self.n_loads += 1

    async def unload(self) -> None:
        assert self.is_loaded
        assert self.users == 0, "a busy expert was evicted"
        await asyncio.sleep(0)
        self.is_loaded = False

    async def use(self, steps: int) -> None:
        await self._memory.hold(self)
        assert self.is_loaded
        self.users += 1
        for _ in range(steps):
            await asyncio.sleep(0)
            assert self.is_loaded
        self.users -= 1
        self._memory.release(self)


Act = tuple[int, int, int]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from([0, 0, 0, 1, 2])),
        max_size=25,
    ),
)
def test_residents_never_exceed_the_budget_and_everyone_is_answered(
    sizes: list[float], acts: list[Act]
) -> None:
    async def run() -> None:
        memory = LocalMemory(3.0)
        tenants = [FakeTenant(f"e{i}", gib, memory) for i, gib in enumerate(sizes)]
        running: list[asyncio.Task[None]] = []
        for number, steps, kind in acts:
            tenant = tenants[number % len(tenants)]
            act = memory.vacate(tenant) if kind == 1 else tenant.use(steps)
            running.append(asyncio.create_task(act))
            if kind == 2:
                await asyncio.sleep(0)
                if tenant.users == 0:
                    running.pop().cancel()
            assert memory.resident_bytes <= memory.budget_bytes
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            for outcome in await asyncio.gather(*running, return_exceptions=True):
                assert outcome is None or isinstance(outcome, StartupError)
            for tenant in tenants:
                await memory.vacate(tenant)
        assert memory.resident_bytes == 0
        assert not any(tenant.is_loaded for tenant in tenants)

    asyncio.run(run())


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(2.0)


async def test_hold_loads_once_for_all_who_wait(memory: LocalMemory) -> None:
    tenant = FakeTenant("a", 1.0, memory)
    await asyncio.gather(*(tenant.use(3) for _ in range(5)))
    await tenant.use(1)
    assert tenant.n_loads == 1
    assert memory.residents == ("a",)


async def test_hold_evicts_the_least_recently_used_idle_expert(memory: LocalMemory) -> None:
    a, b, c = (FakeTenant(name, 1.0, memory) for name in "abc")
    for tenant in (a, b, a, c):
        await tenant.use(0)
    assert set(memory.residents) == {"a", "c"}


async def test_hold_waits_for_a_busy_expert_and_later_requests_queue_behind(
    memory: LocalMemory,
) -> None:
    a, b = (FakeTenant(name, 2.0, memory) for name in "ab")
    order: list[str] = []

    async def use(tenant: FakeTenant, label: str) -> None:
        await memory.hold(tenant)
        order.append(label)
        memory.release(tenant)

    await memory.hold(a)
    waiting = [asyncio.create_task(use(b, "b"))]
    await _settle()
    waiting.append(asyncio.create_task(use(a, "a again")))
    await _settle()
    assert order == []
    assert memory.residents == ("a",)
    memory.release(a)
    await asyncio.gather(*waiting)
    assert order == ["b", "a again"]


async def test_hold_refuses_what_exceeds_the_budget_alone(memory: LocalMemory) -> None:
    tenant = FakeTenant("huge", 2.5, memory)
    with pytest.raises(StartupError, match=r"2\.5 GiB and `local_memory_gib` is 2"):
        await memory.hold(tenant)
    assert memory.resident_bytes == 0


@pytest.mark.parametrize("make", [lambda: StartupError("a", "broken"), lambda: KeyError("odd")])
async def test_failed_load_reaches_all_who_wait_and_frees_its_room(
    memory: LocalMemory, make: Callable[[], Exception]
) -> None:
    tenant = FakeTenant("a", 2.0, memory)
    tenant.error = make()
    errors = await asyncio.gather(tenant.use(0), tenant.use(0), return_exceptions=True)
    assert list(errors) == [tenant.error, tenant.error]
    assert memory.resident_bytes == 0
    tenant.error = None
    await tenant.use(0)
    assert tenant.n_loads == 1


async def test_cancelled_hold_leaves_no_use_behind(memory: LocalMemory) -> None:
    a, b = (FakeTenant(name, 2.0, memory) for name in "ab")
    for pauses in range(6):
        holding = asyncio.create_task(memory.hold(a))
        for _ in range(pauses):
            await asyncio.sleep(0)
        if holding.done():
            memory.release(a)
        holding.cancel()
        await _settle()
        async with asyncio.timeout(5):
            await b.use(0)
    assert memory.residents == ("b",)


async def test_vacate_waits_until_the_expert_is_idle(memory: LocalMemory) -> None:
    a = FakeTenant("a", 1.0, memory)
    await memory.hold(a)
    leaving = asyncio.create_task(memory.vacate(a))
    await _settle()
    assert "a" in memory.residents
    memory.release(a)
    await leaving
    assert not memory.residents
    assert memory.resident_bytes == 0


async def test_vacate_tells_those_who_wait_for_room(memory: LocalMemory) -> None:
    a, b = (FakeTenant(name, 2.0, memory) for name in "ab")
    await memory.hold(a)
    waiting = asyncio.create_task(b.use(0))
    await _settle()
    leaving = asyncio.create_task(memory.vacate(b))
    with pytest.raises(StartupError, match="stopped while it waited"):
        await waiting
    memory.release(a)
    await leaving
    assert "b" not in memory.residents


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
