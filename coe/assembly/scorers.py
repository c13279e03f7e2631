"""Every scorer by name: how it is fitted, and how it is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from coe.config import Config
from coe.errors import ConfigError, install_hint, nearest
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.baselines import BestSingleScorer, RandomScorer
from coe.routers.boosting import BoostingScorer
from coe.routers.category import CategoryScorer, CompositionScorer
from coe.routers.clusters import ClustersScorer
from coe.routers.edge import EdgeScorer
from coe.routers.ensemble import EnsembleScorer
from coe.routers.factorization import FactorizationScorer
from coe.routers.linear import LinearScorer
from coe.routers.neighbors import NeighborsScorer
from coe.routers.pilots import PilotsScorer
from coe.routers.ridge import RidgeScorer
from coe.routers.symbolic import SymbolicScorer
from coe.routing import Encoder, Scorer


class FittedScorer(Scorer, Protocol):
    """A scorer that can be written to files."""

    def artifact(self) -> Artifact: ...


@dataclass(frozen=True, slots=True)
class ScorerKind:
    """How one kind of scorer is fitted and read back."""

    fit: Callable[[OutcomeTable, Encoder], FittedScorer]
    restore: Callable[[Artifact, Encoder], FittedScorer]


SCORERS: Mapping[str, ScorerKind] = {
    "best-single": ScorerKind(
        lambda table, _: BestSingleScorer.fit(table), lambda artifact, _: BestSingleScorer(artifact)
    ),
    "boosting": ScorerKind(BoostingScorer.fit, BoostingScorer),
    "category": ScorerKind(CategoryScorer.fit, CategoryScorer),
    "clusters": ScorerKind(ClustersScorer.fit, ClustersScorer),
    "composition": ScorerKind(CompositionScorer.fit, CompositionScorer),
    "edge": ScorerKind(EdgeScorer.fit, EdgeScorer),
    "ensemble": ScorerKind(EnsembleScorer.fit, EnsembleScorer),
    "factorization": ScorerKind(FactorizationScorer.fit, FactorizationScorer),
    "knn": ScorerKind(NeighborsScorer.fit, NeighborsScorer),
    "linear": ScorerKind(LinearScorer.fit, LinearScorer),
    "pilots": ScorerKind(PilotsScorer.fit, PilotsScorer),
    "ridge": ScorerKind(RidgeScorer.fit, RidgeScorer),
    "symbolic": ScorerKind(SymbolicScorer.fit, SymbolicScorer),
}
"""Scorers that are fitted on outcomes. `random` needs no fit, `oracle` is no router."""

ROUTERS = ("random", *SCORERS)


def scorer_kind(name: str) -> ScorerKind:
    """Raises `ConfigError` with the nearest known name."""
    if name == RandomScorer.name:
        raise ConfigError("`random` needs no fit and has no artifact")
    if name not in SCORERS:
        guess = nearest(name, ROUTERS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown router {name!r} (known: {', '.join(ROUTERS)}){hint}")
    return SCORERS[name]


def configured_kind(config: Config) -> ScorerKind:
    """The configured scorer's kind; a `ConfigError` names the file and the key."""
    try:
        return scorer_kind(config.router.scorer)
    except ConfigError as error:
        raise ConfigError(error.problem, file=str(config.file), key="router.scorer") from None


def fit_scorer(name: str, table: OutcomeTable, encoder: Encoder) -> Scorer:
    """The named scorer, fitted. `random` only takes the pool from the table."""
    if name == RandomScorer.name:
        return RandomScorer(table.expert_ids)
    return fitted_scorer(scorer_kind(name), table, encoder)


def fitted_scorer(kind: ScorerKind, table: OutcomeTable, encoder: Encoder) -> FittedScorer:
    """Raises `ConfigError` where a package that only fitting needs is not installed."""
    try:
        return kind.fit(table, encoder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"fitting this router needs {error.name}: {install_hint('fit')}", key="router.scorer"
        ) from None
