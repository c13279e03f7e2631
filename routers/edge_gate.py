"""The gate of MoE²: a softmax over experts, masked to the set that is kept at the edge.

MoE² (arXiv 2501.09410) trains gating parameters by empirical cross-entropy and claims that they
stay optimal whichever subset is kept, so that training and selection come apart. The formulas are
our reading (the paper's could not be read): w_n(x; θ, S) = softmax of the logits inside S, and
L(θ, S) = −mean log Σ w_n p_n, where p_n is the recorded outcome of expert n, clipped below.

The claim holds where the gate's odds between two experts do not depend on who else is there, as
when exactly one expert is right on each query. It fails for experts that are right on the same
queries, because two twins share the weight that one of them alone would get. `subset_gaps`
therefore measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, UnknownExpert
from coe.outcomes import BoolArray, FloatArray

FLOOR = 0.01
"""Least probability an expert is credited with, so that no query weighs infinitely."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How a gate is trained."""

    l2: float = 1e-3
    """Weight of half the squared weights beside the mean loss; biases are free."""
    hidden: int = 0
    """Units of the tanh layer; 0 makes the gate linear."""
    seed: int = 0
    """Of the hidden layer's first weights."""
    max_iterations: int = 200


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Logits of experts from a query's vector: linear, or with one tanh layer before."""

    layers: tuple[tuple[FloatArray, FloatArray], ...]
    """(n_in, n_out) weights and (n_out,) biases of each layer."""

    def logits(self, vectors: FloatArray) -> FloatArray:
        """(n_queries, n_experts)"""
        return _activations(self.layers, vectors.astype(np.float64))[-1]

    def weights(self, vectors: FloatArray, allowed: BoolArray) -> FloatArray:
        """(n_queries, n_experts) softmax inside the allowed set; 0 outside, rows sum to 1."""
        return masked_softmax(self.logits(vectors), np.broadcast_to(allowed, (1, len(allowed))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As an artifact keeps it; `of_arrays` reads it back."""
        kept: dict[str, NDArray[Any]] = {}
        for i, (weights, biases) in enumerate(self.layers):
            kept[f"weights_{i}"], kept[f"biases_{i}"] = weights, biases
        return kept

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Gate:
        n = sum(name.startswith("weights_") for name in arrays)
        return cls(tuple((arrays[f"weights_{i}"], arrays[f"biases_{i}"]) for i in range(n)))


def masked_softmax(logits: FloatArray, allowed: BoolArray) -> FloatArray:
    """Row softmax over what is allowed, 0 elsewhere. Every row must allow something."""
    inside = np.where(allowed, logits, -np.inf)
    powers = np.exp(inside - inside.max(axis=1, keepdims=True))
    shares: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def top_k_weights(weights: FloatArray, k: int) -> FloatArray:
    """The k largest of each row, made to sum to 1 again; equals go to the earlier expert."""
    if not 1 <= k <= weights.shape[1]:
        raise ConfigError(f"k is {k}; give 1 to {weights.shape[1]}, the number of experts")
    order = np.argsort(-weights, axis=1, kind="stable")[:, :k]
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, order, np.take_along_axis(weights, order, axis=1), axis=1)
    renormalised: FloatArray = kept / kept.sum(axis=1, keepdims=True)
    return renormalised


def mixture_loss(
    gate: Gate, vectors: FloatArray, outcomes: FloatArray, allowed: BoolArray, k: int | None = None
) -> float:
    """L(θ, S) = −mean log Σ w_n p_n; NaN outcomes take no part in their query's mixture.

    With k only the k heaviest experts of each query are mixed.
    """
    measured = ~np.isnan(outcomes) & allowed
    rows = measured.any(axis=1)
    if not rows.any():
        raise DatasetError("no query has a measured outcome of an allowed expert")
    weights = masked_softmax(gate.logits(vectors[rows]), measured[rows])
    if k is not None:
        weights = top_k_weights(weights, k)
    credit = np.clip(np.nan_to_num(outcomes[rows]), FLOOR, 1.0)
    return float(-np.log((weights * credit).sum(axis=1)).mean())


def train_gate(
    vectors: FloatArray, outcomes: FloatArray, allowed: BoolArray, settings: GateSettings
) -> Gate:
    """Minimises `mixture_loss` over the allowed experts with L-BFGS; deterministic."""
    from scipy.optimize import minimize

    measured = ~np.isnan(outcomes) & allowed
    rows = measured.any(axis=1)
    if not rows.any():
        raise DatasetError("no query has a measured outcome of an allowed expert")
    objective = _Objective(
        vectors[rows].astype(np.float64), outcomes[rows], measured[rows], settings
    )
    found = minimize(
        objective,
        objective.start(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": settings.max_iterations, "ftol": 1e-12, "gtol": 1e-7},
    )
    return Gate(objective.layers(found.x))


@dataclass(frozen=True, slots=True)
class SubsetGap:
    """What a gate trained once loses on one subset against a gate trained for it."""

    members: tuple[int, ...]
    """Columns of the subset."""
    masked_loss: float
    """Trained on the full pool, masked to the subset."""
    retrained_loss: float

    @property
    def gap(self) -> float:
        """Nats a query; 0 means that training once was enough for this subset.

        A little below 0 is possible, as the training also minimises the l2 term.
        """
        return self.masked_loss - self.retrained_loss


def subset_gaps(
    vectors: FloatArray,
    outcomes: FloatArray,
    subsets: Sequence[Sequence[int]],
    settings: GateSettings | None = None,
) -> tuple[SubsetGap, ...]:
    """L(mask(θ*), S) and L(θ_S, S) for each subset S of columns: is one training enough?"""
    settings = settings or GateSettings()
    n = outcomes.shape[1]
    full = train_gate(vectors, outcomes, np.ones(n, bool), settings)
    gaps = []
    for subset in subsets:
        allowed = np.zeros(n, bool)
        allowed[list(subset)] = True
        own = train_gate(vectors, outcomes, allowed, settings)
        masked_loss = mixture_loss(full, vectors, outcomes, allowed)
        gaps.append(
            SubsetGap(tuple(subset), masked_loss, mixture_loss(own, vectors, outcomes, allowed))
        )
    return tuple(gaps)


def members_of(expert_ids: tuple[str, ...], subset: Sequence[str]) -> BoolArray:
    """(n_experts,) mask of the named experts; an empty set is a `ConfigError`."""
    if not subset:
        raise ConfigError("the allowed set is empty; name at least one expert", key="subset")
    for id_ in subset:
        if id_ not in expert_ids:
            raise UnknownExpert(id_, expert_ids)
    return np.isin(np.array(expert_ids), np.array(tuple(subset)))


class _Objective:
    """The regularised loss and its gradient over flat parameters."""

    def __init__(
        self, vectors: FloatArray, outcomes: FloatArray, measured: BoolArray, settings: GateSettings
    ) -> None:
        self._vectors = vectors
        self._measured = measured
        self._log_credit = np.log(np.clip(np.nan_to_num(outcomes), FLOOR, 1.0))
        self._settings = settings
        hidden = (settings.hidden,) if settings.hidden else ()
        sizes = (vectors.shape[1], *hidden, outcomes.shape[1])
        self._shapes = tuple(pairwise(sizes))

    def start(self) -> FloatArray:
        """Small random hidden weights, everything else 0: uniform weights."""
        rng = np.random.default_rng(self._settings.seed)
        parts = []
        for i, (n_in, n_out) in enumerate(self._shapes):
            is_last = i == len(self._shapes) - 1
            # Vectors have unit length, so this variance keeps tanh in its steep part.
            weights = np.zeros((n_in, n_out)) if is_last else rng.standard_normal((n_in, n_out))
            parts.append(np.concatenate([weights.ravel(), np.zeros(n_out)]))
        return np.concatenate(parts)

    def layers(self, flat: FloatArray) -> tuple[tuple[FloatArray, FloatArray], ...]:
        layers, at = [], 0
        for n_in, n_out in self._shapes:
            weights = flat[at : at + n_in * n_out].reshape(n_in, n_out)
            at += n_in * n_out
            layers.append((weights, flat[at : at + n_out]))
            at += n_out
        return tuple(layers)

    def __call__(self, flat: FloatArray) -> tuple[float, FloatArray]:
        layers = self.layers(flat)
        activations = _activations(layers, self._vectors)
        prior = masked_softmax(activations[-1], self._measured)
        joint = prior * np.exp(self._log_credit)
        likelihood = joint.sum(axis=1, keepdims=True)
        # d/dlogit of −log Σ w p is w − (w p) / Σ w p: prior less posterior.
        slope = (prior - joint / likelihood) / len(prior)
        loss = -float(np.log(likelihood).mean())
        parts: list[FloatArray] = []
        for i in reversed(range(len(layers))):
            weights = layers[i][0]
            loss += 0.5 * self._settings.l2 * float((weights**2).sum())
            gradient = activations[i].T @ slope + self._settings.l2 * weights
            parts = [gradient.ravel(), slope.sum(axis=0), *parts]
            if i:
                slope = (slope @ weights.T) * (1.0 - activations[i] ** 2)
        return loss, np.concatenate(parts)


def _activations(
    layers: tuple[tuple[FloatArray, FloatArray], ...], vectors: FloatArray
) -> list[FloatArray]:
    """The input, each tanh layer, and the logits last."""
    found = [vectors]
    for i, (weights, biases) in enumerate(layers):
        raw = found[-1] @ weights + biases
        found.append(raw if i == len(layers) - 1 else np.tanh(raw))
    return found
