"""Routing: encoders describe, scorers predict, policies decide, a router joins them.

A scorer predicts how well each expert would answer; a policy turns one row of scores into
the experts to call. One fitted scorer therefore yields a whole cost-quality curve, one policy
a point. How a router is read from files is decided in `coe.assembly`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coe.errors import PoolMismatch, RoutingError
from coe.experts import ExpertPool
from coe.ids import new_id
from coe.types import Query

if TYPE_CHECKING:
    from coe.outcomes import OutcomeTable

FloatArray = NDArray[np.floating]
_PINNED = "pinned"


class Encoder(Protocol):
    """Maps texts to unit vectors, one row each. Deterministic; order is kept."""

    @property
    def name(self) -> str:
        """Identifies the vectors: two encoders of one name give the same vectors."""
        ...

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, dim) float32. A text without any known token is the zero vector."""
        ...


class Scorer(Protocol):
    """Predicts how well each expert would answer each query. Pure and batched."""

    @property
    def name(self) -> str: ...

    @property
    def expert_ids(self) -> tuple[str, ...]:
        """The columns of `score`, in order."""
        ...

    def score(self, queries: Sequence[Query]) -> FloatArray:
        """(n_queries, n_experts), higher is better, finite."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A scorer that can say in words why it scored one query so."""

    def explain(self, query: Query) -> tuple[str, ...]: ...


class Policy(Protocol):
    """Turns one row of scores into the experts to call, best first. Never empty."""

    @property
    def name(self) -> str: ...

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        """`scores` follows the pool's order. Equal scores go to the earlier expert."""
        ...


@runtime_checkable
class KeepsSession(Protocol):
    """A policy that goes by who answered the session's last request, too."""

    def for_session(self, previous: str | None) -> Policy:
        """The policy for one request; None where nobody has answered yet."""
        ...


@runtime_checkable
class NamesExperts(Protocol):
    """A policy that knows experts by name, and would miss those that a pool lacks."""

    def without(self, expert_ids: Collection[str]) -> Policy:
        """The policy for a pool without these; raises `RoutingError` if it knows no other."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What one expert that was asked has answered."""

    expert_id: str
    answer: str | None
    """None: it failed, or no answer could be read from its completion."""


@runtime_checkable
class AdaptivePolicy(Protocol):
    """Asks one expert at a time and decides after each answer whom to ask next."""

    @property
    def name(self) -> str: ...

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        """The next expert, never one already heard, or None to stop.

        `scores` follows the pool's order; `heard` is in the order asked, empty at first, when an
        expert is always named.
        """
        ...


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """The recorded choice for one query."""

    query_id: str
    experts: tuple[str, ...]
    """Best first. One: routed; several: recruited. Of an adaptive policy the first one."""
    scores: Mapping[str, float]
    router: str
    """Scorer and policy, as `scorer/policy`."""
    reasons: tuple[str, ...] = ()
    """What decided it, in words a user can check."""

    @classmethod
    def pinned(cls, expert_id: str, query_id: str = "") -> RoutingDecision:
        """An expert that was asked for by name."""
        return cls(query_id, (expert_id,), {}, _PINNED, (f"{expert_id} was asked for by name",))

    @property
    def is_pinned(self) -> bool:
        """Whether the caller chose; such a decision is never changed."""
        return self.router == _PINNED


