"""Policies that hold to something besides scores: a warm cache, or an even load on devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from coe.errors import RoutingError
from coe.experts import ExpertPool
from coe.routers.policies.ranking import at_least, best_first
from coe.routing import FloatArray, NamesExperts, Policy


@dataclass(frozen=True, slots=True)
class SessionAffinity:
    """The session's previous expert, unless another is better by more than a cold cache costs.

    The next turn of a conversation finds its prefix in the previous expert's KV cache; any other
    reads all of it again.
    """

    inner: Policy
    switch_cost: float
    """In units of score."""
    previous: str | None = None
    """None: a session's first request. An expert the pool no longer has counts as None."""

    def __post_init__(self) -> None:
        at_least("switch_cost", self.switch_cost, 0.0)

    @property
    def name(self) -> str:
        return f"{self.inner.name}, switching at {self.switch_cost:g}"

    def for_session(self, previous: str | None) -> SessionAffinity:
        """The same policy for a session whose last answer came from `previous`."""
        return replace(self, previous=previous)

    def without(self, expert_ids: Collection[str]) -> SessionAffinity:
        inner = self.inner
        return replace(
            self, inner=inner.without(expert_ids) if isinstance(inner, NamesExperts) else inner
        )

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        chosen = self.inner.choose(scores, pool)
        ids = pool.ids
        if self.previous not in ids or self.previous == chosen[0]:
            return chosen
        gain = scores[ids.index(chosen[0])] - scores[ids.index(self.previous)]
        if gain > self.switch_cost:
            return chosen
        others = [expert_id for expert_id in chosen if expert_id != self.previous]
        stayed = (self.previous, *others)[: len(chosen)]
        return stayed if self._may_be(stayed, scores, pool) else chosen

    def _may_be(self, stayed: tuple[str, ...], scores: FloatArray, pool: ExpertPool) -> bool:
        """Whether the inner policy lets each of them answer, and those it does take together.

        Its limits hold for whoever knows the conversation, too.
        """
        return _takes(self.inner, stayed[:1], scores, pool) == 1 and (
            len(stayed) == 1 or _takes(self.inner, stayed, scores, pool) == len(stayed)
        )


def _takes(
    policy: Policy, expert_ids: tuple[str, ...], scores: FloatArray, pool: ExpertPool
) -> int:
    """How many of these a policy calls where there is nobody else."""
    columns = [i for i, id_ in enumerate(pool.ids) if id_ in expert_ids]
    try:
        if isinstance(policy, NamesExperts):
            policy = policy.without([id_ for id_ in pool.ids if id_ not in expert_ids])
        return len(policy.choose(scores[columns], pool.subset(expert_ids)))
    except RoutingError:
        return 0


@dataclass(frozen=True, slots=True)
class PerGroup:
    """The k best experts of which at most `per_group` share a group, such as a device.

    Mixture of Grouped Experts (Pangu Pro MoE, arXiv 2505.21411) activates equally many experts in
    each group so that no device waits for another. An upper limit instead of a quota is ours: a
    pool's groups are rarely of one size. Fewer than k are recruited if the groups allow no more.
    """

    k: int
    groups: Mapping[str, str]
    """Expert → group; an expert that is not named is a group of its own."""
    per_group: int = 1

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        at_least("per_group", self.per_group, 1)

    @property
    def name(self) -> str:
        return f"top-{self.k}, {self.per_group} a group"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        recruited: list[str] = []
        taken: Counter[tuple[str, str]] = Counter()
        for column in best_first(scores):
            expert_id = pool.experts[column].id
            named = expert_id in self.groups
            group = ("group", self.groups[expert_id]) if named else ("expert", expert_id)
            if len(recruited) < self.k and taken[group] < self.per_group:
                recruited.append(expert_id)
                taken[group] += 1
        return tuple(recruited)
