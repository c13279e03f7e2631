"""Which experts may answer, by what a query is about: a bound that no prompt talks its way out of.

A router learns from texts, and a text can be written to look like whatever is answered by the
expert that somebody wants, be it the dearest or the least guarded one (OWASP LLM08). The operator
therefore says for each category who may be chosen at all. A text between categories is held by
each of them: to mix in another subject narrows the choice and never widens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from coe.errors import ConfigError, nearest
from coe.experts import ExpertPool
from coe.routers.category import CategoryScorer
from coe.types import Query

LEAST_SHARE = 0.2
"""Of the votes on a query's category, the fewest by which a category holds it: 3 of 15."""
OTHERS = "others"
"""Stands for each category that is not named."""
_REMEMBERED = 256


class CategoryBounds:
    """The experts that a query of each category may be routed to."""

    def __init__(
        self,
        categories: CategoryScorer,
        allowed: Mapping[str, tuple[str, ...]],
        pool: ExpertPool,
    ) -> None:
        """`categories` votes on queries that name none. Raises `ConfigError` for a category that
        nobody knows, `UnknownExpert` for such an expert.
        """
        known = (*categories.categories, OTHERS)
        for name, expert_ids in allowed.items():
            if name not in known:
                guess = nearest(name, known)
                hint = f"; did you mean {guess!r}?" if guess else ""
                raise ConfigError(
                    f"no category {name!r} (known: {', '.join(known)}){hint}", key=name
                )
            pool.subset(expert_ids)
        self._categories = categories
        rest = allowed.get(OTHERS)
        self._allowed = [allowed.get(name, rest) for name in categories.categories]
        # A decision is made with it and then carried out with it.
        self._remembered = lru_cache(_REMEMBERED)(self._voted)

    def __call__(self, query: Query) -> tuple[str, ...] | None:
        """None: anybody."""
        return self._remembered(query.text, query.category)

    def _voted(self, text: str, category: str | None) -> tuple[str, ...] | None:
        """1. Those whom every category with enough votes allows.
        2. Where no expert is allowed by all of these, those of the one with more votes.
        """
        shares = self._categories.category_shares([Query(text, category=category)])[0]
        by_votes = (-shares).argsort(kind="stable")
        # The first counts in any case: votes may be spread thin over many.
        holding = [i for n, i in enumerate(by_votes) if n == 0 or shares[i] >= LEAST_SHARE - 1e-9]
        held = [bound for i in holding if (bound := self._allowed[i]) is not None]
        if not held:
            return None
        together = tuple(id_ for id_ in held[0] if all(id_ in bound for bound in held))  # 1
        return together or held[0]  # 2
