"""Simple ways to choose experts within budgets: what the exact search is measured against.

None is exact. All keep to the budgets, and all raise `RoutingError` where no expert does.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from coe.outcomes import FloatArray
from coe.routers.edge_costs import Limits
from coe.routers.edge_selection import Selection, TopValue, selection


def best_single(value: TopValue, limits: Limits) -> Selection:
    """The one affordable expert of the highest value."""
    fits = limits.affordable()
    alone = value.with_each(np.zeros(value.n_experts, bool))
    members = np.zeros(value.n_experts, bool)
    members[int(np.where(fits, alone, -np.inf).argmax())] = True
    return selection(members, value, limits, int(fits.sum()))


def greedy(value: TopValue, limits: Limits) -> Selection:
    """Adds the expert that gains most for what it adds to the scarcest budget, while one fits.

    Under an energy budget alone that is the gain per joule.
    """
    fits = limits.affordable()
    members = np.zeros(value.n_experts, bool)
    n_nodes = 0
    while True:
        n_nodes += 1
        usages = limits.usage_with_each(members)
        open_ = fits & ~members & limits.keeps(usages)
        if not open_.any():
            return selection(members, value, limits, n_nodes)
        gains = value.with_each(members) - (value.of(members) if members.any() else 0.0)
        rates = gains / np.maximum(_shares(usages - limits.usage(members), limits), 1e-9)
        members[int(np.where(open_, rates, -np.inf).argmax())] = True


def cheapest_first(value: TopValue, limits: Limits) -> Selection:
    """Adds experts from the cheapest up, skipping those that no longer fit."""
    alone = limits.usage_with_each(np.zeros(value.n_experts, bool))
    return _filled(np.argsort(_shares(alone, limits), kind="stable"), value, limits)


def random_set(value: TopValue, limits: Limits, seed: int) -> Selection:
    """Adds experts in a random order, skipping those that no longer fit."""
    order = np.random.default_rng(seed).permutation(value.n_experts)
    return _filled(order, value, limits)


def _filled(order: Iterable[int], value: TopValue, limits: Limits) -> Selection:
    """Takes experts in the order given wherever they fit; nothing is dropped afterwards."""
    limits.affordable()
    members = np.zeros(value.n_experts, bool)
    for i in order:
        members[i] = True
        if not limits.admits(members):
            members[i] = False
    return selection(members, value, limits, int(members.sum()), trim=False)


def _shares(usages: FloatArray, limits: Limits) -> FloatArray:
    """(n_experts,) the largest share that each usage takes of any budget."""
    if not len(limits.limits):
        return np.ones(len(usages))
    shares: FloatArray = (usages / np.maximum(limits.limits, 1e-300)).max(axis=1)
    return shares
