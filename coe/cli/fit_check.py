"""What `coe fit` finds on held-out queries: whether the router helps, and what feedback changed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from coe.errors import DatasetError

if TYPE_CHECKING:
    from coe.assembly import Fitting
    from coe.cli.fit_data import FitData
    from coe.outcomes import FloatArray, OutcomeTable
    from coe.routers.policies.guard import Verdict

_CONSTANT = ("best-single", "random")


def checked(fitting: Fitting, data: FitData) -> tuple[Verdict | None, list[str]]:
    """The verdict, and what to tell. None: there is nothing to judge, or too little to judge on."""
    from coe.routers.policies.guard import MIN_QUERIES, comparable, judged

    scorer = fitting.config.router.scorer
    if scorer in _CONSTANT:
        return None, []
    table = fitting.table
    n_comparable = int(comparable(table).sum())
    can_compare = bool(data.n_rated and data.n_recorded)
    unjudged = _unjudged(fitting, n_comparable, MIN_QUERIES)
    if unjudged is not None and not can_compare:
        return None, [unjudged]
    n_fits = 5 * (can_compare + (not fitting.needs_held_out))
    if n_fits:
        _tell(f"checking {scorer} on held-out queries: {n_fits} fits")
    try:
        scores = fitting.held_out
        verdict = judged(fitting.held_out_as_served, table) if unjudged is None else None
        lines = [_told(verdict) if verdict else unjudged or _too_few(n_comparable, MIN_QUERIES)]
        if can_compare:
            is_rated = np.arange(table.n_queries) >= data.n_recorded
            before = fitting.held_out_without(is_rated)
            lines += _change(before, scores, table, data.n_recorded)
    except DatasetError as error:
        return None, [f"guard: not checked; without a fifth of the queries: {error}"]
    return verdict, lines


def _unjudged(fitting: Fitting, n_comparable: int, least: int) -> str | None:
    """Why the router is not compared with the best single expert; None if it is."""
    if "cost" in fitting.spec.options:
        return "guard: not checked; the policy weighs costs, and the best single expert none"
    return _too_few(n_comparable, least) if n_comparable < least else None


def _too_few(n_comparable: int, least: int) -> str:
    return (
        f"guard: not checked; that takes {least} queries on which several experts were "
        f"measured, and there are {n_comparable}"
    )


def _told(verdict: Verdict) -> str:
    if verdict.is_kept:
        return f"guard: {verdict}"
    return (
        f"guard: {verdict}, so experts will be ranked by their overall record, "
        f"{verdict.best_single} first (--no-guard uses the router all the same)"
    )


def _change(
    before: FloatArray, after: FloatArray, table: OutcomeTable, n_recorded: int
) -> list[str]:
    """Held-out outcomes without and with feedback, on either kind of query."""
    parts = {"recorded": slice(0, n_recorded), "rated": slice(n_recorded, None)}
    return [
        f"held-out outcome of the {name} queries: {_outcome(before[rows], table.scores[rows])} "
        f"without feedback, {_outcome(after[rows], table.scores[rows])} with it"
        for name, rows in parts.items()
    ]


def _outcome(scores: FloatArray, outcomes: FloatArray) -> str:
    """The mean where the routed expert was measured, and on how many queries it was."""
    won = outcomes[np.arange(len(outcomes)), scores.argmax(axis=1)]
    won = won[~np.isnan(won)]
    return f"{won.mean():.1%} (on {len(won)} of {len(outcomes)})" if len(won) else "none known"


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"coe: {what}", file=sys.stderr, flush=True)
