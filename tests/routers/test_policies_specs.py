"""Policies by name: what a text means, what it may not say, and what is built from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.errors import ConfigError, UnknownExpert
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import (
    ADAPTIVE_POLICIES,
    DESCRIPTIONS,
    POLICIES,
    AdaptiveAmong,
    AdaptiveVote,
    Among,
    Cascade,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    IndependentVotes,
    PolicySpec,
    Priced,
    PricedVote,
    SessionAffinity,
    TopK,
    TopP,
    WithinLimit,
    check_spec,
    policy_of,
    usual_k,
)
from coe.routers.symbolic_recruitment import Recruit
from coe.routing import AdaptivePolicy, Heard, Policy

COSTS = {"a": 70.0, "b": 8.0, "c": 4.0}
POOL = ExpertPool(tuple(Expert(i, ScriptedSpec(), params_active_b=p) for i, p in COSTS.items()))
COST = "cost=params_active_b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top-1", TopK(1)),
        ("top-3", TopK(3)),
        ("top-k:k=2", TopK(2)),
        ("top-p:p=0.6:k_max=3", TopP(0.6, 3)),
        (f"top-1:{COST}:multiplier=0.01", Priced(TopK(1), "params_active_b", 0.01)),
        ("recruit", Recruit(3)),
        ("recruit:k=5:seed=2", Recruit(5, 2)),
        ("fallback", FallbackOnUnreadable(2)),
        ("vote:k=3", EarlyStoppingVote(3)),
        ("vote:max_calls=5", EarlyStoppingVote(3, 5)),
        ("adaptive-vote:k=4:confidence=1:lead=-0.05", AdaptiveVote(4, 1, -0.05)),
        ("adaptive-vote:trust=0.5", AdaptiveVote(5, model=IndependentVotes(trust=0.5))),
        (f"cascade:{COST}", Cascade("params_active_b", 3)),
        (
            f"priced-vote:{COST}:multiplier=0.002:patience=0.1",
            PricedVote("params_active_b", 0.002, 0.1),
        ),
        ("top-1:experts=c+a", Among(TopK(1), ("c", "a"))),
        ("vote:k=2:experts=a+c", AdaptiveAmong(EarlyStoppingVote(2), ("a", "c"))),
    ],
)
def test_a_text_names_a_policy(text: str, expected: Policy | AdaptivePolicy) -> None:
    assert policy_of(PolicySpec.parsed(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top-0", "unknown policy 'top-0'.*did you mean"),
        ("vote:k", "'k' in 'vote:k' is no option"),
        ("vote:=3", "'=3'.*name=value"),
        ("vote:k=many", "k is 'many'"),
        ("vote:k=0", "at least 1"),
        ("vote:k=2:k=3", "'k' is given twice"),
        ("vote:max_call=3", "did you mean 'max_calls'"),
        ("vote:limit=3", "no option 'limit'"),
        ("adaptive-vote:confidence=high", "give a float"),
        ("adaptive-vote:confidence=nan", "give a float"),
        ("adaptive-vote:confidence=true", "give a float"),
        ("adaptive-vote:calls=3:lead=0", "lead is found for calls"),
        ("adaptive-vote:calls=0", "give more than 0"),
        ("top-1:calls=3", "no option 'calls'"),
        ("top-1:budget=3", "budget needs a cost"),
        ("top-p:cost=gib:budget=3", "no option 'budget'"),
        ("top-1:cost=gb:budget=3", "did you mean 'gib'"),
        ("top-1:cost=gib:budget=3:multiplier=1", "multiplier is found for budget"),
        ("priced-vote:cost=gib", "needs the option 'multiplier'"),
        ("priced-vote:budget=3", "needs the option 'cost'"),
        ("planned-vote:cost=gib", "needs the option 'multiplier'"),
        ("planned-vote:cost=gib:budget=3:patience=0", "no option 'patience'"),
        ("top-1:experts=a++b", "name each expert once"),
        ("top-2:k=3", "use the kind 'top-k'"),
    ],
)
def test_what_is_wrong_with_a_text_is_told_before_anything_is_built(
    text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_spec(PolicySpec.parsed(text))


@pytest.mark.parametrize(
    "text",
    [
        "adaptive-vote:k=10:calls=3",
        f"priced-vote:{COST}:budget=20",
        f"planned-vote:{COST}:budget=20",
        f"top-2:{COST}:budget=9",
    ],
)
def test_a_spec_not_tuned_yet_is_checked_but_not_built(text: str) -> None:
    spec = PolicySpec.parsed(text)
    check_spec(spec)
    assert not spec.is_tuned
    with pytest.raises(ConfigError, match="coe fit"):
        policy_of(spec)


VALUES = st.one_of(
    st.booleans(),
    st.integers(-99, 99),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "a+b", "params_active_b"]),
)
NAMES = st.sampled_from(["p", "cost", "lead", "falls_back"])


@given(
    kind=st.sampled_from([*POLICIES, *ADAPTIVE_POLICIES, "top-4", "other"]),
    k=st.integers(1, 9),
    options=st.dictionaries(NAMES, VALUES),
)
def test_the_text_of_a_spec_reads_as_the_spec(
    kind: str, k: int, options: dict[str, object]
) -> None:
    spec = PolicySpec(kind, k, options)
    again = PolicySpec.parsed(str(spec))
    assert again == spec
    assert {n: type(v) for n, v in again.options.items()} == {
        n: type(v) for n, v in options.items()
    }


def test_every_kind_is_described_and_has_a_usual_k() -> None:
    assert set(DESCRIPTIONS) == {*POLICIES, *ADAPTIVE_POLICIES}
    assert all(DESCRIPTIONS.values())
    assert [usual_k(kind) for kind in ("top-1", "vote", "unheard-of")] == [1, 3, 1]


def test_a_model_given_replaces_that_of_the_options() -> None:
    model = IndependentVotes(4)
    for text in ("adaptive-vote:n_options=3", f"priced-vote:{COST}:multiplier=0"):
        policy = policy_of(PolicySpec.parsed(text), model)
        assert isinstance(policy, AdaptiveVote | PricedVote)
        assert policy.model is model
    assert policy_of(PolicySpec("vote", 3), model) == EarlyStoppingVote(3)


def test_what_goes_around_a_static_policy_is_in_order() -> None:
    text = f"top-2:{COST}:multiplier=0.1:limit=12:switch_cost=0.5:experts=b+c"
    limited = WithinLimit(Priced(TopK(2), "params_active_b", 0.1), "params_active_b", 12.0)
    policy = policy_of(PolicySpec.parsed(text))
    assert policy == SessionAffinity(Among(limited, ("b", "c")), 0.5)
    assert isinstance(policy, SessionAffinity)
    assert policy.choose(np.array([0.9, 0.8, 0.1]), POOL) == ("b", "c")


def test_experts_left_out_are_as_if_not_in_the_pool() -> None:
    scores = np.array([0.9, 0.5, 0.6])
    assert Among(TopK(2), ("c", "b")).choose(scores, POOL) == ("c", "b")
    fallback = AdaptiveAmong(FallbackOnUnreadable(3), ("b", "c"))
    assert fallback.next(scores, POOL, ()) == "c"
    assert fallback.next(scores, POOL, (Heard("c", None),)) == "b"
    assert fallback.next(scores, POOL, (Heard("c", None), Heard("b", None))) is None
    assert Among(TopK(1), ("c", "b", "a")).choose(scores, POOL) == ("a",)
    for named in (("a", "d"), ("a", "b", "d"), ("a", "b", "c", "d")):
        with pytest.raises(UnknownExpert, match="'d'"):
            Among(TopK(1), named).choose(scores, POOL)
