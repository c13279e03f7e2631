"""What a key's requests take of its limits and its budget, from admission to the last byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from coe.experts import ExpertPool, Price
from coe.service.reply import Header
from coe.service.visit import Receipt
from coe.store import Allowance, ApiKey, Reservation, Store
from coe.types import Usage

_CHARS_PER_TOKEN = 3
"""Of a prompt before anybody has counted: few, so that a guess is too dear and not too cheap."""
_TOKENS_OF_AN_ANSWER = 1024
"""Where the client sets no limit and the expert's is not known."""


class Accounts:
    """Holds keys to what they may use."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @asynccontextmanager
    async def charged(
        self, key: ApiKey, guess: Usage, pool: ExpertPool, receipt: Receipt
    ) -> AsyncIterator[Allowance]:
        """A request of this key: what it may cost is set aside, and what it did cost is kept.

        Raises `RateLimited` and `BudgetExceeded` before the block. What an expert has begun to
        answer and nobody has counted costs what was guessed.
        """
        prices = [expert.price for expert in pool if expert.price is not None]
        allowance = await self._store.limits.take(key, guess.total_tokens)
        try:
            reservation = await self._store.spend.reserve(key, _cost(guess, prices))
        except BaseException:
            await self._store.limits.correct(key, guess.total_tokens, 0)
            raise
        try:
            yield allowance
        finally:
            used, cost = Usage(), 0.0
            if receipt.has_begun:
                used = sum((share or guess for _, share in _shares(receipt)), used)
                cost = cost_usd(receipt, pool, guess) or 0.0
            # A client that has gone has used what it has used.
            await asyncio.shield(self._settled(key, reservation, cost, guess, used))

    async def _settled(
        self, key: ApiKey, reservation: Reservation, cost: float, guess: Usage, used: Usage
    ) -> None:
        await self._store.spend.settle(reservation, cost)
        await self._store.limits.correct(key, guess.total_tokens, used.total_tokens)


def guessed_usage(raw: Mapping[str, Any], n_bytes: int, pool: ExpertPool) -> Usage:
    """What a request may come to, before anybody has counted."""
    return Usage(n_bytes // _CHARS_PER_TOKEN + 1, _most_tokens(raw, pool))


def cost_usd(receipt: Receipt, pool: ExpertPool, guess: Usage | None = None) -> float | None:
    """Each expert's share at its own price; None where that is not known.

    `guess` stands for what nobody has counted.
    """
    prices = {expert.id: expert.price for expert in pool if expert.price is not None}
    costs: list[float] = []
    for expert_id, share in _shares(receipt):
        used = share or guess
        if used is None:
            return None
        if expert_id in prices:
            costs.append(_at(prices[expert_id], used))
    return sum(costs) if costs else None


def _shares(receipt: Receipt) -> Sequence[tuple[str, Usage | None]]:
    return receipt.shares or [(expert_id, receipt.usage) for expert_id in receipt.experts[:1]]


def _cost(usage: Usage, prices: Sequence[Price]) -> float:
    return max((_at(price, usage) for price in prices), default=0.0)


def _at(price: Price, usage: Usage) -> float:
    paid_in = price.usd_per_mtok_in * usage.prompt_tokens
    return (paid_in + price.usd_per_mtok_out * usage.completion_tokens) / 1e6


def _most_tokens(raw: Mapping[str, Any], pool: ExpertPool) -> int:
    """The longest answer that the request allows, over all its choices."""
    told = (raw.get(n) for n in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    given = next((n for n in told if isinstance(n, int) and n > 0), None)
    longest = max((expert.max_tokens for expert in pool), default=_TOKENS_OF_AN_ANSWER)
    n_choices = raw.get("n")
    return (given or longest) * (n_choices if isinstance(n_choices, int) and n_choices > 1 else 1)


def limit_headers(key: ApiKey, allowance: Allowance) -> list[Header]:
    """OpenAI's names."""
    headers: list[Header] = []
    for kind, limit, left, reset_s in (
        ("requests", key.limits.rpm, allowance.requests, allowance.requests_reset_s),
        ("tokens", key.limits.tpm, allowance.tokens, allowance.tokens_reset_s),
    ):
        if limit is not None and left is not None:
            headers.append((f"x-ratelimit-limit-{kind}".encode(), b"%d" % limit))
            headers.append((f"x-ratelimit-remaining-{kind}".encode(), b"%d" % left))
            headers.append((f"x-ratelimit-reset-{kind}".encode(), b"%.3fs" % reset_s))
    return headers
