"""Aggregators that know before all experts are done that nothing can change any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.aggregation import Aggregator, Chain, First, MajorityVote, StopsEarly, WeightedVote
from coe.types import Completion, GenerationRequest, Message

REQUEST = GenerationRequest((Message("user", "why?"),))


def _read(text: str) -> str | None:
    return None if text.startswith("?") else text[0]


def _done(texts: Mapping[int, str]) -> dict[int, Completion]:
    return {rank: Completion(text, "stop", None) for rank, text in texts.items()}


def _ranked(texts: Sequence[str]) -> list[tuple[str, Completion]]:
    return [(f"e{rank}", Completion(text, "stop", None)) for rank, text in enumerate(texts)]


def test_only_aggregators_that_need_not_hear_all_stop_early() -> None:
    assert isinstance(MajorityVote(), StopsEarly)
    assert isinstance(First(), StopsEarly)
    assert not isinstance(WeightedVote({}), StopsEarly)
    assert not isinstance(Chain(), StopsEarly)


def test_majority_is_settled_by_what_was_read() -> None:
    """Two of three agree once they are read; compared whole they do not."""
    done = _done({2: "A, for one reason", 0: "A, for another"})
    assert MajorityVote(_read).is_settled(done, 3)
    assert not MajorityVote().is_settled(done, 3)


@pytest.mark.parametrize(
    ("texts", "n_asked", "settled"),
    [
        ({}, 1, False),
        ({0: "?"}, 1, True),
        ({0: "?"}, 2, False),
        ({0: "A"}, 2, True),
        ({1: "A"}, 2, False),
        ({0: "A", 1: "?"}, 3, True),
        ({0: "?", 1: "A"}, 3, True),
        ({0: "?", 2: "A"}, 3, False),
        ({0: "A", 1: "B"}, 3, False),
        ({0: "A", 1: "A", 2: "B"}, 5, False),
        ({0: "A", 1: "A", 2: "B", 3: "?"}, 5, True),
        ({1: "B", 2: "B", 3: "A", 4: "?"}, 5, False),
    ],
)
def test_majority_is_settled_exactly_when_no_vote_out_can_turn_it(
    texts: Mapping[int, str], n_asked: int, settled: bool
) -> None:
    assert MajorityVote(_read).is_settled(_done(texts), n_asked) is settled


def test_first_is_settled_by_the_best_expert_alone() -> None:
    assert not First().is_settled(_done({1: "B", 2: "B"}), 3)
    assert First().is_settled(_done({0: "A"}), 3)


@pytest.mark.parametrize("aggregator", [First(), MajorityVote(_read)], ids=lambda a: a.name)
@given(
    texts=st.lists(st.sampled_from(["A1", "A2", "B", "C", "?"]), min_size=1, max_size=6),
    is_done=st.lists(st.booleans(), min_size=6, max_size=6),
)
async def test_answer_of_a_settled_part_is_the_answer_of_the_whole(
    aggregator: Aggregator, texts: list[str], is_done: list[bool]
) -> None:
    assert isinstance(aggregator, StopsEarly)
    done = {rank: text for rank, text in enumerate(texts) if is_done[rank]}
    if not aggregator.is_settled(_done(done), len(texts)):
        return
    whole = _ranked(texts)
    part = [whole[rank] for rank in sorted(done)]
    early = await aggregator.aggregate(REQUEST, part)
    assert _read(early) == _read(await aggregator.aggregate(REQUEST, whole))
