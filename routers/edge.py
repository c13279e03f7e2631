"""MoE²: keep the experts that fit the edge's budgets, then let a gate choose among them.

MoE², Mixture-of-Edge-Experts (arXiv 2501.09410), decides on two levels: which experts to keep
under energy and latency budgets (coarse, once), and which of those to ask (fine, for each query,
Top-k of a gate). Only the outline of the paper could be read, so every formula behind this is our
reading, and there is no published number to compare with. The parts are `edge_gate` (training,
masking, and what masking loses), `edge_costs` (delay, energy, budgets) and `edge_selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coe.errors import ConfigError, DatasetError, PoolMismatch
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.edge_costs import Budgets, EdgeCosts, Limits
from coe.routers.edge_gate import Gate, GateSettings, members_of, train_gate
from coe.routers.edge_selection import Selection, TopValue, branch_reduce_bound
from coe.routing import Encoder, FloatArray
from coe.types import Query


class EdgeScorer:
    """Gate weights inside the kept set: a share for each expert, 0 for those outside.

    An expert that was never measured cannot be weighed and stays outside.
    """

    name = "edge"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.subset: tuple[str, ...] = tuple(artifact.manifest.settings["subset"])
        self._allowed = members_of(self.expert_ids, self.subset)
        self._gate = Gate.of_arrays(artifact.arrays)

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        l2: float = 1e-3,
        hidden: int = 0,
        seed: int = 0,
    ) -> EdgeScorer:
        """Trains the gate over all measured experts; `within` masks it to a set later on.

        The default `l2` did best in cross-validation on recorded answers (3,603 queries, 14 and
        28 experts); `hidden` 0 is a linear gate.
        """
        measured = np.asarray((~np.isnan(table.scores)).any(axis=0))
        if table.n_queries == 0 or not measured.any():
            raise DatasetError("the edge gate needs at least one measured outcome to be fitted on")
        vectors = encoder.encode([query.text for query in table.queries])
        gate = train_gate(vectors, table.scores, measured, GateSettings(l2, hidden, seed))
        kept = [id_ for id_, is_in in zip(table.expert_ids, measured, strict=True) if is_in]
        manifest = Manifest(
            cls.name,
            table.expert_ids,
            table.digest(),
            table.n_queries,
            encoder.name,
            {"subset": kept, "measured": kept, "l2": l2, "hidden": hidden, "seed": seed},
        )
        return cls(Artifact(manifest, gate.arrays()), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def within(self, expert_ids: Sequence[str]) -> EdgeScorer:
        """The same gate masked to these experts; it is not trained again."""
        members_of(self.expert_ids, expert_ids)
        measured = self._artifact.manifest.settings["measured"]
        if unknown := [id_ for id_ in expert_ids if id_ not in measured]:
            raise ConfigError(
                f"{', '.join(unknown)} was never measured; leave it out", key="subset"
            )
        manifest = self._artifact.manifest
        settings = {**manifest.settings, "subset": [i for i in self.expert_ids if i in expert_ids]}
        kept = replace(manifest, settings=settings)
        return EdgeScorer(Artifact(kept, self._artifact.arrays), self._encoder)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        if not len(queries):
            return np.zeros((0, len(self.expert_ids)))
        return self._gate.weights(vectors, self._allowed)

    def explain(self, query: Query) -> tuple[str, ...]:
        weights = self.score([query])[0]
        first, second = np.argsort(-weights, kind="stable")[:2].tolist() + [0] * (len(weights) < 2)
        beside = f", {self.expert_ids[second]} {weights[second]:.0%}" if weights[second] > 0 else ""
        return (
            f"the gate gives {self.expert_ids[first]} {weights[first]:.0%} of the weight{beside}, "
            f"among {len(self.subset)} of {len(self.expert_ids)} experts kept at the edge",
        )


@dataclass(frozen=True, slots=True)
class GatedTopK:
    """The k heaviest experts of a gate, but none without weight: nothing outside the set."""

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k is {self.k}; give at least 1", key="k")

    @property
    def name(self) -> str:
        return f"gated-top-{self.k}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        order = np.argsort(-scores, kind="stable")[: self.k]
        heavy = [i for i in order if scores[i] > 0] or [order[0]]
        return tuple(pool.experts[i].id for i in heavy)


def keep_within(
    scorer: EdgeScorer,
    expected: FloatArray,
    costs: EdgeCosts,
    budgets: Budgets,
    classes: Sequence[str | None] = (),
) -> tuple[EdgeScorer, Selection]:
    """The gate masked to the best set within the budgets, and that set.

    `expected` (n_queries, n_experts) says how well each expert is expected to do, in [0, 1].
    Recorded outcomes may stand for it, but a set chosen by single right answers is chosen partly
    by luck: smoothed predictions, such as a kNN's on held-out queries, make better ones.
    Raises `RoutingError` if no set fits.
    """
    if costs.expert_ids != scorer.expert_ids:
        raise PoolMismatch(
            "edge costs",
            ", ".join(scorer.expert_ids),
            ", ".join(costs.expert_ids),
            "give the costs of the pool that the gate was fitted on, in its order",
        )
    chosen = branch_reduce_bound(TopValue(expected), Limits(costs, budgets, classes))
    return scorer.within([scorer.expert_ids[i] for i in chosen.columns]), chosen
