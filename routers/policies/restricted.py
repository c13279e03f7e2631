"""Policies that see only some experts of a pool."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from coe.errors import RoutingError
from coe.experts import ExpertPool
from coe.routing import AdaptivePolicy, FloatArray, Heard, Policy


@dataclass(frozen=True, slots=True)
class Among:
    """The inner policy, as if the pool were the named experts alone.

    Raises `UnknownExpert` for a name that the pool does not have.
    """

    inner: Policy
    expert_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.inner.name} of {len(self.expert_ids)}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        return self.inner.choose(*_seen(scores, pool, self.expert_ids))

    def without(self, expert_ids: Collection[str]) -> Among:
        return Among(self.inner, _left(self.expert_ids, expert_ids))


@dataclass(frozen=True, slots=True)
class AdaptiveAmong:
    """`Among` for a policy that is asked again after each answer."""

    inner: AdaptivePolicy
    expert_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.inner.name} of {len(self.expert_ids)}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        return self.inner.next(*_seen(scores, pool, self.expert_ids), heard)

    def without(self, expert_ids: Collection[str]) -> AdaptiveAmong:
        return AdaptiveAmong(self.inner, _left(self.expert_ids, expert_ids))


def _left(expert_ids: Sequence[str], gone: Collection[str]) -> tuple[str, ...]:
    left = tuple(id_ for id_ in expert_ids if id_ not in gone)
    if not left:
        raise RoutingError(f"no expert is left of {', '.join(expert_ids)}")
    return left


def _seen(
    scores: FloatArray, pool: ExpertPool, expert_ids: Sequence[str]
) -> tuple[FloatArray, ExpertPool]:
    wanted = frozenset(expert_ids)
    columns = [i for i, expert in enumerate(pool) if expert.id in wanted]
    if len(columns) == len(wanted) == len(pool):
        return scores, pool
    return scores[columns], pool.subset(expert_ids)
