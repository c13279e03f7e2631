"""What answers requests: a router read from its fitted artifact, engines and an aggregator."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coe.aggregation import (
    Aggregator,
    Chain,
    First,
    LLMAggregator,
    MajorityVote,
    WeightedVote,
    stated_answer,
)
from coe.assembly.annotating import asks_an_expert, serving_kind
from coe.assembly.bounding import bounds_by_category
from coe.assembly.engines import encoder_for, engines_for, local_memory
from coe.assembly.guards import Guards
from coe.assembly.hosting import hosted
from coe.assembly.operating import Operator
from coe.assembly.scorers import configured_kind
from coe.assembly.served import Served
from coe.composition import Composition, Conduct
from coe.config import AggregatorConfig, Config, load_config
from coe.counting import CountedEngines
from coe.engines.base import Engine
from coe.engines.local_memory import LocalMemory
from coe.engines.retrying import RetryBudget
from coe.errors import ConfigError, PoolMismatch
from coe.routers.artifacts import Artifact
from coe.routers.baselines import RandomScorer
from coe.routers.calibrated import CalibratedScorer, calibration_of
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import PolicySpec, check_spec, policy_of, usual_k
from coe.routers.policies.guard import JudgedScorer, Verdict
from coe.routing import AdaptivePolicy, Policy, Router, Scorer
from coe.scheduling import SwapScheduler
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.planned import PlannedScheduler
from coe.scheduling.planned_pool import PlannedPool
from coe.wishes import Bounds

_FIX = "fit it again with `coe fit`"
_NOTHING_FITTED: Mapping[str, Artifact] = {}


def load_composition(source: Path | Config, records: Path | None = None) -> Composition:
    """Router and engines of an `experts.yaml`. Nothing is started: experts load when asked.

    `records`: the folder in which every answer is recorded, a file for each expert.
    """
    config = source if isinstance(source, Config) else load_config(source)
    return _composed(config, records, SwapScheduler)[0]


def load_operated(
    source: Path | Config, records: Path | None = None
) -> tuple[Composition, Operator]:
    """As `load_composition`, and what an operator may do to it while it serves."""
    config = source if isinstance(source, Config) else load_config(source)
    memory = local_memory(config)
    composition, dispatcher, guards = _composed(config, records, SwapScheduler, memory)
    assert dispatcher is not None, "an open pool has one in any case"
    return composition, Operator(Served(config, composition, dispatcher, memory, guards))


def load_planned(source: Path | Config) -> tuple[Composition, PlannedPool | None]:
    """As `load_composition`, for a batch: its hosted experts follow a plan; None: nobody is."""
    config = _unmoved(source if isinstance(source, Config) else load_config(source))
    composition, dispatcher, _ = _composed(config, None, PlannedScheduler)
    return composition, _planned_pool(config, dispatcher)


def planned_engines(config: Config) -> tuple[dict[str, Engine], PlannedPool | None]:
    """The engines alone, for a batch that asks them without a router."""
    config = _unmoved(config)
    engines, dispatcher = hosted(config, engines_for(config), PlannedScheduler)
    return engines, _planned_pool(config, dispatcher)


def _unmoved(config: Config) -> Config:
    """Where experts go is the plan's to say."""
    return replace(config, scheduling=replace(config.scheduling, rebalance_s=None))


def _planned_pool(config: Config, dispatcher: Dispatcher | None) -> PlannedPool | None:
    if dispatcher is None or not isinstance(dispatcher.scheduler, PlannedScheduler):
        return None
    writes = config.router.aggregator.kind == "llm"
    writer = config.router.aggregator.expert if writes else None
    return PlannedPool(dispatcher, dispatcher.scheduler, writer)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a configuration routes with, read and checked."""

    config: Config
    artifact: Artifact | None
    router: Router
    vote: LearnedVote | None
    bounds: Bounds


def prepare(config: Config) -> Prepared:
    """Reads the artifact and the encoder; takes its time. Raises `ConfigError`, `PoolMismatch`."""
    artifact = _artifact(config)
    return Prepared(
        config,
        artifact,
        _router(config, artifact),
        _vote(config, artifact),
        Bounds(spec_for(config), bounds_by_category(config, artifact)),
    )


def _composed(
    config: Config,
    records: Path | None,
    make: type[SwapScheduler],
    memory: LocalMemory | None = None,
) -> tuple[Composition, Dispatcher | None, Guards]:
    """`memory`: what local experts share, of a pool that experts may be added to."""
    prepared = prepare(config)
    is_open = memory is not None
    engines, dispatcher = hosted(config, engines_for(config, memory), make, is_open)
    guards = Guards(config, records)
    at_home = () if dispatcher is None else dispatcher.engines
    counted = CountedEngines(
        {
            expert.id: guards.around(expert, engines[expert.id], expert.id in at_home)
            for expert in config.pool
        }
    )
    composition = Composition(
        prepared.router,
        counted,
        aggregator_for(config.router.aggregator, counted, prepared.vote),
        conduct_for(prepared, guards.budget),
        close=None if dispatcher is None else dispatcher.shut_down,
    )
    return composition, dispatcher, guards


def conduct_for(prepared: Prepared, budget: RetryBudget) -> Conduct:
    config, told = prepared.config, prepared.config.router
    return Conduct(
        failovers=told.failovers,
        first_word_share=told.first_word_share,
        switch_cost=told.switch_cost,
        decides_slowly=_decides_slowly(config, prepared.artifact),
        budget=budget,
        bounds=prepared.bounds,
        revision=_revision(prepared),
    )


def _revision(prepared: Prepared) -> str:
    """Of the file's router section and of what was fitted."""
    fitted = None if prepared.artifact is None else prepared.artifact.manifest
    told = f"{prepared.config.router!r} {fitted!r}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def load_router(source: Path | Config) -> Router:
    """The router of an `experts.yaml`, read from its fitted artifact."""
    config = source if isinstance(source, Config) else load_config(source)
    return _router(config, _artifact(config))


