"""Policies: order, ties, and names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.errors import ConfigError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import PolicySpec, TopK, policy_of

POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "c")))


@given(
    scores=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3),
    k=st.integers(1, 5),
)
def test_top_k_takes_the_best_and_breaks_ties_by_pool_order(scores: list[float], k: int) -> None:
    expected = sorted(POOL.ids, key=lambda id_: (-scores[POOL.ids.index(id_)], POOL.ids.index(id_)))
    assert TopK(k).choose(np.array(scores), POOL) == tuple(expected[:k])


@pytest.mark.parametrize(
    ("kind", "k", "name"), [("top-1", 1, "top-1"), ("top-k", 3, "top-3"), ("top-2", 1, "top-2")]
)
def test_policy_is_found_by_name(kind: str, k: int, name: str) -> None:
    assert policy_of(PolicySpec(kind, k)).name == name


@pytest.mark.parametrize("kind", ["top-0", "top", "topk", "top-x", "best"])
def test_unknown_policy_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="unknown policy"):
        policy_of(PolicySpec(kind))
