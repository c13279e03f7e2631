"""When a majority vote is settled, against trying every way it can still end."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import EarlyStoppingVote
from coe.routing import Heard
from coe.votes import is_settled

VOTES = st.lists(st.sampled_from([None, "A", "B", "C"]), min_size=1, max_size=5)


def _majority(votes: Sequence[str | None]) -> str | None:
    counts = {vote: votes.count(vote) for vote in votes if vote is not None}
    return max(counts, key=lambda vote: counts[vote]) if counts else None


@given(votes=VOTES, heard=st.sets(st.integers(0, 4)))
def test_vote_is_settled_exactly_if_no_ending_changes_it(
    votes: list[str | None], heard: set[int]
) -> None:
    known = {rank: vote for rank, vote in enumerate(votes) if rank in heard}
    missing = [rank for rank in range(len(votes)) if rank not in known]
    ends = set()
    for ending in itertools.product([None, "A", "B", "C", "new"], repeat=len(missing)):
        whole = {**known, **dict(zip(missing, ending, strict=True))}
        ends.add(_majority([whole[rank] for rank in range(len(votes))]))
    assert is_settled(known, len(votes)) == (len(ends) == 1)


@pytest.mark.parametrize(
    ("votes", "n_asked", "settled"),
    [
        ({}, 0, True),
        ({}, 1, False),
        ({0: None}, 1, True),
        ({0: "A"}, 2, True),
        ({1: "A"}, 2, False),
        ({0: "A", 1: "A", 2: "B"}, 4, True),
        ({0: "B", 1: "B", 3: "A"}, 4, True),
        ({1: "B", 2: "B", 3: "A"}, 4, False),
    ],
)
def test_equal_counts_go_to_the_better_ranked(
    votes: Mapping[int, str | None], n_asked: int, settled: bool
) -> None:
    assert is_settled(votes, n_asked) is settled


@given(votes=VOTES, k=st.integers(1, 5))
def test_policy_that_asks_in_turn_stops_where_the_vote_is_settled(
    votes: list[str | None], k: int
) -> None:
    """Two places decide it, for experts asked in turn and together: they must not differ."""
    pool = ExpertPool(tuple(Expert(f"e{i}", ScriptedSpec()) for i in range(5)))
    heard = [Heard(f"e{i}", vote) for i, vote in enumerate(votes[:k])]
    asked = EarlyStoppingVote(k).next(np.arange(5.0, 0.0, -1.0), pool, heard)
    assert (asked is None) == is_settled(dict(enumerate(votes[:k])), k)
