"""A scorer whose scores are made to be probabilities, for policies and votes that read them so."""

from __future__ import annotations

from collections.abc import Sequence

from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import Calibration
from coe.routers.policies.catalog import PolicySpec
from coe.routers.policies.kinds import KINDS
from coe.routing import Explainer, FloatArray, Scorer
from coe.types import Query

_PREFIX = "calibration"
_READ_AS_PROBABILITIES = frozenset({"multiplier", "budget", "calls", "threshold"})
_WEIGHING = ("weighted", "learned")
"""Votes that weigh experts by their chances."""


def reads_probabilities(spec: PolicySpec, aggregator: str) -> bool:
    """Whether scores must be probabilities for this policy and vote to mean what they say.

    A policy that only ranks sees the scorer's own scores: calibration, expert by expert, may
    change who is first.
    """
    kind = KINDS.get(spec.kind)
    takes_model = kind is not None and kind.takes_model
    is_priced = not _READ_AS_PROBABILITIES.isdisjoint(spec.options)
    return takes_model or is_priced or aggregator in _WEIGHING


class CalibratedScorer:
    """The scorer's own predictions, mapped expert by expert to how often they come true."""

    def __init__(self, scorer: Scorer, calibration: Calibration) -> None:
        self.scorer = scorer
        self.name = scorer.name
        self.expert_ids = scorer.expert_ids
        self._calibration = calibration

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return self._calibration.probabilities(self.scorer.score(queries))

    def explain(self, query: Query) -> tuple[str, ...]:
        return self.scorer.explain(query) if isinstance(self.scorer, Explainer) else ()


def calibration_artifact(calibration: Calibration, of: Manifest) -> Artifact:
    """`of`: the manifest of the scorer that it was fitted for."""
    settings = {"of": of.scorer, "method": calibration.method}
    manifest = Manifest(
        _PREFIX, of.expert_ids, of.data_digest, of.n_queries, of.encoder, settings=settings
    )
    return Artifact(manifest, calibration.arrays(_PREFIX))


def calibration_of(artifact: Artifact) -> Calibration:
    """What `calibration_artifact` made; raises `ConfigError` if it is another thing."""
    return Calibration.of_arrays(_PREFIX, artifact.arrays)
