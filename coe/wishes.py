"""What one request may ask of the routing, within what its operator has set up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from coe.engines.embedder import ROUTE as EMBEDDINGS
from coe.errors import ConfigError, RequestError, UnknownExpert
from coe.routers.policies import PolicySpec, policy_of
from coe.routers.policies.budgets import WithinLimit
from coe.routers.policies.constraints import SessionAffinity
from coe.routers.policies.restricted import AdaptiveAmong, Among
from coe.routing import AdaptivePolicy, KeepsSession, NamesExperts, Policy, Router, RoutingDecision
from coe.types import Query, RawRequest


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request would be routed, where not as usual."""

    experts: tuple[str, ...] | None = None
    """Only these may answer; None: all."""
    policy: PolicySpec | None = None
    """In place of the pool's own."""
    most: int | None = None
    """How many experts such a policy may choose at once; None: as many as it likes."""

    def within(self, decision: RoutingDecision) -> RoutingDecision:
        """The decision of such a policy, of the best ones alone where it chose too many."""
        if self.policy is None or self.most is None or len(decision.experts) <= self.most:
            return decision
        return replace(decision, experts=decision.experts[: self.most])


ANY = Wish()

Allowed = Callable[[Query], tuple[str, ...] | None]
"""The experts that a query may be routed to; None: all."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator holds routed requests to: a wish narrows it and never widens it.

    An expert that a request names is not routed to; whom it may name is for its key to say.
    """

    policy: PolicySpec | None = None
    """The pool's own, whose `experts` and `limit` hold for a policy in its place, too."""
    allowed: Allowed | None = None
    """None: any query may be routed to any expert."""


UNBOUND = Bounds()


class Wishes:
    """The routers that requests can have of one pool: same scores, other decisions."""

    def __init__(self, router: Router, switch_cost: float = 0.0, bounds: Bounds = UNBOUND) -> None:
        """`switch_cost`, in units of score: how much better another expert must be than the one
        that knows the conversation; 0 does not look who that is.
        """
        self._router = router
        self._bounds = bounds
        policy = router.policy
        is_kept = isinstance(policy, AdaptivePolicy | KeepsSession)
        self._switch_cost = 0.0 if is_kept else switch_cost
        self._embedders = frozenset(router.pool.embedders)
        writers = frozenset(router.pool.ids) - self._embedders
        self._writers = writers if self._embedders else None
        self._own = {False: router, True: router.with_policy(self._sticky(policy, True))}

    def router(
        self,
        query: Query,
        wish: Wish,
        has_session: bool = False,
        able: Collection[str] | None = None,
    ) -> Router:
        """`able`: who can answer at all; None: everybody. Raises `RequestError` naming what cannot
        be had.
        """
        policy, experts = self._router.policy, wish.experts
        if wish.policy is not None:
            policy = self._wished(replace(wish.policy, options=_rest(wish.policy)))
            experts = self._both(experts, wish.policy.experts)
            has_session = False
        allowed = None if self._bounds.allowed is None else self._bounds.allowed(query)
        ids = self._among(experts, able, allowed, wish.policy is not None)
        if ids is None:
            own = self._own[has_session]
            return own if wish.policy is None else own.with_policy(policy)
        return self._router.with_policy(self._sticky(_only(policy, ids, self._all), has_session))

    def able(
        self, raw: RawRequest | None, passing: Callable[[str], frozenset[str]]
    ) -> Collection[str] | None:
        """Who can answer at all; None: everybody. `passing`: who takes a raw request of a route.

        Embedding experts write nothing; where there are some, no other one is routed to for
        embeddings.
        """
        if raw is None or not raw.is_all:
            return self._writers
        able = passing(raw.route)
        return able & self._embedders or able if raw.route == EMBEDDINGS else able

    @property
    def _all(self) -> tuple[str, ...]:
        return self._router.pool.ids

    def _sticky(
        self, policy: Policy | AdaptivePolicy, has_session: bool
    ) -> Policy | AdaptivePolicy:
        """Outside of all else, so that nobody who may not answer is stayed with."""
        if not has_session or self._switch_cost <= 0.0 or isinstance(policy, AdaptivePolicy):
            return policy
        return SessionAffinity(policy, self._switch_cost)

    def _wished(self, spec: PolicySpec) -> Policy | AdaptivePolicy:
        """A policy in place of the pool's own, within the limit of that."""
        try:
            policy = policy_of(spec)
        except ConfigError as error:
            raise RequestError(f"coe.policy: {error.problem}", param="coe.policy") from None
        own = self._bounds.policy
        if own is None or "limit" not in own.options:
            return policy
        if isinstance(policy, AdaptivePolicy):
            raise RequestError(
                f"coe.policy: {spec.kind!r} asks on by itself, and this pool holds each request "
                f"to {own.options['cost']} of at most {own.options['limit']:g}; choose a policy "
                "that decides at once",
                param="coe.policy",
            )
        return WithinLimit(policy, own.options["cost"], float(own.options["limit"]))

    def _both(
        self, one: tuple[str, ...] | None, other: tuple[str, ...] | None
    ) -> tuple[str, ...] | None:
        for id_ in (*(one or ()), *(other or ())):
            if id_ not in self._all:
                # Whoever may ask some experts only is told of no others.
                known = self._all if one is None else [own for own in self._all if own in one]
                raise UnknownExpert(id_, known or self._all)
        if one is None or other is None:
            return one if other is None else other
        return tuple(id_ for id_ in one if id_ in other)

    def _among(
        self,
        wished: tuple[str, ...] | None,
        able: Collection[str] | None,
        allowed: tuple[str, ...] | None,
        is_replaced: bool,
    ) -> tuple[str, ...] | None:
        """Who is left, in the pool's order; None: nobody is left out but by the policy itself."""
        wished = self._both(wished, None)
        own = None if self._bounds.policy is None else self._bounds.policy.experts
        if wished is able is allowed is None and not (own and is_replaced):
            return None
        given = [ids for ids in (wished, able, allowed, own) if ids is not None]
        left = tuple(id_ for id_ in self._all if all(id_ in ids for ids in given))
        if not left:
            asked = ", ".join(self._all if wished is None else wished) or "those experts"
            raise RequestError(
                f"of {asked} nobody may or can take this request as it is; allow others",
                param="coe.experts",
            )
        return left


def _rest(spec: PolicySpec) -> dict[str, object]:
    """The options but for `experts`, which are looked at with all else that leaves experts out."""
    return {name: value for name, value in spec.options.items() if name != "experts"}


def _only(
    policy: Policy | AdaptivePolicy, ids: tuple[str, ...], known: Sequence[str]
) -> Policy | AdaptivePolicy:
    """The policy among some experts, all of whom it knows."""
    others = [id_ for id_ in known if id_ not in ids]
    if not isinstance(policy, AdaptivePolicy):
        return _among(policy, ids, others)
    return AdaptiveAmong(
        policy.without(others) if isinstance(policy, AdaptiveAmong) else policy, ids
    )


def _among(policy: Policy, ids: tuple[str, ...], others: Sequence[str]) -> Policy:
    if isinstance(policy, SessionAffinity):
        return replace(policy, inner=_among(policy.inner, ids, others))
    return Among(policy.without(others) if isinstance(policy, NamesExperts) else policy, ids)
