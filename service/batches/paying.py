"""What the lines of a batch take of its key, and what is kept of them."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, nullcontext

from coe.routing import RoutingDecision
from coe.service.accounts import Accounts, cost_usd, guessed_usage
from coe.service.batches.answering import Asker
from coe.service.batches.lines import BatchRequest
from coe.service.gateway import Gateway
from coe.service.visit import Receipt
from coe.store import ApiKey, LoggedDecision, Store


class Payer:
    """Asks as the key may."""

    def __init__(self, gateway: Gateway, store: Store, tenant: str, key: ApiKey | None) -> None:
        """`key` None: it costs nobody anything."""
        self._gateway = gateway
        self._store = store
        self._tenant = tenant
        self._key = key
        self._accounts = Accounts(store)

    async def line(self, asker: Asker, request: BatchRequest, decision: RoutingDecision) -> bytes:
        """Raises what `Asker.line` does, `RateLimited` and `BudgetExceeded`."""
        receipt, began_s = Receipt(), time.monotonic()
        if self._gateway.trace is not None:
            self._gateway.trace.add(decision.experts)
        try:
            async with self._charged(asker, request, receipt):
                return await asker.line(request, decision, receipt)
        finally:
            if receipt.experts:
                latency_s = time.monotonic() - began_s
                self._store.decisions.add(self._logged(asker, request, receipt, latency_s))

    def _charged(
        self, asker: Asker, request: BatchRequest, receipt: Receipt
    ) -> AbstractAsyncContextManager[object]:
        if self._key is None:
            return nullcontext()
        pool, raw = asker.composition.pool, request.call.generation.raw
        guess = guessed_usage({} if raw is None else raw.fields, request.n_bytes, pool)
        return self._accounts.charged(self._key, guess, pool, receipt)

    def _logged(
        self, asker: Asker, request: BatchRequest, receipt: Receipt, latency_s: float
    ) -> LoggedDecision:
        usage, experts = receipt.usage, tuple(receipt.experts)
        router, _, policy = receipt.router.partition("/")
        return LoggedDecision(
            request.request_id,
            self._tenant,
            router,
            policy,
            experts,
            latency_s,
            None if usage is None else usage.prompt_tokens,
            None if usage is None else usage.completion_tokens,
            cost_usd(receipt, asker.composition.pool),
        )
