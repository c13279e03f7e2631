"""The one place that turns a `Config` into objects: it alone names concrete classes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coe.aggregation import Aggregator, First, MajorityVote, WeightedVote, stated_answer
from coe.composition import Composition
from coe.config import Config, EncoderConfig, load_config
from coe.encoders import (
    EndpointEncoder,
    OnnxEncoder,
    SentenceTransformerEncoder,
    default_encoder,
)
from coe.encoders.static import StaticEncoder
from coe.engines.base import Engine
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.errors import ConfigError, DatasetError, PoolMismatch, nearest
from coe.experts import Expert, ExpertPool, LocalSpec, OpenAISpec, ReplaySpec
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
from coe.routers.policies import TopK, policy_named
from coe.routers.symbolic import SymbolicScorer
from coe.routing import Encoder, Policy, Router, Scorer


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


def encoder_for(config: EncoderConfig) -> Encoder:
    """The encoder a configuration names; the shipped table where it names none."""
    if config.kind == "static":
        return default_encoder() if config.model is None else StaticEncoder(Path(config.model))
    if config.kind == "endpoint":
        return EndpointEncoder(config.base_url or "", config.model or "", config.api_key_env)
    # That these kinds name a model was checked when the file was read.
    model = config.model or ""
    return OnnxEncoder(Path(model)) if config.kind == "onnx" else SentenceTransformerEncoder(model)


def fit_scorer(name: str, table: OutcomeTable, encoder: Encoder) -> Scorer:
    """The named scorer, fitted. `random` only takes the pool from the table."""
    if name == RandomScorer.name:
        return RandomScorer(table.expert_ids)
    return _fitted(scorer_kind(name), table, encoder)


def fit_router(table: OutcomeTable, pool: ExpertPool, scorer: str = "knn") -> Router:
    """A top-1 router with the default encoder, fitted on the pool's columns of the table."""
    fitted = fit_scorer(scorer, table.for_experts(pool.ids), default_encoder())
    return Router(fitted, TopK(1), pool)


def fit_artifact(config: Config, table: OutcomeTable) -> Artifact:
    """The configured scorer fitted on the pool's columns of the table."""
    kind = configured_kind(config)
    for expert_id in config.pool.ids:
        if expert_id not in table.expert_ids:
            raise DatasetError(
                f"the outcomes hold no answers of expert {expert_id!r}; record them with `coe eval "
                f"zoo -c {config.file} --split all --record FILE`, then `coe fit -c {config.file} "
                "--outcomes FILE`"
            )
    columns = table.for_experts(config.pool.ids)
    return _fitted(kind, columns, encoder_for(config.encoder)).artifact()


def _fitted(kind: ScorerKind, table: OutcomeTable, encoder: Encoder) -> FittedScorer:
    try:
        return kind.fit(table, encoder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'fitting this router needs {error.name}: pip install "coe[fit]"', key="router.scorer"
        ) from None


def policy_for(config: Config) -> Policy:
    """The configured policy; a `ConfigError` names the file and the key."""
    named = config.router.policy
    try:
        return policy_named(named.kind, named.k, named.options)
    except ConfigError as error:
        key = "router.policy" + (f".options.{error.key}" if error.key else "")
        raise ConfigError(error.problem, file=str(config.file), key=key) from None


def load_router(source: Path | Config) -> Router:
    """The router of an `experts.yaml`, read from its fitted artifact."""
    config = source if isinstance(source, Config) else load_config(source)
    policy = policy_for(config)
    name = config.router.scorer
    if name == RandomScorer.name:
        return Router(RandomScorer(config.pool.ids), policy, config.pool)
    kind = configured_kind(config)
    artifact = Artifact.load(config.router.artifact)
    if artifact.manifest.scorer != name:
        raise PoolMismatch(
            f"router artifact {config.router.artifact.name!r}",
            artifact.manifest.scorer,
            name,
            "fit it again with `coe fit`",
        )
    encoder = encoder_for(config.encoder)
    artifact.check(config.pool.ids, encoder.name)
    try:
        return Router(kind.restore(artifact, encoder), policy, config.pool)
    except KeyError as error:
        raise ConfigError(
            f"damaged router artifact (it lacks {error}); fit it again with `coe fit`",
            file=str(config.router.artifact),
        ) from None


def configured_kind(config: Config) -> ScorerKind:
    """The configured scorer's kind; a `ConfigError` names the file and the key."""
    try:
        return scorer_kind(config.router.scorer)
    except ConfigError as error:
        raise ConfigError(error.problem, file=str(config.file), key="router.scorer") from None


def load_composition(source: Path | Config) -> Composition:
    """Router and engines of an `experts.yaml`. Nothing is started: experts load when asked."""
    config = source if isinstance(source, Config) else load_config(source)
    return Composition(
        load_router(config),
        engines_for(config),
        aggregator_for(config.router.aggregator),
        decides_slowly=config.encoder.kind != "static",
    )


def aggregator_for(kind: str) -> Aggregator:
    """Votes compare the answers that completions state, not their whole texts."""
    if kind == "first":
        return First()
    if kind == "weighted":
        return WeightedVote({}, read=stated_answer)
    return MajorityVote(read=stated_answer)


def engines_for(config: Config) -> dict[str, Engine]:
    """One engine for each expert, stopped. Local ones share the configured memory."""
    memory = LocalMemory(config.local_memory_gib, config.local_threads)
    patience_s = config.startup_timeout_s
    return {expert.id: _engine(expert, memory, patience_s) for expert in config.pool}


def _engine(expert: Expert, memory: LocalMemory, startup_timeout_s: float) -> Engine:
    spec = expert.engine
    if isinstance(spec, LocalSpec):
        return LocalEngine(expert, memory, startup_timeout_s)
    if isinstance(spec, OpenAISpec):
        return OpenAIEngine(expert)
    if isinstance(spec, ReplaySpec):
        return ReplayEngine(expert, startup_timeout_s)
    return ScriptedEngine(expert, startup_timeout_s=startup_timeout_s)
