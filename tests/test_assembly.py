"""From a file to a router that answers: what is fitted together is read back together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coe.aggregation import Chain, First, LLMAggregator, MajorityVote, WeightedVote
from coe.assembly import fit_artifact, load_composition, load_router
from coe.config import load_config
from coe.errors import ConfigError
from coe.outcomes import OutcomeTable
from coe.routers.calibrated import CalibratedScorer
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import AdaptiveVote, Priced
from coe.types import GenerationRequest, Message, Query

EXPERTS = """
experts:
  - {id: a, engine: {kind: scripted, default: 'The answer is (A)'}, params_active_b: 1}
  - {id: b, engine: {kind: scripted, default: 'The answer is (B)'}, params_active_b: 8}
  - {id: c, engine: {kind: scripted, default: 'The answer is (B)'}, params_active_b: 2}
"""


def _outcomes(n: int = 120) -> OutcomeTable:
    """Plants are known to b and c, sums to a; c is right less often."""
    rng = np.random.default_rng(0)
    queries, scores, answers = [], [], []
    for i in range(n):
        is_sum = i % 2 == 0
        topic = "add the numbers" if is_sum else "flower of the garden plant"
        chances = (0.9, 0.3, 0.2) if is_sum else (0.2, 0.9, 0.7)
        won = rng.random(3) < chances
        queries.append(Query(f"{topic} {i}", str(i)))
        scores.append(won.astype(float))
        answers.append(tuple("right" if w else f"wrong {e}" for e, w in enumerate(won)))
    return OutcomeTable(tuple(queries), ("a", "b", "c"), np.array(scores), tuple(answers))


def _pool(folder: Path, router: str) -> Path:
    file = folder / "experts.yaml"
    file.write_text(f"{EXPERTS}\nrouter: {router}\n", encoding="utf-8")
    return file


def _fitted(folder: Path, router: str) -> Path:
    file = _pool(folder, router)
    config = load_config(file)
    fit_artifact(config, _outcomes()).save(config.router.artifact)
    return file


def test_a_tuned_policy_is_read_with_the_numbers_that_were_found(tmp_path: Path) -> None:
    policy = "{kind: top-1, options: {cost: params_active_b, budget: 3.0}}"
    file = _fitted(tmp_path, f"{{scorer: knn, artifact: fitted, policy: {policy}}}")
    router = load_router(file)
    assert isinstance(router.policy, Priced)
    assert router.policy.multiplier > 0
    assert isinstance(router.scorer, CalibratedScorer)
    decisions = router.route_batch(_outcomes().queries)
    costs = {"a": 1.0, "b": 8.0, "c": 2.0}
    assert np.mean([costs[decision.experts[0]] for decision in decisions]) <= 3.5


def test_a_budget_that_was_never_fitted_says_so(tmp_path: Path) -> None:
    _fitted(tmp_path, "{scorer: knn, artifact: fitted}")
    options = "{cost: params_active_b, budget: 3.0}"
    file = _pool(tmp_path, f"{{artifact: fitted, policy: {{kind: top-1, options: {options}}}}}")
    with pytest.raises(ConfigError, match=r"not fitted yet.*coe fit"):
        load_router(file)


async def test_a_learned_vote_elects_and_is_believed_by_the_policy(tmp_path: Path) -> None:
    policy = "{kind: adaptive-vote, k: 3, options: {confidence: 0.8}}"
    router = f"{{scorer: knn, artifact: fitted, aggregator: learned, policy: {policy}}}"
    composition = load_composition(_fitted(tmp_path, router))
    assert isinstance(composition.router.policy, AdaptiveVote)
    assert isinstance(composition.router.policy.model, LearnedVote)
    request = GenerationRequest((Message("user", "flower of the garden plant 7"),))
    completion = await composition.complete(request, composition.decide(request))
    assert completion.text == "The answer is (B)"


def test_a_learned_vote_that_was_never_fitted_says_so(tmp_path: Path) -> None:
    _fitted(tmp_path, "{scorer: knn, artifact: fitted}")
    file = _pool(tmp_path, "{artifact: fitted, aggregator: learned}")
    with pytest.raises(ConfigError, match=r"not fitted yet.*coe fit"):
        load_composition(file)


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [
        ("first", First),
        ("majority", MajorityVote),
        ("weighted", WeightedVote),
        ("chain", Chain),
        ("{kind: llm, expert: c}", LLMAggregator),
    ],
)
async def test_every_aggregator_answers(
    tmp_path: Path, aggregator: str, expected: type[object]
) -> None:
    router = f"{{scorer: random, policy: {{kind: top-3}}, aggregator: {aggregator}}}"
    composition = load_composition(_pool(tmp_path, router))
    assert isinstance(composition.aggregator, expected)
    request = GenerationRequest((Message("user", "hello"),))
    completion = await composition.complete(request, composition.decide(request))
    assert completion.text.startswith("The answer is (")


def test_what_has_to_be_fitted_needs_a_scorer_that_is(tmp_path: Path) -> None:
    file = _pool(tmp_path, "{scorer: random, aggregator: learned}")
    with pytest.raises(ConfigError, match="`random` is not fitted"):
        load_composition(file)


def test_parts_survive_another_fit(tmp_path: Path) -> None:
    policy = "{kind: adaptive-vote, options: {calls: 2}}"
    router = f"{{scorer: knn, artifact: fitted, aggregator: learned, policy: {policy}}}"
    file = _fitted(tmp_path, router)
    once = load_router(file)
    again = load_router(_fitted(tmp_path, router))
    assert once.name == again.name
    queries = _outcomes().queries[:5]
    assert [d.scores for d in once.route_batch(queries)] == [
        d.scores for d in again.route_batch(queries)
    ]