def aggregator_for(
    config: AggregatorConfig, engines: Mapping[str, Engine], vote: LearnedVote | None = None
) -> Aggregator:
    """Votes compare the answers that completions state, not their whole texts.

    `vote` is what was fitted for kind "learned".
    """
    if config.kind == "learned":
        if vote is None:
            raise ConfigError(f"a learned vote has to be fitted; {_FIX}", key="router.aggregator")
        return vote
    if config.kind == "llm":
        writer, otherwise = engines[config.expert or ""], MajorityVote(read=stated_answer)
        return LLMAggregator(writer, max_chars=config.max_chars, otherwise=otherwise)
    if config.kind == "chain":
        return Chain(config.max_chars)
    if config.kind == "first":
        return First(read=stated_answer)
    if config.kind == "weighted":
        return WeightedVote({}, read=stated_answer)
    return MajorityVote(read=stated_answer)


def spec_for(config: Config) -> PolicySpec:
    """The configured policy, its names checked; a `ConfigError` names the file and the key."""
    named = config.router.policy
    k = usual_k(named.kind) if named.k is None else named.k
    spec = PolicySpec(named.kind, k, named.options)
    try:
        check_spec(spec)
    except ConfigError as error:
        raise _of_policy(config, error) from None
    return spec


def _artifact(config: Config) -> Artifact | None:
    """What `coe fit` wrote, checked against the configuration; None where nothing is fitted."""
    spec = spec_for(config)  # told before anything is read
    if config.router.scorer == RandomScorer.name:
        if not spec.is_tuned or config.router.aggregator.kind == "learned":
            raise ConfigError(
                "`random` is not fitted, and neither is anything for it; choose another scorer",
                file=str(config.file),
                key="router.scorer",
            )
        return None
    configured_kind(config)
    artifact = Artifact.load(config.router.artifact)
    if artifact.manifest.scorer != config.router.scorer:
        raise PoolMismatch(
            f"router artifact {config.router.artifact.name!r}",
            artifact.manifest.scorer,
            config.router.scorer,
            _FIX,
        )
    return artifact


def _router(config: Config, artifact: Artifact | None) -> Router:
    policy = _policy(config, artifact)
    if artifact is None:
        return Router(RandomScorer(config.pool.ids), policy, config.pool)
    encoder = encoder_for(config.encoder)
    artifact.check(config.pool.ids, encoder.name)
    try:
        scorer: Scorer = serving_kind(config, artifact).restore(artifact, encoder)
        if "calibration" in artifact.parts:
            calibration = calibration_of(artifact.parts["calibration"])
            scorer = CalibratedScorer(scorer, calibration)
        if artifact.manifest.guard is not None:
            scorer = JudgedScorer(scorer, Verdict.of_manifest(artifact.manifest.guard))
    except KeyError as error:
        raise ConfigError(
            f"damaged router artifact (it lacks {error}); {_FIX}",
            file=str(config.router.artifact),
        ) from None
    return Router(scorer, policy, config.pool)


def _decides_slowly(config: Config, artifact: Artifact | None) -> bool:
    asks = artifact is not None and asks_an_expert(artifact)
    return asks or config.encoder.kind != "static"


def _policy(config: Config, artifact: Artifact | None) -> Policy | AdaptivePolicy:
    spec = spec_for(config)
    if not spec.is_tuned:
        parts = _NOTHING_FITTED if artifact is None else artifact.parts
        found = parts["policy"].manifest.settings if "policy" in parts else {}
        if found.get("given") != str(spec):
            raise ConfigError(
                f"numbers for {spec} are not fitted yet; {_FIX}",
                file=str(config.file),
                key="router.policy",
            )
        spec = PolicySpec.parsed(found["tuned"])
    try:
        return policy_of(spec, _vote(config, artifact))
    except ConfigError as error:
        raise _of_policy(config, error) from None


def _vote(config: Config, artifact: Artifact | None) -> LearnedVote | None:
    """The fitted vote where the aggregator is one; adaptive policies then believe it, too."""
    if config.router.aggregator.kind != "learned" or artifact is None:
        return None
    if "vote" not in artifact.parts:
        raise ConfigError(
            f"the vote is not fitted yet; {_FIX}", file=str(config.file), key="router.aggregator"
        )
    return LearnedVote(artifact.parts["vote"], read=stated_answer)


def _of_policy(config: Config, error: ConfigError) -> ConfigError:
    key = "router.policy" + (f".options.{error.key}" if error.key else "")
    return ConfigError(error.problem, file=str(config.file), key=key)
