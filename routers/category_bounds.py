"""Which experts may answer, by what a query is about: a bound that no prompt talks its way out of.

A router learns from texts, and a text can be written to look like whatever is answered by the
expert that somebody wants, be it the dearest or the least guarded one (OWASP LLM08). The operator
therefore says for each category who may be chosen at all. A text of several categories is held by
each of them, and its pieces are looked at one by one: to mix in another subject narrows the choice
and does not widen it.

What a text is about is guessed all the same. Whom no prompt may ever reach is left out of every
line, `others` among them, or out of a key's experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from coe.errors import ConfigError, nearest
from coe.experts import ExpertPool
from coe.routers.category import CategoryScorer
from coe.types import Query

LEAST_SHARE = 0.2
"""Of the votes on a query's category, the fewest by which a category holds it: 3 of 15."""
PIECE_SHARE = 0.5
"""Of the votes on a piece; short texts are guessed at worse, so that it takes more than this."""
OTHERS = "others"
"""Stands for each category that is not named."""
_REMEMBERED = 256
_PIECE_WORDS = 16
_MOST_PIECES = 128


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
        self._allowed = dict(allowed)
        # A decision is made with it and then carried out with it.
        self._remembered = lru_cache(_REMEMBERED)(self._held)

    def __call__(self, query: Query) -> tuple[str, ...] | None:
        """None: anybody."""
        return self._remembered(query.text, query.category)

    def _held(self, text: str, category: str | None) -> tuple[str, ...] | None:
        """1. Those whom every line allows that the text has to do with.
        2. Where no expert is allowed by all of these, those of the line that the operator put
           first: padding then leads to an earlier line and never to a later one.
        """
        names = self._categories.categories
        rows = self._rows(text, category)
        lines = {names[i] if names[i] in self._allowed else OTHERS for i in rows}
        held = [ids for line, ids in self._allowed.items() if line in lines]
        if not held:
            return None
        together = tuple(id_ for id_ in held[0] if all(id_ in ids for ids in held))  # 1
        return together or held[0]  # 2

    def _rows(self, text: str, category: str | None) -> set[int]:
        """The categories that the text has to do with, as rows of all."""
        asked = [Query(text, category=category)]
        if category not in self._categories.categories:
            asked += [Query(piece) for piece in pieces(text)]
        whole, *parts = self._categories.category_shares(asked)
        # The first counts in any case: votes may be spread thin over many.
        rows = {int(whole.argmax()), *np.flatnonzero(whole >= LEAST_SHARE - 1e-9).tolist()}
        for part in parts:
            rows.update(np.flatnonzero(part > PIECE_SHARE).tolist())
        return rows


def pieces(text: str) -> list[str]:
    """Runs of words that overlap by half, so that some run holds most of any short passage.

    None of a text that is no longer than one; longer ones where there would be too many.
    """
    words = text.split()
    if len(words) <= _PIECE_WORDS:
        return []
    step = max(_PIECE_WORDS // 2, -(-len(words) // _MOST_PIECES))
    return [" ".join(words[i : i + 2 * step]) for i in range(0, len(words) - step, step)]
