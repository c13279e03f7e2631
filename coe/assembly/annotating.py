"""The expert that names skills for the `symbolic` scorer: opened anew for each asking."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from coe.assembly.engines import engine_for
from coe.assembly.scorers import ScorerKind, configured_kind
from coe.config import Config
from coe.engines.base import collect
from coe.engines.local_memory import LocalMemory
from coe.errors import ConfigError
from coe.routers.annotators import Annotator, Complete, OpenExpert
from coe.routers.artifacts import Artifact
from coe.routers.symbolic import SymbolicScorer
from coe.routers.symbolic_keywords import fitting_annotator, keyword_expert, serving_annotator


def fitting_kind(config: Config, annotator: str | None, annotations: Path | None) -> ScorerKind:
    """The configured scorer, told skills by the named expert while it is fitted.

    `annotations` keeps what the expert named, so that an interrupted fit goes on from there.
    """
    kind = configured_kind(config)
    if annotator is None:
        return kind
    if config.router.scorer != SymbolicScorer.name:
        raise ConfigError(
            f"only `{SymbolicScorer.name}` asks an expert for skills",
            file=str(config.file),
            key="router.scorer",
        )
    opener = expert_opener(config, annotator)
    return annotated_kind(fitting_annotator(annotator, opener, annotations))


def serving_kind(config: Config, artifact: Artifact) -> ScorerKind:
    """The configured scorer, asking the expert that it was fitted with."""
    expert_id = keyword_expert(artifact.manifest)
    if expert_id is None:
        return configured_kind(config)
    return annotated_kind(serving_annotator(expert_id, expert_opener(config, expert_id)))


def asks_an_expert(artifact: Artifact) -> bool:
    """Whether every query is shown to an expert before it is routed."""
    return keyword_expert(artifact.manifest) is not None


def expert_opener(config: Config, expert_id: str) -> OpenExpert:
    """Opens the expert with an engine of its own: those that serve belong to another event loop."""
    expert = config.pool.expert(expert_id)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Complete]:
        memory = LocalMemory(config.local_memory_gib, config.local_threads)
        engine = engine_for(expert, memory, config)
        try:
            yield lambda request: collect(expert_id, engine.stream(request))
        finally:
            await engine.stop(5.0)

    return opened


def annotated_kind(annotator: Annotator) -> ScorerKind:
    """`symbolic` with an annotator, to be fitted or restored like any other kind."""
    return ScorerKind(
        lambda table, encoder: SymbolicScorer.fit(table, encoder, annotator),
        lambda artifact, encoder: SymbolicScorer(artifact, encoder, annotator),
    )
