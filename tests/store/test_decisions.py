"""The log of decisions: bounded, without what was asked, and never in the way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from coe.store.database import Database
from coe.store.decisions import DecisionsLog, LoggedDecision

ROUTED = LoggedDecision(
    "req_0", "acme", "ensemble", "top-1", ("math", "text"), 1.5, 10, 20, 0.25, "what is 2+2?"
)


async def test_decision_is_logged_without_its_text(
    database: Database, clock: SimpleNamespace
) -> None:
    log = DecisionsLog(database, 100, 60.0, clock=lambda: clock.now_s)
    log.add(ROUTED)
    await database.flush()
    assert await log.latest() == (replace(ROUTED, text=None, time_s=clock.now_s),)
    files = database.file.parent.glob("store.db*")
    assert all(b"2+2" not in file.read_bytes() for file in files)


async def test_text_is_kept_where_it_is_wanted(database: Database) -> None:
    log = DecisionsLog(database, 100, 60.0, keeps_text=True)
    log.add(replace(ROUTED, text="half a \ud83d"))
    await database.flush()
    assert [decision.text for decision in await log.latest()] == ["half a ?"]


async def test_tenant_is_told_its_own(database: Database) -> None:
    log = DecisionsLog(database, 100, 60.0)
    for n in range(6):
        log.add(replace(ROUTED, request_id=f"req_{n}", tenant="ab"[n % 2]))
    await database.flush()
    assert [d.request_id for d in await log.latest(2, "a")] == ["req_4", "req_2"]
    assert len(await log.latest(-1)) == 0


async def test_log_keeps_so_many_rows(database: Database) -> None:
    log = DecisionsLog(database, 10, 60.0)
    for n in range(100):
        log.add(replace(ROUTED, request_id=f"req_{n}"))
        if n % 10 == 9:
            await database.flush()
    assert 10 <= len(await log.latest(1000)) <= 20
    assert (await log.latest(1))[0].request_id == "req_99"


async def test_log_forgets_what_is_old(database: Database, clock: SimpleNamespace) -> None:
    log = DecisionsLog(database, 10, 60.0, clock=lambda: clock.now_s)
    log.add(ROUTED)
    await database.flush()
    clock.now_s += 61
    DecisionsLog(database, 10, 60.0, clock=lambda: clock.now_s)  # as a restart does
    await database.flush()
    assert await log.latest() == ()
