"""Demand as it is seen, against that of whole traces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.scheduling.expert_trace import trace_of
from coe.scheduling.observed import observed_demand
from coe.scheduling.placement import Demand

FOREVER_S = 1e12


def _rows(queries: Sequence[set[str]]) -> list[tuple[list[str], float, None]]:
    return [(sorted(query), 10.0 * i, None) for i, query in enumerate(queries)]


@given(queries=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=2, max_size=30))
def test_observed_demand_without_decay_is_that_of_the_trace(queries: list[set[str]]) -> None:
    rows = _rows(queries)
    asked = [(at_s, expert_id) for named, at_s, _ in rows for expert_id in named]
    observed = observed_demand(asked, rows[-1][1], FOREVER_S)
    expected = Demand.of(trace_of(rows))
    assert observed.per_hour == pytest.approx(dict(expected.per_hour), rel=1e-3)
    in_order = {tuple(sorted(pair)): n for pair, n in expected.turns.items()}
    assert observed.turns == pytest.approx(in_order, rel=1e-3)


def test_requests_of_a_half_life_ago_count_half() -> None:
    asked = [(0.0, "a"), (100.0, "b")]
    observed = observed_demand(asked, 100.0, 100.0)
    assert observed.per_hour["b"] == pytest.approx(2 * observed.per_hour["a"])


def test_a_steady_rate_is_found_whatever_the_half_life() -> None:
    asked = [(float(i), "a") for i in range(1, 2001)]
    for half_life_s in (50.0, 1000.0, FOREVER_S):
        rate = observed_demand(asked, 2000.0, half_life_s).per_hour["a"]
        assert rate == pytest.approx(3600.0, rel=0.02)


def test_nothing_asked_is_no_demand() -> None:
    assert observed_demand([], 5.0, 10.0) == Demand({})
