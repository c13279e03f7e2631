"""Which moves are worth their cost when demand has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coe.scheduling.placement import Demand, Home, Ledger, Placement
from coe.scheduling.placing import PlaceRules, changes, place
from coe.scheduling.terms import Site


@dataclass(frozen=True, slots=True)
class Move:
    """One expert changes its home, or from kept to swapped or back."""

    expert_id: str
    before: Home
    after: Home
    moved_gib: float
    """What has to be loaded for it; 0 if it only stops being kept."""
    load_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """Moves that make sense together only: one, or two that exchange places."""

    moves: tuple[Move, ...]
    gain_s_per_hour: float
    """By how much the objective falls."""

    @property
    def load_s(self) -> float:
        return sum(move.load_s for move in self.moves)

    @property
    def pays_back_h(self) -> float:
        """Hours after which it has gained what it cost."""
        return self.load_s / self.gain_s_per_hour


def rebalance(
    site: Site, placement: Placement, demand: Demand, horizon_h: float = 1.0
) -> tuple[Change, ...]:
    """Changes worth making in this order, given that demand stays like this for so long.

    Each is the one that gains most over the horizon, less its load seconds; replicas stay as
    they are and are not counted.
    """
    ledger = Ledger(site, demand)
    homes = dict(placement.homes)
    made: list[Change] = []
    while True:
        now_s = ledger.objective_s(homes)
        best, best_s = None, 1e-6
        for changed in changes(ledger, homes):
            after = {**homes, **changed}
            gain_s = now_s - ledger.objective_s(after)
            net_s = gain_s * horizon_h - sum(
                _load_s(ledger, homes, e, h) for e, h in changed.items()
            )
            if net_s > best_s and ledger.excess_gib(after) <= ledger.excess_gib(homes):
                best, best_s = Change(_moves(ledger, homes, changed), gain_s), net_s
        if best is None:
            return tuple(made)
        made.append(best)
        homes.update({move.expert_id: move.after for move in best.moves})


def rehomed(
    site: Site, homes: Mapping[str, Home], demand: Demand, horizon_h: float
) -> dict[str, Home]:
    """Homes of all experts: as they are but for changes worth making, or all anew if that gains
    more over the horizon, its load seconds counted.

    Who has no home so far gets that of the placement found anew; where nobody has one it is that
    placement, for nobody has to move into it.
    """
    anew = dict(place(site, demand, PlaceRules(exact_s=0.0)).homes)
    here = {expert_id: homes.get(expert_id, home) for expert_id, home in anew.items()}
    ledger = Ledger(site, demand)
    if not homes or ledger.excess_gib(here) > 0.0:
        return anew
    changed = dict(here)
    for change in rebalance(site, ledger.placed(here, bound_s=0.0), demand, horizon_h):
        changed.update({move.expert_id: move.after for move in change.moves})

    def cost_s(after: Mapping[str, Home]) -> float:
        moves = sum(_load_s(ledger, here, expert_id, home) for expert_id, home in after.items())
        return ledger.objective_s(after) * horizon_h + moves

    return min(changed, anew, key=cost_s)


def _moves(
    ledger: Ledger, homes: Mapping[str, Home], changed: Mapping[str, Home]
) -> tuple[Move, ...]:
    moves = []
    for expert_id, home in changed.items():
        load_s = _load_s(ledger, homes, expert_id, home)
        gib = ledger.tenants[expert_id].gib * len(home.devices)
        is_loaded = _is_loaded(homes[expert_id], home)
        moves.append(Move(expert_id, homes[expert_id], home, gib if is_loaded else 0.0, load_s))
    return tuple(moves)


def _load_s(ledger: Ledger, homes: Mapping[str, Home], expert_id: str, home: Home) -> float:
    is_loaded = _is_loaded(homes[expert_id], home)
    return ledger.tenants[expert_id].costs.load_s if is_loaded else 0.0


def _is_loaded(before: Home, after: Home) -> bool:
    """One that is swapped before and after is loaded when it is next asked for in any case."""
    if before.devices != after.devices:
        return before.is_kept or after.is_kept
    return after.is_kept and not before.is_kept
