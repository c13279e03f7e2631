"""What one request may ask of the routing, within what its operator has set up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from coe.errors import ConfigError, RequestError, UnknownExpert
from coe.routers.policies import PolicySpec, policy_of
from coe.routers.policies.constraints import SessionAffinity
from coe.routers.policies.restricted import AdaptiveAmong, Among
from coe.routing import AdaptivePolicy, KeepsSession, Policy, Router


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request would be routed, where not as usual."""

    experts: tuple[str, ...] | None = None
    """Only these may answer; None: all."""
    policy: PolicySpec | None = None
    """In place of the pool's own."""


ANY = Wish()


class Wishes:
    """The routers that requests can have of one pool: same scores, other decisions."""

    def __init__(self, router: Router, switch_cost: float = 0.0) -> None:
        """`switch_cost`, in units of score: how much better another expert must be than the one
        that knows the conversation; 0 does not look who that is.
        """
        self._router = router
        self._own: dict[bool, Router] = {False: router, True: router}
        policy = router.policy
        if switch_cost > 0.0 and not isinstance(policy, AdaptivePolicy | KeepsSession):
            self._own[True] = router.with_policy(SessionAffinity(policy, switch_cost))

    def router(
        self, wish: Wish, has_session: bool = False, able: Collection[str] | None = None
    ) -> Router:
        """`able`: who can answer at all; None: everybody. Raises `RequestError` naming what cannot
        be had.
        """
        router = self._own[has_session]
        if wish.policy is not None:
            router = router.with_policy(_policy(wish.policy))
        if wish.experts is None and able is None:
            return router
        ids = self._among(wish.experts, able)
        policy = router.policy
        if isinstance(policy, AdaptivePolicy):
            return router.with_policy(AdaptiveAmong(policy, ids))
        return router.with_policy(Among(policy, ids))

    def _among(
        self, wished: tuple[str, ...] | None, able: Collection[str] | None
    ) -> tuple[str, ...]:
        known = self._router.pool.ids
        for id_ in wished or ():
            if id_ not in known:
                raise UnknownExpert(id_, known)
        allowed = known if wished is None else wished
        left = tuple(id_ for id_ in known if id_ in allowed and (able is None or id_ in able))
        if not left:
            raise RequestError(
                f"of {', '.join(allowed)} nobody can take this request as it is; allow others",
                param="coe.experts",
            )
        return left


def _policy(spec: PolicySpec) -> Policy | AdaptivePolicy:
    try:
        return policy_of(spec)
    except ConfigError as error:
        raise RequestError(f"coe.policy: {error.problem}", param="coe.policy") from None
