"""What the processes of one gateway share beside its database: there for as long as it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coe.store import ledger_limits, ledger_responses, ledger_spend
from coe.store.ledger import Ledger
from coe.store.ledger_limits import LedgerLimits
from coe.store.ledger_responses import LedgerResponses
from coe.store.limits import Limits

FOLDER = "together"
"""Within the folder of the store."""
_MIB = 1024 * 1024
_RESPONSES = 1000
_RESPONSES_BYTES = 64 * _MIB


@dataclass(frozen=True, slots=True)
class Shared:
    """Two files: a large response must not be waited for by who only counts."""

    ledger: Ledger
    conversations: Ledger

    @property
    def responses(self) -> LedgerResponses:
        return LedgerResponses(self.conversations, _RESPONSES, _RESPONSES_BYTES)

    def limits(
        self, alone: Limits, monotonic: Callable[[], float] = time.monotonic
    ) -> LedgerLimits:
        """`alone` stands in while the ledger cannot be asked."""
        return LedgerLimits(self.ledger, alone, monotonic)

    def close(self) -> None:
        self.ledger.close()
        self.conversations.close()


def open_shared(store: Path) -> Shared:
    """`store`: the folder of the store, which somebody holds. Raises `ConfigError`."""
    folder = store / FOLDER
    ledger = Ledger(folder / "ledger.db", (*ledger_limits.TABLES, *ledger_spend.TABLES))
    try:
        return Shared(ledger, Ledger(folder / "responses.db", ledger_responses.TABLES))
    except BaseException:
        ledger.close()
        raise
