"""Matrix factorisation: an expert's vector against the projected query.

RouteLLM (arXiv 2406.18665, section 4.2): δ(M, q) = w2ᵀ (v_M ⊙ (W1ᵀ v_q + b)), and expert M beats
N with probability σ(δ(M, q) - δ(N, q)). w2 is absorbed in the expert's vector here, since neither
is constrained in the paper's formula. RouteLLM learns from battles of two models. An outcome
table says more, namely who was right, so that the default form fits σ(δ) to the outcomes
directly, with an intercept for each expert; the form "pairwise" is the paper's loss, over all
pairs of experts whose outcomes differ. The choice of rank and penalty is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import expected_calibration_error
from coe.routers.folds import fold_numbers, routed_outcome
from coe.routers.logistic import log_loss, logit, minimized, sigmoid, smoothed_means
from coe.routing import Encoder, FloatArray
from coe.types import Query

BoolArray = NDArray[np.bool_]

Form = Literal["pointwise", "pairwise"]
FORMS: tuple[Form, ...] = ("pointwise", "pairwise")
RANK = 8
C_GRID = (0.02, 0.04, 0.08)
"""Inverse strength of the penalty on both factors."""
_N_TUNING_FOLDS = 3
_CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """δ(M, q) = intercept[M] + experts[M] · (projection q)."""

    experts: FloatArray
    """(n_experts, rank)."""
    projection: FloatArray
    """(rank, dim + 1): the last column multiplies the constant 1 and is the paper's b."""
    intercepts: FloatArray
    """(n_experts,)."""

    def strengths(self, vectors: FloatArray) -> FloatArray:
        """(n_queries, n_experts) δ."""
        strengths: FloatArray = (
            _with_constant(vectors) @ self.projection.T @ self.experts.T + self.intercepts
        )
        return strengths


