"""The shipped pool, whole: the router that ships, the experts that ship, real answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from coe import Router
from coe.assembly import load_composition
from coe.composition import Composition
from coe.eval.datasets import load_outcomes, load_zoo
from coe.types import GenerationRequest, Message
from coe.zoo.grading import is_correct
from coe.zoo.questions import FIELDS, zoo_questions


@pytest.fixture(scope="module")
def router(repository: Path) -> Router:
    return Router.load(repository / "experts.yaml")


@pytest_asyncio.fixture
async def composition(repository: Path) -> AsyncIterator[Composition]:
    loaded = load_composition(repository / "experts.yaml")
    yield loaded
    await loaded.stop()


@pytest.mark.parametrize(
    ("text", "expert"),
    [
        ("What is 31 + 46?", "arithmetic"),
        ("What is the capital of Peru?", "geography"),
        ("What is the chemical symbol of iron?", "chemistry"),
        ("How do you say house in Spanish?", "vocabulary"),
        ("Reverse the word planet.", "text"),
    ],
)
def test_router_sends_a_plain_question_to_its_specialist(
    router: Router, text: str, expert: str
) -> None:
    decision = router.route(text)
    assert decision.experts == (expert,)
    assert any(expert in reason for reason in decision.reasons)


def test_router_reaches_the_specialists_on_test_questions(router: Router) -> None:
    questions = zoo_questions("test")
    decisions = router.route_batch([question.text for question in questions])
    to_specialist = [d.experts[0] == q.field for d, q in zip(decisions, questions, strict=True)]
    assert np.mean(to_specialist) > 0.93


async def test_every_specialist_really_answers(composition: Composition) -> None:
    """Three test questions a field, routed and generated, graded as the benchmark grades."""
    asked = [q for field in FIELDS for q in zoo_questions("test") if q.field == field]
    chosen = [q for i, q in enumerate(asked) if i % 67 == 0]
    correct = []
    for question in chosen:
        request = GenerationRequest((Message("user", question.text),))
        completion = await composition.complete(request, composition.decide(request))
        correct.append(is_correct(question.answer, completion.text))
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0
    assert len(correct) == 15
    assert np.mean(correct) >= 0.8


def test_committed_outcomes_are_complete_and_support_the_claims(repository: Path) -> None:
    """Specialists ≥ 95 % at home, the pool ≥ 20 points over any single expert."""
    table = load_outcomes(repository / "coe/zoo/outcomes.parquet", "test")
    assert not np.isnan(table.scores).any()
    assert {query.id for query in table.queries} == {q.id for q in load_zoo("test").queries}
    for field in FIELDS:
        at_home = np.array([query.category == field for query in table.queries])
        assert table.rows(at_home).column(field).mean() >= 0.95
    chosen = Router.load(repository / "experts.yaml").route_batch(table.queries)
    columns = [table.expert_ids.index(decision.experts[0]) for decision in chosen]
    routed = table.scores[np.arange(table.n_queries), columns].mean()
    assert routed >= 0.95 * table.scores.max(axis=1).mean()
    assert routed >= table.means().max() + 0.20
