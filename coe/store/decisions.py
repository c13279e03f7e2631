"""The log of what was decided, and what it cost: who asked, who answered, and how long it took.

What was asked is not in it, unless the operator wants it there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from coe.store.database import Database

_COLUMNS = (
    "request_id, time_s, tenant, router, policy, experts, prompt_tokens, completion_tokens, "
    "cost_usd, latency_s, text"
)
_INSERT = f"INSERT INTO decisions ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
_OLD = "DELETE FROM decisions WHERE time_s < ?"
_MANY = "DELETE FROM decisions WHERE number <= (SELECT max(number) FROM decisions) - ?"
_SWEEP_EVERY = 1000
MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """One request that was answered, or could not be."""

    request_id: str
    tenant: str
    router: str
    policy: str
    experts: tuple[str, ...]
    latency_s: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    text: str | None = None
    """What was asked; dropped unless the log keeps it."""
    time_s: float = 0.0
    """Set by the log."""


class DecisionsLog:
    """The latest decisions: at most so many, and none older than so long."""

    def __init__(
        self,
        database: Database,
        max_rows: int,
        max_age_s: float,
        keeps_text: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._keeps_text = keeps_text
        self._clock = clock
        self._n_added = 0
        self._sweep_every = min(_SWEEP_EVERY, max_rows)
        self._sweep()

    def add(self, decision: LoggedDecision) -> None:
        """Written soon, and not waited for. Never raises; a log that cannot keep up has gaps."""
        experts = orjson.dumps(decision.experts).decode()
        tokens = (decision.prompt_tokens, decision.completion_tokens)
        text = decision.text if self._keeps_text else None
        self._database.put(
            _INSERT,
            (
                decision.request_id,
                self._clock(),
                decision.tenant,
                decision.router,
                decision.policy,
                experts,
                *tokens,
                decision.cost_usd,
                decision.latency_s,
                text and text.encode("utf-8", "replace").decode(),
            ),
        )
        self._n_added += 1
        if self._n_added % self._sweep_every == 0:
            self._sweep()

    async def latest(
        self, limit: int = 100, tenant: str | None = None
    ) -> tuple[LoggedDecision, ...]:
        """Newest first; None: of all tenants."""
        where = "" if tenant is None else "WHERE tenant = ? "
        asked = (() if tenant is None else (tenant,)) + (max(0, min(limit, MOST_LISTED)),)

        def job(connection: sqlite3.Connection) -> tuple[LoggedDecision, ...]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM decisions {where}ORDER BY number DESC LIMIT ?", asked
            )
            return tuple(map(_decision, rows))

        return await self._database.read(job)

    def _sweep(self) -> None:
        self._database.put_latest("old decisions", _OLD, (self._clock() - self._max_age_s,))
        self._database.put_latest("many decisions", _MANY, (self._max_rows,))


def _decision(row: Sequence[Any]) -> LoggedDecision:
    request_id, time_s, tenant, router, policy, experts, prompt, completion, *rest = row
    cost_usd, latency_s, text = rest
    return LoggedDecision(
        request_id,
        tenant,
        router,
        policy,
        tuple(orjson.loads(experts)),
        latency_s,
        prompt,
        completion,
        cost_usd,
        text,
        time_s,
    )
