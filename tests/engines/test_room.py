"""How many tokens an answer may have."""

from __future__ import annotations

import pytest

from coe.engines.room import answer_room
from coe.errors import ContextOverflow, RequestError
from coe.experts import Expert, ScriptedSpec
from coe.types import SamplingParams

EXPERT = Expert("e", ScriptedSpec(), context_tokens=100, max_tokens=30)


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "room"),
    [(10, None, 30), (90, None, 10), (99, None, 1), (10, 5, 5), (10, 90, 90), (99, 1, 1)],
)
def test_room_is_the_callers_number_or_what_is_left(
    prompt_tokens: int, max_tokens: int | None, room: int
) -> None:
    assert answer_room(EXPERT, prompt_tokens, SamplingParams(max_tokens=max_tokens)) == room


@pytest.mark.parametrize(("prompt_tokens", "max_tokens"), [(100, None), (11, 90), (200, 1)])
def test_room_refuses_what_cannot_fit(prompt_tokens: int, max_tokens: int | None) -> None:
    with pytest.raises(ContextOverflow) as caught:
        answer_room(EXPERT, prompt_tokens, SamplingParams(max_tokens=max_tokens))
    needed = prompt_tokens + (max_tokens or 1)
    assert (caught.value.needed_tokens, caught.value.context_tokens) == (needed, 100)
    # One token is only the shortest answer that a caller without a number could get.
    told = f"at least {needed}" if max_tokens is None else f"{needed}"
    assert f"this request needs {told};" in str(caught.value)


def test_room_obeys_a_model_smaller_than_its_expert() -> None:
    assert answer_room(EXPERT, 10, SamplingParams(), context_tokens=20) == 10
    with pytest.raises(ContextOverflow, match="context of 20 tokens"):
        answer_room(EXPERT, 20, SamplingParams(), context_tokens=20)


def test_room_refuses_a_number_below_one() -> None:
    with pytest.raises(RequestError, match="at least 1"):
        answer_room(EXPERT, 10, SamplingParams(max_tokens=0))
