"""Skills of queries: as an expert names them, and as read off the text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import log

import numpy as np
import pytest

from coe.errors import RoutingError, UpstreamError
from coe.routers.annotators import (
    Complete,
    KeywordAnnotator,
    generate_with,
    keyword_prompt,
    read_keywords,
    repeated_keywords,
)
from coe.routers.symbolic_phrases import PhraseAnnotator
from coe.routing import Encoder
from coe.types import Completion, GenerationRequest, Query, Usage


def test_keywords_are_read_after_the_mark_in_lower_case_without_dots() -> None:
    text = "Let me see. Keywords: old, talk\nKeywords: Algebra, Linear Algebra., U.S. history,"
    assert read_keywords(text) == ["algebra", "linear algebra", "us history"]
    assert read_keywords("Optics, waves") == ["optics", "waves"]
    assert read_keywords("Keywords:") == []


def test_keywords_count_once_they_are_named_twice() -> None:
    texts = ["Keywords: algebra, optics", "Keywords: Algebra., law", "", "law, algebra", "ethics"]
    assert repeated_keywords(texts) == {"algebra": 3, "law": 2}


def test_keywords_beyond_twenty_characters_are_run_on_text() -> None:
    assert repeated_keywords([f"{'a' * 20}, {'b' * 21}"] * 2) == {"a" * 20: 2}


def test_keyword_annotator_asks_every_query_in_every_round_at_once() -> None:
    calls: list[list[str]] = []

    def generate(prompts: Sequence[str]) -> Sequence[str]:
        calls.append(list(prompts))
        # Every round names the subject; only the first two agree on anything else.
        return [
            f"Keywords: {'algebra' if '1 + 1' in prompt else 'rivers'}, "
            f"{'shared' if i < 4 else f'only{i}'}"
            for i, prompt in enumerate(prompts)
        ]

    queries = [Query("1 + 1?"), Query("Where is Lima?")]
    annotated = KeywordAnnotator(generate, rounds=3).annotate(queries)
    assert annotated == ({"algebra": 3, "shared": 2}, {"rivers": 3, "shared": 2})
    assert calls == [[keyword_prompt(query) for query in queries] * 3]


def test_keyword_annotator_without_queries_asks_nobody() -> None:
    def generate(prompts: Sequence[str]) -> Sequence[str]:
        raise AssertionError("asked")

    assert KeywordAnnotator(generate).annotate([]) == ()


def test_keyword_annotator_refuses_a_lost_completion() -> None:
    with pytest.raises(RoutingError, match="10 prompts and got 1"):
        KeywordAnnotator(lambda prompts: ["Keywords: x"]).annotate([Query("a"), Query("b")])


def test_keyword_annotator_needs_a_round() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        KeywordAnnotator(list, rounds=0)


def test_keyword_prompt_holds_the_question_and_the_mark() -> None:
    prompt = keyword_prompt(Query("Why is the sky blue?"))
    assert "Why is the sky blue?" in prompt
    assert "Keywords:" in prompt


class _Opened:
    """An expert that can be opened, and keeps what it was asked and how often it was opened."""

    def __init__(self, complete: Complete) -> None:
        self.asked: list[GenerationRequest] = []
        self.n_open = 0
        self.n_opened = 0
        self._complete = complete

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Complete]:
        async def complete(request: GenerationRequest) -> Completion:
            self.asked.append(request)
            return await self._complete(request)

        self.n_open += 1
        self.n_opened += 1
        try:
            yield complete
        finally:
            self.n_open -= 1


async def _echo(request: GenerationRequest) -> Completion:
    return Completion(f"{request.messages[0].content}!", "stop", Usage())


def test_generate_with_keeps_order_and_samples_each_repetition_afresh() -> None:
    expert = _Opened(_echo)
    prompts = ["a", "b"] * 20
    assert generate_with(expert, seed=7)(prompts) == [f"{prompt}!" for prompt in prompts]
    for prompt in ("a", "b"):
        seeds = [r.params.seed for r in expert.asked if r.messages[0].content == prompt]
        assert sorted(seed or 0 for seed in seeds) == list(range(7, 27))
    assert {request.params.temperature for request in expert.asked} == {0.7}
    expert.asked.clear()
    generate_with(expert)(prompts)
    assert {request.params.seed for request in expert.asked} == {None}


def test_generate_with_opens_the_expert_for_each_call_and_closes_it() -> None:
    """On an event loop each: what was opened on one that is gone cannot be used again."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def complete(request: GenerationRequest) -> Completion:
        loops.append(asyncio.get_running_loop())
        return await _echo(request)

    expert = _Opened(complete)
    generate = generate_with(expert)
    generate(["a", "b"])
    generate(["c"])
    assert (expert.n_opened, expert.n_open) == (2, 0)
    assert len({id(loop) for loop in loops}) == 2