class FactorizationScorer:
    """A bilinear model of expert and query: probabilities, or strengths if fitted pairwise."""

    name = "factorization"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.form: Form = artifact.manifest.settings["form"]
        arrays = artifact.arrays
        self._factors = Factors(arrays["experts"], arrays["projection"], arrays["intercepts"])

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        c: float | None = None,
        form: Form = "pointwise",
        seed: int = 0,
    ) -> FactorizationScorer:
        """`c` None takes the best of `C_GRID` by routing held-out folds."""
        if table.n_queries == 0:
            raise DatasetError("factorisation needs at least one query to be fitted on")
        if form not in FORMS:
            raise ConfigError(f"unknown form {form!r} (known: {', '.join(FORMS)})")
        vectors = encoder.encode([query.text for query in table.queries])
        tuned = {"c": c} if c is not None else _tuned(vectors, table.scores, form, seed)
        factors = factorized(vectors, table.scores, tuned["c"], form, seed)
        settings = {**tuned, "c_given": c is not None, "form": form, "rank": RANK, "seed": seed}
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        arrays = {
            "experts": factors.experts,
            "projection": factors.projection,
            "intercepts": factors.intercepts,
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        strengths = self._factors.strengths(vectors)
        return sigmoid(strengths) if self.form == "pointwise" else strengths

    def win_rate(self, expert_id: str, other_id: str, query: Query) -> float:
        """Probability that one expert beats the other on the query, σ(δ - δ')."""
        for id_ in (expert_id, other_id):
            if id_ not in self.expert_ids:
                raise UnknownExpert(id_, self.expert_ids)
        strengths = self._factors.strengths(self._encoder.encode([query.text]))[0]
        one, other = (self.expert_ids.index(id_) for id_ in (expert_id, other_id))
        return float(sigmoid(strengths[one] - strengths[other]))

    def explain(self, query: Query) -> tuple[str, ...]:
        scores = self.score([query])[0]
        best, *others = np.argsort(-scores, kind="stable")
        first = self.expert_ids[best]
        if not others:
            return (f"{first} is the only expert",)
        second = self.expert_ids[others[0]]
        rate = self.win_rate(first, second, query)
        return (f"{first} is expected to beat {second} with probability {rate:.0%}",)


def factorized(
    vectors: FloatArray, outcomes: FloatArray, c: float, form: Form = "pointwise", seed: int = 0
) -> Factors:
    """Factors that minimise the form's cross-entropy + (|experts|² + |projection|²) / (2 c)."""
    x = _with_constant(vectors)
    n_experts, dim = outcomes.shape[1], x.shape[1]
    rank = min(RANK, n_experts)
    base = logit(smoothed_means(outcomes))
    drawn = np.random.default_rng(seed)
    start = [drawn.normal(0, 0.3, (n_experts, rank)), drawn.normal(0, 0.3, (rank, dim))]
    measured = ~np.isnan(outcomes)
    y = np.where(measured, outcomes, 0.0)
    slopes_of = pointwise_loss if form == "pointwise" else pairwise_loss
    split = n_experts * rank

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        u, w = flat[:split].reshape(n_experts, rank), flat[split:-n_experts].reshape(rank, dim)
        shift = flat[-n_experts:]
        projected = x @ w.T
        value, slope = slopes_of(projected @ u.T + base + shift, y, measured)
        value += 0.5 * float(flat @ flat) / c
        return value, np.concatenate(
            [
                (slope.T @ projected + u / c).ravel(),
                ((x.T @ (slope @ u)).T + w / c).ravel(),
                slope.sum(axis=0) + shift / c,
            ]
        )

    first = np.concatenate([*(part.ravel() for part in start), np.zeros(n_experts)])
    flat = minimized(loss, first)
    return Factors(
        flat[:split].reshape(n_experts, rank),
        flat[split:-n_experts].reshape(rank, dim),
        base + flat[-n_experts:],
    )


def pointwise_loss(
    logits: FloatArray, y: FloatArray, measured: BoolArray
) -> tuple[float, FloatArray]:
    """Cross-entropy of each measured outcome, and its slope by logit."""
    losses = (np.logaddexp(0.0, logits) - y * logits) * measured
    return float(losses.sum()), (sigmoid(logits) - y) * measured


def pairwise_loss(
    logits: FloatArray, y: FloatArray, measured: BoolArray
) -> tuple[float, FloatArray]:
    """Cross-entropy of who beats whom, over pairs of measured outcomes that differ."""
    value, slope = 0.0, np.empty_like(logits)
    for at in range(0, len(logits), _CHUNK):
        part = slice(at, at + _CHUNK)
        ahead = logits[part, :, None] - logits[part, None, :]
        both = measured[part, :, None] & measured[part, None, :]
        won = both & (y[part, :, None] > y[part, None, :])
        # Σ over winners i and losers j of log(1 + exp(-(δ_i - δ_j))).
        value += float((np.logaddexp(0.0, -ahead) * won).sum())
        pull = sigmoid(-ahead) * won
        slope[part] = pull.sum(axis=1) - pull.sum(axis=2)
    return value, slope


def _tuned(vectors: FloatArray, outcomes: FloatArray, form: Form, seed: int) -> dict[str, float]:
    """The strength that routes held-out rows best, the smallest of equals, and how it did."""
    folds = fold_numbers(len(vectors), seed, _N_TUNING_FOLDS)
    held_out = np.zeros((len(C_GRID), *outcomes.shape))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rest = ~held if not held.all() else held
        for i, c in enumerate(C_GRID):
            factors = factorized(vectors[rest], outcomes[rest], c, form, seed)
            held_out[i, held] = factors.strengths(vectors[held])
    best = int(np.argmax([routed_outcome(scores, outcomes) for scores in held_out]))
    told = {"c": C_GRID[best], "held_out_outcome": routed_outcome(held_out[best], outcomes)}
    if form == "pointwise":
        chances = sigmoid(held_out[best])
        told["held_out_log_loss"] = log_loss(chances, outcomes)
        told["held_out_ece"] = expected_calibration_error(chances, outcomes)
    return told


def _with_constant(vectors: FloatArray) -> FloatArray:
    return np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])