class Router:
    """A scorer, a policy and a pool. Immutable and free of side effects."""

    def __init__(self, scorer: Scorer, policy: Policy | AdaptivePolicy, pool: ExpertPool) -> None:
        if scorer.expert_ids != pool.ids:
            raise PoolMismatch(
                f"scorer {scorer.name!r}",
                ", ".join(scorer.expert_ids),
                ", ".join(pool.ids),
                "fit it again with `coe fit`",
            )
        self.scorer = scorer
        self.policy = policy
        self.pool = pool
        # Told apart once: a check against a protocol takes longer than a choice.
        self._adaptive: AdaptivePolicy | None = None
        self._static: Policy | None = None
        self._keeping: KeepsSession | None = None
        if isinstance(policy, AdaptivePolicy):
            self._adaptive = policy
        else:
            self._static = policy
            self._keeping = policy if isinstance(policy, KeepsSession) else None

    @property
    def name(self) -> str:
        return f"{self.scorer.name}/{self.policy.name}"

    def route(self, query: Query | str, *, explain: bool = True) -> RoutingDecision:
        """Chooses experts for one query. Spelling the reasons out costs a second look at it."""
        asked = Query.of(query)
        decision = self._decide(asked, self._checked_scores([asked])[0])
        return replace(decision, reasons=self._reasons(asked, decision)) if explain else decision

    def route_batch(self, queries: Sequence[Query | str]) -> list[RoutingDecision]:
        """Chooses experts for many queries at once, in order, without reasons."""
        if not queries:
            return []
        asked = [Query.of(query) for query in queries]
        scores = self._checked_scores(asked)
        return [self._decide(query, row) for query, row in zip(asked, scores, strict=True)]

    @property
    def is_adaptive(self) -> bool:
        """Whether the policy asks one expert at a time and looks at the answers."""
        return self._adaptive is not None

    def next_expert(self, decision: RoutingDecision, heard: Sequence[Heard]) -> str | None:
        """Whom to ask after what was heard on a query, None to stop.

        `heard` is in the order asked, empty at first. A static policy's experts come in turn.
        """
        if self._adaptive is not None:
            row = np.array([decision.scores[id_] for id_ in self.pool.ids])
            return self._adaptive.next(row, self.pool, heard)
        return next((id_ for id_ in decision.experts[len(heard) :]), None)

    def replacement(self, decision: RoutingDecision, failed: Collection[str]) -> str | None:
        """Whom the policy would have chosen without the experts that failed; None: nobody.

        A limit on cost holds for it as for the first choice. A pinned expert and those of an
        adaptive policy, which asks on by itself, have no replacement.
        """
        policy = self._static
        left = [id_ for id_ in self.pool.ids if id_ not in failed]
        if decision.is_pinned or policy is None or not left:
            return None
        row = np.array([decision.scores[id_] for id_ in left])
        try:
            if isinstance(policy, NamesExperts):
                policy = policy.without(failed)
            return policy.choose(row, self.pool.subset(left))[0]
        except RoutingError:
            return None

    def with_policy(self, policy: Policy | AdaptivePolicy) -> Router:
        """The same predictions under another policy."""
        return Router(self.scorer, policy, self.pool)

    @classmethod
    def load(cls, path: str | Path) -> Router:
        """The router that an `experts.yaml` describes, with its fitted artifact.

        Raises `ConfigError` if the file is wrong or names a router that is not fitted yet.
        """
        # The one deferred upward import: the door is here, the wiring is there.
        from coe.assembly import load_router

        return load_router(Path(path))

    @classmethod
    def fit(cls, table: OutcomeTable, pool: ExpertPool, scorer: str = "knn") -> Router:
        """A top-1 router whose named scorer is fitted on recorded outcomes."""
        from coe.assembly import fit_router

        return fit_router(table, pool, scorer)

    def _checked_scores(self, queries: Sequence[Query]) -> FloatArray:
        scores = self.scorer.score(queries)
        if not np.isfinite(scores).all():
            raise RoutingError(f"scorer {self.scorer.name!r} gave scores that are not finite")
        return scores

    def _decide(self, query: Query, row: FloatArray) -> RoutingDecision:
        experts = self._first_experts(row, query.previous_expert)
        if not experts:
            raise RoutingError(f"policy {self.policy.name!r} chose no expert")
        scores = dict(zip(self.pool.ids, row.tolist(), strict=True))
        return RoutingDecision(query.id or new_id(), experts, scores, self.name)

    def _first_experts(self, row: FloatArray, previous: str | None) -> tuple[str, ...]:
        if self._static is not None:
            policy = self._static if self._keeping is None else self._keeping.for_session(previous)
            return policy.choose(row, self.pool)
        first = None if self._adaptive is None else self._adaptive.next(row, self.pool, ())
        return () if first is None else (first,)

    def _reasons(self, query: Query, decision: RoutingDecision) -> tuple[str, ...]:
        told = self.scorer.explain(query) if isinstance(self.scorer, Explainer) else ()
        asks_on = f"{self.policy.name} may ask further experts once this one has answered"
        return (*told, _comparison(decision), *([asks_on] if self.is_adaptive else []))


def _comparison(decision: RoutingDecision) -> str:
    """The chosen expert beside the best one that was not chosen."""
    first = decision.experts[0]
    others = {id_: s for id_, s in decision.scores.items() if id_ not in decision.experts}
    if not others:
        return f"{first} scored {decision.scores[first]:.3f}; every expert was chosen"
    runner_up = max(others, key=lambda id_: others[id_])
    return (
        f"{first} scored {decision.scores[first]:.3f}, "
        f"the best left out was {runner_up} with {others[runner_up]:.3f}"
    )