def test_generate_with_raises_what_the_expert_raises_and_closes_it() -> None:
    async def complete(request: GenerationRequest) -> Completion:
        raise UpstreamError("tiny", "gone")

    expert = _Opened(complete)
    with pytest.raises(UpstreamError, match="gone"):
        generate_with(expert)(["a", "b"])
    assert expert.n_open == 0


def test_generate_with_does_not_wait_for_ever() -> None:
    async def complete(request: GenerationRequest) -> Completion:
        await asyncio.Event().wait()
        raise AssertionError("never set")

    expert = _Opened(complete)
    with pytest.raises(RoutingError, match=r"within 0\.01 s"):
        generate_with(expert, timeout_s=0.01)(["a"])
    assert expert.n_open == 0


async def test_generate_with_refuses_to_hold_up_a_loop() -> None:
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        generate_with(_Opened(_echo))(["a"])
    assert await asyncio.to_thread(generate_with(_Opened(_echo)), ["a"]) == ["a!"]


def test_phrases_are_shared_words_and_pairs_by_rarity(encoder: Encoder) -> None:
    queries = [Query("prime number theory, ring"), Query("prime number theory"), Query("ring")]
    annotator = PhraseAnnotator.fit(queries, encoder, n_phrases=3, least_queries=2)
    # "number" is a stop word, so "prime" and "theory" do not pair; all three are as rare.
    assert annotator.settings["phrases"] == ["prime", "ring", "theory"]
    np.testing.assert_allclose(annotator.arrays["rarities"], [log(3 / 2)] * 3)
    assert annotator.annotate([Query("Theory of the ring: ring unseen")]) == (
        {"ring": 2, "theory": 1},
    )


def test_phrases_pair_neighbours_but_not_over_a_stop(encoder: Encoder) -> None:
    queries = [Query("heat engine. cycle"), Query("heat engine"), Query("engine cycle")]
    annotator = PhraseAnnotator.fit(queries, encoder, least_queries=2)
    assert annotator.settings["phrases"] == ["cycle", "engine", "heat", "heat engine"]
    # "engine" is in all three queries and says nothing: idf 0 puts it last.
    (found,) = annotator.annotate([Query("a heat engine")])
    assert list(found) == ["heat", "heat engine", "engine"]


def test_phrases_are_limited_to_the_best(encoder: Encoder) -> None:
    queries = [Query("sum digit"), Query("sum digit"), Query("sum")]
    annotator = PhraseAnnotator.fit(queries, encoder, n_phrases=1, least_queries=2)
    assert annotator.annotate([Query("digit"), Query("sum digit")]) == ({"digit": 1},) * 2


def test_phrase_annotator_puts_the_named_category_first(encoder: Encoder) -> None:
    queries = [Query("river city", category="places"), Query("river maths", category="maths")]
    annotator = PhraseAnnotator.fit(queries, encoder, least_queries=1)
    (found,) = annotator.annotate([Query("river maths", category="places")])
    # "maths" is a category here, so as a word of the text it is no skill.
    assert next(iter(found)) == "places"
    assert "maths" not in found
    assert "river" in found


def test_phrase_annotator_guesses_a_category_that_it_was_not_told(encoder: Encoder) -> None:
    queries = [
        *(Query("river city", category="places") for _ in range(9)),
        *(Query("sum plus", category="maths") for _ in range(8)),
        Query("river city", category="maths"),
    ]
    annotator = PhraseAnnotator.fit(queries, encoder, n_phrases=0)
    asked = [Query("city"), Query("city", category="geography"), Query("city", category="maths")]
    assert annotator.annotate(asked) == ({"places": 1}, {"places": 1}, {"maths": 1})


def test_phrase_annotator_guesses_nothing_from_unknown_words(encoder: Encoder) -> None:
    annotator = PhraseAnnotator.fit([Query("river", category="places")], encoder)
    assert annotator.annotate([Query("qwerty"), Query("")]) == ({}, {})


def test_phrase_annotator_without_categories_reads_phrases_only(encoder: Encoder) -> None:
    annotator = PhraseAnnotator.fit([Query("river city")] * 5, encoder)
    assert annotator.annotate([Query("river")]) == ({"river": 1},)


def test_phrase_annotator_comes_back_from_settings_and_arrays(encoder: Encoder) -> None:
    queries = [Query("river city", category="places"), Query("sum plus", category="maths")] * 5
    annotator = PhraseAnnotator.fit(queries, encoder)
    settings = json.loads(json.dumps(annotator.settings))
    again = PhraseAnnotator(settings, annotator.arrays, encoder)
    asked = [Query("river"), Query("plus", category="maths"), Query("sum sum city")]
    assert again.annotate(asked) == annotator.annotate(asked)
