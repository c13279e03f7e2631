"""Routers fitted for a comparison, with a bar for what takes long."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from coe.assembly import fit_scorer
from coe.cli.progress import progress_bar
from coe.eval.entrants import Chances, Entrant, held_out_chances
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.folds import N_FOLDS
from coe.routing import Encoder, Scorer


def fitted_entrants(
    names: Sequence[str],
    fitted_on: OutcomeTable,
    benchmark: RecordedBenchmark,
    encoder: Encoder,
    tells_category: bool,
) -> list[Entrant]:
    """Each router fitted once; the benchmark's queries are told a category or not already."""
    entrants = []
    with progress_bar("fitting", len(names)) as bar:
        for name in names:
            scorer = fit_scorer(name, fitted_on, encoder)
            scores = scorer.score(benchmark.table.queries)
            make = partial(_chances, name, scores, fitted_on, encoder, tells_category)
            entrants.append(Entrant(name, scores, make))
            bar.advance()
    return entrants


def _chances(
    name: str,
    scores: FloatArray,
    fitted_on: OutcomeTable,
    encoder: Encoder,
    tells_category: bool,
) -> Chances:
    n_fits = min(N_FOLDS, fitted_on.n_queries)
    with progress_bar(f"held-out predictions of {name}", n_fits) as bar:

        def fit(table: OutcomeTable, encoder: Encoder) -> Scorer:
            fitted = fit_scorer(name, table, encoder)
            bar.advance()
            return fitted

        return held_out_chances(fit, fitted_on, encoder, scores, tells_category)
