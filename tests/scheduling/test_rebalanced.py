"""Homes that change while a trace is played: nothing breaks, and following demand pays."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean

from hypothesis import given, settings
from hypothesis import strategies as st

from coe.scheduling import Effects, Site, SwapCosts, SwapRules, SwapScheduler, Tenant, Ticket
from coe.scheduling.placement import Home
from coe.scheduling.rebalanced import Rebalanced
from coe.scheduling.service_model import ServiceModel
from coe.scheduling.simulator import Run, Simulator
from coe.scheduling.traces import Load, poisson

HALVES = ([0.4, 0.4, 0.08, 0.06, 0.06], [0.06, 0.06, 0.08, 0.4, 0.4])
"""Shares of five experts, of which the two that a device has no room for together change."""


def _site(ids: list[str]) -> Site:
    tenants = tuple(Tenant(id_, 1.0, costs=SwapCosts(load_s=10.0, evict_s=0.0)) for id_ in ids)
    return Site({"gpu0": 1.0, "gpu1": 1.0}, tenants)


def _run(every_s: float) -> tuple[Run, Rebalanced]:
    """Two devices with room for one each. At the start each has one of the popular."""
    ids = [f"e{i}" for i in range(5)]
    first, second = (poisson(ids, shares, Load(300, 0.05), 3) for shares in HALVES)
    later = [replace(arrival, at_s=arrival.at_s + first[-1].at_s) for arrival in second]
    homes = {id_: Home((f"gpu{int(id_ == 'e0')}",), False) for id_ in ids}
    made: list[Rebalanced] = []

    def scheduler(site: Site, effects: Effects) -> Rebalanced:
        made.append(Rebalanced(site, effects, SwapRules(), every_s, homes))
        return made[0]

    run = Simulator(_site(ids), ServiceModel(), scheduler).run([*first, *later])
    return run, made[0]


def test_homes_that_follow_demand_load_less_than_homes_that_stay() -> None:
    (stay, still), (follow, moving) = _run(math.inf), _run(600.0)
    assert still.n_moved == 0
    assert moving.n_moved > 0
    assert follow.loads < 0.9 * stay.loads
    assert _mean_latency_s(follow) < 0.9 * _mean_latency_s(stay)


class Restless(SwapScheduler):
    """Gives somebody other placements at every third arrival."""

    def __init__(self, site: Site, effects: Effects, seed: int) -> None:
        super().__init__(site, effects)
        self._random = random.Random(seed)

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        if self._random.random() < 0.3:
            tenant = self._random.choice(self.site.tenants)
            able = self.site.placements(tenant)
            self.on_placements(
                now,
                {tenant.expert_id: tuple(self._random.sample(able, self._random.randint(1, 2)))},
            )
        super().on_arrival(now, ticket)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_whatever_homes_are_given_memory_is_kept_to_and_all_are_answered(seed: int) -> None:
    rng = random.Random(seed)
    tenants = tuple(
        Tenant(
            f"e{i}",
            rng.choice((1.0, 2.0, 3.0)),
            (("gpu0", "gpu1"), ("gpu1", "gpu2")) if rng.random() < 0.2 else (),
            asleep_gib=rng.choice((None, 1.0)),
            costs=SwapCosts(load_s=rng.uniform(0.1, 9.0)),
        )
        for i in range(6)
    )
    site = Site({f"gpu{i}": rng.choice((3.0, 4.0)) for i in range(3)}, tenants, host_gib=2.0)
    ids = [tenant.expert_id for tenant in tenants]
    trace = poisson(ids, [1 / 6] * 6, Load(120, rng.uniform(0.1, 3.0)), seed)
    run = Simulator(site, ServiceModel(), lambda s, e: Restless(s, e, seed)).run(trace)
    assert len(run.records) == 120
    assert all(record.ended_s is not None for record in run.records)


def _mean_latency_s(run: Run) -> float:
    return fmean((r.ended_s or math.inf) - r.arrival.at_s for r in run.records)
