"""Near-duplicates: what has the same meaning may share an answer, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coe.encoders.static import DEFAULT_TABLE, StaticEncoder
from coe.store.cache import CachedResponse
from coe.store.likeness import Essentials
from coe.store.semantic import SemanticCache, Vector
from coe.store.settings import SemanticSettings

ANSWER = CachedResponse(b"answer")
UNIT: Vector = np.array([0.6, 0.8], np.float32)

DIFFERENT = [
    ("What is 17 times 23?", "What is 17 times 24?"),
    ("What is 17 times 23?", "What is 23 times 17?"),
    ("Is 1.5 kg enough?", "Is 15 kg enough?"),
    ("Is -5 more than 3?", "Is 5 more than 3?"),
    ("add 5 km to it", "add 5 miles to it"),
    ("three apples and a pear", "four apples and a pear"),
    ("Should I take aspirin?", "Should I not take aspirin?"),
    ("Is it safe to eat?", "Isn't it safe to eat?"),
    ("food with nuts", "food without nuts"),
    ("the largest city of all", "the smallest city of all"),
    ("Who wrote Emma first?", "Who wrote Ulysses first?"),
    ("Who beat Borg?", "Who did Borg beat?"),
    ("dogs bite cats", "cats bite dogs"),
    ('translate "good night"', 'translate "good morning"'),
    ("translate 'good night'", "translate 'good morning'"),
    ("translate “good night”", "translate “good morning”"),
    ("what does `a + b` do", "what does `a - b` do"),
    ("run ```\nx = 1\n``` for me", "run ```\nx = 2\n``` for me"),
    ("solve x + y for x", "solve x + y for y"),
    ("solve a * c here", "solve a / c here"),
    ("before the war", "after the war"),
    ("flights to Rome from Paris", "flights from Rome to Paris"),
    ("我应该吃药吗", "我不应该吃药吗"),
    ("Soll ich das nehmen?", "Soll ich das nicht nehmen?"),
    ("Стоит ли пить", "Не стоит ли пить"),
    ("version v2 notes", "version v3 notes"),
    ("is user_id a key", "is user_name a key"),
]
SAME = [
    ("What is the capital of France?", "what is the capital of France"),
    ("What is the capital of France?", "Please tell me: what is the capital of France?"),
    ("How do I sort a list in Python?", "how can I sort the list in Python, please"),
    ("How would you boil 2 eggs?", "How do I boil 2 eggs?"),
]
REWORDED = [
    ("What is the capital of France?", "What is the capital city of France?"),
    ("How long does it take to boil 2 eggs?", "How long do I need to boil 2 eggs?"),
]
REPLACED = [
    ("my dog has a fever", "my cat has a fever"),
    ("is this legal", "is this illegal"),
    ("recipe with chicken", "recipe with vegan chicken"),
]


def _are_same(one: str, other: str, *, is_strict: bool = True) -> bool:
    return Essentials.of(one).is_same_ask(Essentials.of(other), is_strict=is_strict)


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_asks_that_differ_in_what_matters_are_told_apart(
    one: str, other: str, is_strict: bool
) -> None:
    assert not _are_same(one, other, is_strict=is_strict)
    assert not _are_same(other, one, is_strict=is_strict)
    assert _are_same(one, one, is_strict=is_strict)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_asks_that_mean_the_same_may_share(one: str, other: str) -> None:
    assert _are_same(one, other)
    assert _are_same(other, one, is_strict=False)


@pytest.mark.parametrize(("one", "other"), REWORDED + REPLACED)
def test_other_subject_is_told_apart_only_strictly(one: str, other: str) -> None:
    """What no list of words can tell from a paraphrase is for the embedding, or for nobody."""
    assert not _are_same(one, other)
    assert _are_same(one, other, is_strict=False)


PLAIN = "the a rain falls mainly on plain fields where is it sold he she"
WORDS = st.sampled_from(PLAIN.split())
NUMBERS = (
    st.integers(-(10**12), 10**12).map(str)
    | st.decimals(-1000, 1000, places=3).map(str)
    | st.integers(0, 10**9).map(lambda n: f"{n:,}")
    | st.integers(0, 2100).map(lambda n: f"{n}%")
)


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8), NUMBERS, NUMBERS)
def test_asks_that_differ_in_one_number_never_match(
    before: list[str], after: list[str], one: str, other: str
) -> None:
    assume(one != other)
    asks = [" ".join([*before, number, *after]) for number in (one, other)]
    assert not _are_same(*asks, is_strict=False)


@given(st.lists(WORDS, min_size=1, max_size=8), NUMBERS, st.data())
def test_number_that_only_one_ask_has_never_matches(
    words: list[str], number: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(words)))
    longer = " ".join([*words[:at], number, *words[at:]])
    assert not _are_same(" ".join(words), longer, is_strict=False)


@given(st.text(), st.text())
def test_likeness_is_mutual_and_takes_any_text(one: str, other: str) -> None:
    assert _are_same(one, one)
    assert _are_same(one, other) == _are_same(other, one)


def test_semantic_hit_tells_what_it_was_kept_for(clock: SimpleNamespace) -> None:
    cache = SemanticCache(2, SemanticSettings(0.9, ttl_s=60.0), monotonic=lambda: clock.now_s)
    cache.put("acme", "scope", "what is it", UNIT, ANSWER)
    near = np.array([0.8, 0.6], np.float32)
    hit = cache.get("acme", "scope", "what is it?", near)
    assert hit is not None
    assert (hit.response, hit.text) == (ANSWER, "what is it")
    assert hit.similarity == pytest.approx(0.96)
    assert cache.get("acme", "scope", "what is it?", np.array([1, 0], np.float32)) is None
    assert cache.get("other", "scope", "what is it", UNIT) is None
    assert cache.get("acme", "other scope", "what is it", UNIT) is None
    assert cache.get("acme", "scope", "what is it 2", UNIT) is None
    clock.now_s += 60.0
    assert cache.get("acme", "scope", "what is it", UNIT) is None
    assert len(cache) == 0


def test_semantic_cache_is_bounded_and_keeps_the_latest() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cache = SemanticCache(16, SemanticSettings(0.99, max_entries=100, max_tenants=2))
    for n, vector in enumerate(vectors):
        cache.put("acme", "", f"ask {n}", vector, CachedResponse(b"%d" % n))
        assert len(cache) <= 100
    for n, vector in enumerate(vectors):
        hit = cache.get("acme", "", f"ask {n}", vector)
        assert (None if hit is None else hit.response.body) == (b"%d" % n if n >= 400 else None)
    for tenant in ("b", "c"):
        cache.put(tenant, "", "ask", vectors[0], ANSWER)
    assert cache.get("acme", "", "ask 499", vectors[499]) is None
    assert cache.get("b", "", "ask", vectors[0]) is not None


def test_vector_of_another_encoder_is_refused() -> None:
    cache = SemanticCache(3)
    with pytest.raises(ValueError, match=r"shape \(2,\), not \(3,\)"):
        cache.put("acme", "", "ask", UNIT, ANSWER)


INVOICE = "The invoice of 4210 dollars is due in {} days, what is the late fee?"


def test_real_embeddings_alone_would_mix_up_numbers() -> None:
    """Without the guard this would be answered wrongly: the vectors are all but the same."""
    encoder = StaticEncoder(DEFAULT_TABLE)
    one, other = INVOICE.format(14), INVOICE.format(41)
    vectors = encoder.encode([one, other]).astype(np.float32)
    assert float(vectors[0] @ vectors[1]) > 0.95
    cache = SemanticCache(encoder.dim)
    cache.put("acme", "", one, vectors[0], ANSWER)
    assert cache.get("acme", "", other, vectors[1]) is None
    assert cache.get("acme", "", one.lower(), vectors[0]) is not None
