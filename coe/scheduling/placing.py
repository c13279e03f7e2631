"""Finds placements: an integer program where it is small enough, else greedy and local search."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations

from coe.errors import ConfigError
from coe.scheduling.placement import Demand, Home, Ledger, Placement, Replicas
from coe.scheduling.placement_program import program_homes
from coe.scheduling.terms import Site

_MOST_VARIABLES = 4000
_ROUNDS = 200
_KICKS = 8
_KICKED = 4
_MOST_KICKED = 300
"""Homes to choose from, all experts together, up to which kicks take about a second."""


@dataclass(frozen=True, slots=True)
class PlaceRules:
    """How far `place` goes."""

    exact_s: float = 10.0
    """Seconds for the integer program, which needs scipy; 0 leaves it out."""
    max_replicas: int = 0
    """Further copies of experts with much work, in memory that is left over."""


def place(site: Site, demand: Demand, rules: PlaceRules | None = None) -> Placement:
    """Homes for all experts of a site, with the gap to the best that is possible.

    Raises `ConfigError` if no homes are found that fit.
    """
    rules = rules or PlaceRules()
    ledger = Ledger(site, demand)
    homes, bound_s = searched_homes(ledger), ledger.bound_s()
    is_small = _n_variables(ledger) <= _MOST_VARIABLES
    if rules.exact_s > 0.0 and is_small and find_spec("scipy") is not None:
        found, proven_s = program_homes(ledger, rules.exact_s)
        bound_s = max(bound_s, proven_s)
        if found is not None and _rank(ledger, found) < _rank(ledger, homes):
            homes = _climbed(ledger, found)
    if ledger.excess_gib(homes) > 0.0:
        raise ConfigError(
            "no placement was found in which every expert fits; raise a device's budget or "
            "allow more placements"
        )
    replicas = _replicated(ledger, homes, rules.max_replicas)
    return ledger.placed(homes, min(bound_s, ledger.objective_s(homes)), replicas)


def searched_homes(ledger: Ledger) -> dict[str, Home]:
    """The best of two greedy starts, after single moves and exchanges while they help.

    One keeps whom it can; the other begins with nobody kept, which always fits. Unless there are
    very many homes the better one is then kicked a few times, some of its experts being given
    homes at random, and improved again. The kicks are the same in every run.
    """
    starts = [_greedy(ledger, only_swapped) for only_swapped in (False, True)]
    best = min((_climbed(ledger, homes) for homes in starts), key=lambda h: _rank(ledger, h))
    random_ = random.Random(0)
    n_homes = sum(len(ledger.options(tenant)) for tenant in ledger.tenants.values())
    for _ in range(_KICKS if n_homes <= _MOST_KICKED else 0):
        kicked = dict(best)
        for expert_id in random_.sample(list(kicked), min(_KICKED, len(kicked))):
            kicked[expert_id] = random_.choice(ledger.options(ledger.tenants[expert_id]))
        homes = _climbed(ledger, kicked)
        if _rank(ledger, homes) < _rank(ledger, best):
            best = homes
    return best


def _greedy(ledger: Ledger, only_swapped: bool) -> dict[str, Home]:
    """Most work first, where it costs least."""
    homes: dict[str, Home] = {}
    for tenant in sorted(ledger.tenants.values(), key=lambda t: -ledger.work_s[t.expert_id]):
        able = ledger.options(tenant)
        if only_swapped:
            able = [home for home in able if not home.is_kept] or able
        trials = ({**homes, tenant.expert_id: home} for home in able)
        homes = min(trials, key=lambda trial: _rank(ledger, trial))
    return homes


def _climbed(ledger: Ledger, homes: dict[str, Home]) -> dict[str, Home]:
    rank = _rank(ledger, homes)
    for _ in range(_ROUNDS):
        trials = ({**homes, **change} for change in changes(ledger, homes))
        best = min(trials, key=lambda trial: _rank(ledger, trial), default=homes)
        if not _rank(ledger, best) < rank:
            break
        homes, rank = best, _rank(ledger, best)
    return homes


def changes(ledger: Ledger, homes: Mapping[str, Home]) -> Iterator[dict[str, Home]]:
    """Every other home for one expert, and every exchange of two."""
    options = {e: ledger.options(tenant) for e, tenant in ledger.tenants.items()}
    for expert_id, able in options.items():
        yield from ({expert_id: home} for home in able if home != homes[expert_id])
    for one, other in combinations(options, 2):
        if (
            homes[one] != homes[other]
            and homes[one] in options[other]
            and homes[other] in options[one]
        ):
            yield {one: homes[other], other: homes[one]}


def _rank(ledger: Ledger, homes: Mapping[str, Home]) -> tuple[float, ...]:
    """Smaller is better: what does not fit, the objective, unevenness, how many are swapped."""
    busy, swap_s = ledger.busy(homes)
    uneven = sum(seconds * seconds for seconds in busy.values())
    return (
        round(ledger.excess_gib(homes), 9),
        round(max(busy.values()) + swap_s, 9),
        round(uneven, 6),
        sum(not home.is_kept for home in homes.values()),
    )


def _n_variables(ledger: Ledger) -> int:
    n_pairs = sum(len(others) for others in ledger.swaps_s.values()) // 2
    n_homes = sum(len(ledger.options(tenant)) for tenant in ledger.tenants.values())
    return n_homes + n_pairs * len(ledger.site.devices)


def _replicated(ledger: Ledger, homes: Mapping[str, Home], n: int) -> Replicas:
    """Adds one copy after the other where it most lowers the busiest device."""
    replicas: dict[str, tuple[tuple[str, ...], ...]] = {}
    held = dict.fromkeys(ledger.site.devices, 0.0)
    for _ in range(n):
        best_s, best = max(ledger.busy(homes, replicas)[0].values()) - 1e-9, None
        for expert_id, tenant in ledger.tenants.items():
            if not homes[expert_id].is_kept or tenant.pinned:
                continue
            taken = {
                d for ds in (homes[expert_id].devices, *replicas.get(expert_id, ())) for d in ds
            }
            for devices in ledger.site.placements(tenant):
                fits = all(tenant.gib <= ledger.free_gib(homes, d) - held[d] for d in devices)
                if not fits or taken & set(devices):
                    continue
                trial = {**replicas, expert_id: (*replicas.get(expert_id, ()), devices)}
                busiest_s = max(ledger.busy(homes, trial)[0].values())
                if busiest_s < best_s:
                    best_s, best = busiest_s, (trial, devices, tenant.gib)
        if best is None:
            break
        replicas = best[0]
        for device in best[1]:
            held[device] += best[2]
    return replicas
