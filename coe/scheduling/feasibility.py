"""Whether the age bound that was asked for can be held by the pool that it was asked for."""

from __future__ import annotations

from coe.scheduling.terms import Site, SwapRules, Tenant

_EPSILON_GIB = 1e-9


def longest_round_s(site: Site, rules: SwapRules) -> float:
    """Longest that an overdue request may wait for its expert: (E + 1) V of DESIGN.md.

    By the costs as configured, a request taking its expert's `service_s`. 0 where all experts
    can be resident at once, so that nobody waits for a swap.
    """
    if _all_fit(site):
        return 0.0
    tenants = [tenant for tenant in site.hosts if not tenant.pinned]
    load_s = max(tenant.costs.load_s for tenant in tenants)
    leave_s = max(_leave_s(tenant) for tenant in tenants)
    quantum_s = max(rules.quantum_s, rules.quantum_swaps * load_s)
    service_s = max(tenant.service_s for tenant in tenants)
    return (len(tenants) + 1) * (quantum_s + service_s + leave_s + load_s)


def bound_warning(site: Site, rules: SwapRules) -> str | None:
    """One line that says why `max_wait_s` cannot be held under full load, and what to change;
    None if it can.
    """
    round_s = longest_round_s(site, rules)
    if round_s <= rules.max_wait_s:
        return None
    n_experts = sum(not tenant.pinned for tenant in site.hosts)
    return (
        f"a max_wait_s of {rules.max_wait_s:g} s cannot be held while all {n_experts} experts "
        f"that share memory are in demand: a round of them takes up to {round_s:.0f} s; raise "
        "scheduling.max_wait_s, lower scheduling.quantum_s, or let fewer experts share the memory"
    )


def _all_fit(site: Site) -> bool:
    """Whether a place is found for all, the pinned and then the largest first."""
    labels = [label for tenant in site.hosts for label in tenant.apart]
    if len(labels) > len(set(labels)):
        return False
    free = dict(site.devices)
    for tenant in sorted(site.hosts, key=lambda t: (not t.pinned, -t.gib)):
        roomiest = max(
            site.placements(tenant), key=lambda devices: min(free[device] for device in devices)
        )
        for device in roomiest:
            free[device] -= tenant.gib
    return min(free.values()) >= -_EPSILON_GIB


def _leave_s(tenant: Tenant) -> float:
    """Seconds until its device is free; one that cannot sleep is stopped."""
    costs = tenant.costs
    return costs.evict_s if tenant.asleep_gib is None else max(costs.sleep_s, costs.evict_s)
