"""A scorer whose scores are made to be probabilities, for policies and votes that read them so."""

from __future__ import annotations

from collections.abc import Sequence

from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import Calibration
from coe.routing import Explainer, FloatArray, Scorer
from coe.types import Query

_PREFIX = "calibration"


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
