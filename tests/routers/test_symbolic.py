"""Symbolic-MoE: published arithmetic, matching of skills, recruiting, trimming, aggregators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, PoolMismatch
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.annotators import Skills
from coe.routers.artifacts import Artifact
from coe.routers.symbolic import SymbolicScorer
from coe.routers.symbolic_aggregation import (
    NUMBER_FORMAT,
    select_aggregator,
    synthesis_prompt,
    synthesis_tasks,
)
from coe.routers.symbolic_recruitment import Recruit, draw, recruited, trim
from coe.routers.symbolic_relevance import FORMS, Form, competency, probabilities, skill_records
from coe.routing import Encoder, Explainer, FloatArray, Router
from coe.types import Query

ASKED = [Query("sum plus"), Query("river city", category="places"), Query("unknown"), Query("")]
POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "c")))
IDS = POOL.ids


class WrittenAnnotator:
    """Names the skills written in the query itself, as `sum+plus`."""

    name = "written"
    is_open = True

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        return tuple(dict.fromkeys(filter(None, query.text.split("+")), 1) for query in queries)


def written(rows: dict[str, list[float]]) -> OutcomeTable:
    queries = tuple(Query(text, f"q{i}") for i, text in enumerate(rows))
    return OutcomeTable(queries, IDS, np.array(list(rows.values())))


# --- the arithmetic -----------------------------------------------------------------------------

TOTALS = np.array([120.0, 60.0, -20.0])
LOCAL = np.array([[6.0, 9.0, -2.0]])


@pytest.mark.parametrize(
    ("form", "gamma", "drawn"),
    [
        ("paper", [0.75, 0.375, -0.125], [0.904484, 0.095332, 0.000184]),
        ("code", [0.751844, 0.248119, 0.000038], [0.668887, 0.331113, 0.0]),
    ],
)
def test_probabilities_agree_with_the_worked_example(
    form: Form, gamma: list[float], drawn: list[float]
) -> None:
    shares = competency(TOTALS, form)
    np.testing.assert_allclose(shares, gamma, atol=1e-6)
    np.testing.assert_allclose(probabilities(LOCAL, shares, form)[0], drawn, atol=1e-6)


def test_code_form_shifts_when_nobody_is_right_more_often_than_wrong() -> None:
    gamma = np.array([0.5, 0.25, 0.25])
    # Shifted by the least plus one: 3, 1, 5; times gamma: 1.5, .25, 1.25.
    drawn = probabilities(np.array([[-4.0, -6.0, -2.0]]), gamma, "code")
    np.testing.assert_allclose(drawn, [[0.5, 1 / 12, 5 / 12]])


def test_code_form_does_not_shift_totals_that_are_all_positive() -> None:
    np.testing.assert_allclose(competency(np.array([3.0, 1.0]), "code"), [0.9, 0.1])


def test_code_form_passes_over_competency_where_no_candidate_has_any() -> None:
    drawn = probabilities(np.array([[3.0, 1.0, -1.0]]), np.array([0.0, 0.0, 1.0]), "code")
    np.testing.assert_allclose(drawn, [[0.75, 0.25, 0.0]])


@pytest.mark.parametrize(
    ("totals", "gamma"),
    [
        # Divided by their sum of -70, 10 and -80 would become -0.14 and 1.14.
        ([10.0, -80.0], [91 / 92, 1 / 92]),
        ([5.0, -5.0], [11 / 12, 1 / 12]),
        ([0.0, 0.0], [1 / 2, 1 / 2]),
        ([-10.0, -80.0], [1 / 9, 8 / 9]),
    ],
)
def test_paper_form_shifts_only_totals_whose_order_it_would_reverse(
    totals: list[float], gamma: list[float]
) -> None:
    np.testing.assert_allclose(competency(np.array(totals), "paper"), gamma)


def test_paper_form_survives_large_records() -> None:
    drawn = probabilities(np.array([[9e5, 1e5]]), np.array([0.5, 0.5]), "paper")
    np.testing.assert_allclose(drawn, [[1.0, 0.0]])


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_depend_on_temperature(form: Form) -> None:
    warm, cold = (
        probabilities(LOCAL, competency(TOTALS, form, t), form, t)[0, 0] for t in (0.5, 2.0)
    )
    assert warm > cold


def test_records_add_one_for_right_and_take_one_for_wrong() -> None:
    scores = np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.75], [0.0, 1.0, 1.0]])
    needed: list[Skills] = [{"x": 4, "y": 1}, {"x": 1}, {"y": 2}]
    records = skill_records(scores, needed, ["x", "y"])
    np.testing.assert_array_equal(records, [[2.0, 0.0, 0.5], [0.0, 0.0, 1.0]])


def test_records_scale_up_what_was_measured() -> None:
    nan = np.nan
    scores = np.array([[1.0, nan, nan], [1.0, 1.0, nan], [0.0, nan, nan], [0.0, nan, nan]])
    needed: list[Skills] = [{"x": 1}, {"x": 1}, {"x": 1, "y": 1}, {"z": 1}]
    records = skill_records(scores, needed, ["x", "y", "z"])
    # b was right on the one it was measured on: of x's three, and overall.
    np.testing.assert_allclose(records, [[1.0, 3.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])


# --- the scorer ---------------------------------------------------------------------------------


def test_scores_are_the_worked_sum_over_skills(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "sum+plus": [1, 1, 0], "plus": [1, 1, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator(), "code")
    # Records: sum 2, 0, -2; plus 2, 2, -2. Totals 4, 2, -4, shifted 9, 7, 1, squared 81, 49, 1.
    np.testing.assert_allclose(
        scorer.score([Query("plus"), Query("sum+plus")]),
        [[81 / 130, 49 / 130, 0], [4 * 81 / 422, 2 * 49 / 422, 0]],
    )


def test_unseen_skill_stands_for_the_most_similar(encoder: Encoder) -> None:
    table = written({"sum plus": [1, 0, 0], "river": [0, 1, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator(), "code")
    near, known = scorer.score([Query("plus digit"), Query("sum plus")])
    np.testing.assert_array_equal(near, known)


def test_skills_that_meet_in_one_count_twice(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "river": [0, 1, 0], "city": [0, 1, 1]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator(), "paper")
    once = scorer.score([Query("sum+city")])
    twice = scorer.score([Query("sum+sum plus+city")])
    assert twice[0, 0] > once[0, 0]


@pytest.mark.parametrize("form", FORMS)
def test_query_without_known_skill_may_go_to_anyone(form: Form, encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "river": [1, 1, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator(), form)
    np.testing.assert_allclose(scorer.score([Query(""), Query("qwerty")]), 1 / 3)
    (reason,) = scorer.explain(Query("qwerty"))
    assert "no known skill" in reason


def test_balanced_records_are_not_taken_for_no_skill(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 1], "sum+sum": [0, 1, 0], "river": [1, 0, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator(), "code")
    # On sum all have 0, which leaves competency: totals 1, -1, -1, shifted 3, 1, 1, squared.
    np.testing.assert_allclose(scorer.score([Query("sum")]), [[9 / 11, 1 / 11, 1 / 11]])


def test_explanation_shows_the_record(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "sum+plus": [1, 1, 0]})
    (reason,) = SymbolicScorer.fit(table, encoder, WrittenAnnotator()).explain(Query("sum"))
    # Totals 3, 1, -3: shifted 7, 5, 1, squared 49, 25, 1.
    assert reason == ("needs sum, where a has +2 right over wrong and 65% of the pool's competency")


def test_restoring_needs_the_annotator_it_was_fitted_with(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "river": [0, 1, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator())
    again = SymbolicScorer(scorer.artifact(), encoder, WrittenAnnotator())
    np.testing.assert_array_equal(again.score(ASKED), scorer.score(ASKED))
    with pytest.raises(PoolMismatch, match="fitted with written, used with none"):
        SymbolicScorer(scorer.artifact(), encoder)
    other = WrittenAnnotator()
    other.name = "other"
    with pytest.raises(PoolMismatch, match="used with other"):
        SymbolicScorer(scorer.artifact(), encoder, other)


def test_fit_refuses_wrong_options(table: OutcomeTable, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="paper or code"):
        SymbolicScorer.fit(table, encoder, form="papr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="above 0"):
        SymbolicScorer.fit(table, encoder, temperature=0.0)


def test_fit_refuses_queries_without_any_skill(encoder: Encoder) -> None:
    with pytest.raises(DatasetError, match="no skill"):
        SymbolicScorer.fit(written({"": [1, 0, 0]}), encoder, WrittenAnnotator())


class QueriesOnly:
    """An encoder of recorded vectors: it knows whole queries and no skill."""

    def __init__(self, encoder: Encoder, known: set[str]) -> None:
        self._encoder = encoder
        self._known = known
        self.name = encoder.name
        self.dim = encoder.dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        assert set(texts) <= self._known
        return self._encoder.encode(texts)


def test_phrases_need_no_vectors_of_skills(table: OutcomeTable, encoder: Encoder) -> None:
    known = {query.text for query in (*table.queries, *ASKED)}
    scores = SymbolicScorer.fit(table, QueriesOnly(encoder, known)).score(ASKED)
    np.testing.assert_array_equal(scores, SymbolicScorer.fit(table, encoder).score(ASKED))


@pytest.mark.parametrize("form", FORMS)
def test_scorer_keeps_what_every_scorer_promises(
    form: Form, table: OutcomeTable, encoder: Encoder, tmp_path: Path
) -> None:
    scorer = SymbolicScorer.fit(table, encoder, form=form)
    scores = scorer.score(ASKED)
    assert scores.shape == (4, 3)
    assert scorer.score([]).shape == (0, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    np.testing.assert_array_equal(scores, np.vstack([scorer.score([q]) for q in ASKED]))
    np.testing.assert_array_equal(
        scores, SymbolicScorer.fit(table, encoder, form=form).score(ASKED)
    )
    assert [scores[0].argmax(), scores[1].argmax()] == [0, 1]
    scorer.artifact().save(tmp_path / "a")
    again = SymbolicScorer(Artifact.load(tmp_path / "a"), encoder)
    np.testing.assert_array_equal(scores, again.score(ASKED))
    assert isinstance(again, Explainer)
    (reason,) = again.explain(Query("river city"))
    assert "geo" in reason
    with pytest.raises(PoolMismatch, match="coe fit"):
        again.artifact().check(("calc", "chem", "geo"), encoder.name)


@pytest.mark.parametrize("form", FORMS)
def test_unmeasured_outcomes_are_not_wrong_answers(
    form: Form, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[::2, 1] = np.nan
    holed = SymbolicScorer.fit(replace(table, scores=scores), encoder, form=form)
    whole = SymbolicScorer.fit(table, encoder, form=form)
    assert abs(holed.score(ASKED)[1, 1] - whole.score(ASKED)[1, 1]) < 0.25
    scores[:, 2] = np.nan
    never = SymbolicScorer.fit(replace(table, scores=scores), encoder, form=form)
    assert np.isfinite(never.score(ASKED)).all()


# --- recruiting ---------------------------------------------------------------------------------


def test_recruits_are_drawn_in_proportion_to_the_scores() -> None:
    scores = np.array([0.6, 0.3, 0.1])
    first = [Recruit(1, seed).choose(scores, POOL)[0] for seed in range(2000)]
    shares = [first.count(id_) / len(first) for id_ in IDS]
    np.testing.assert_allclose(shares, scores, atol=0.03)


def test_recruits_are_the_same_for_the_same_seed_and_row() -> None:
    scores = np.array([0.4, 0.35, 0.25])
    policy = Recruit(3, seed=5)
    assert policy.choose(scores, POOL) == policy.choose(scores + 1e-12, POOL)
    assert len({Recruit(3, seed).choose(scores, POOL) for seed in range(30)}) > 3


def test_recruits_are_distinct_and_at_most_k() -> None:
    scores = np.array([0.4, 0.35, 0.25])
    sizes = set()
    for seed in range(50):
        chosen = Recruit(3, seed).choose(scores, POOL)
        assert len(set(chosen)) == len(chosen)
        sizes.add(len(chosen))
    assert sizes == {1, 2, 3}


def test_recruits_never_include_an_expert_without_probability() -> None:
    for seed in range(30):
        assert "c" not in Recruit(3, seed).choose(np.array([0.5, 0.5, 0.0]), POOL)


@pytest.mark.parametrize("scores", [[0.0, 0.0, 0.0], [-3.0, -3.0, -3.0]])
def test_recruits_of_worthless_scores_are_drawn_evenly(scores: list[float]) -> None:
    row = np.array(scores)
    drawn = {id_ for seed in range(30) for id_ in Recruit(1, seed).choose(row, POOL)}
    assert drawn == set(IDS)


def test_recruits_of_negative_scores_leave_out_the_lowest() -> None:
    drawn = {
        id_
        for seed in range(30)
        for id_ in Recruit(2, seed).choose(np.array([-1.0, -2.0, -3.0], np.float32), POOL)
    }
    assert drawn == {"a", "b"}


def test_recruited_puts_more_draws_first_then_the_more_probable() -> None:
    counts = np.array([[1, 2, 0], [1, 1, 1], [0, 0, 3]])
    drawn = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3]])
    assert recruited(counts, drawn, IDS) == [("b", "a"), ("c", "b", "a"), ("c",)]


def test_router_recruits_from_symbolic_scores(encoder: Encoder) -> None:
    table = written({"sum": [1, 0, 0], "river": [1, 1, 0]})
    scorer = SymbolicScorer.fit(table, encoder, WrittenAnnotator())
    decision = Router(scorer, Recruit(3), POOL).route("sum")
    assert decision.experts == ("a",)
    assert decision.router == "symbolic/recruit-3"


def test_draws_add_up_to_k_and_repeat() -> None:
    drawn = np.tile([0.5, 0.3, 0.2], (200, 1))
    counts = draw(drawn, 3, seed=1)
    assert counts.shape == (200, 3)
    assert (counts.sum(axis=1) == 3).all()
    np.testing.assert_array_equal(counts, draw(drawn, 3, seed=1))
    assert (counts != draw(drawn, 3, seed=2)).any()
    assert draw(np.empty((0, 3))).shape == (0, 3)


def test_trim_gives_the_draws_of_rare_experts_to_the_others() -> None:
    drawn = np.tile([0.60, 0.38, 0.02], (300, 1))
    before, after = draw(drawn), trim(drawn)
    assert before[:, 2].sum() > 0
    assert after[:, 2].sum() == 0
    assert (after.sum(axis=1) == 3).all()
    assert (after[:, :2] >= before[:, :2]).all()
    untouched = before[:, 2] == 0
    np.testing.assert_array_equal(after[untouched], before[untouched])


def test_trim_keeps_experts_at_the_threshold() -> None:
    # 19 queries for a and one for b: exactly 5 % of all draws.
    drawn = np.eye(2)[[0] * 19 + [1]]
    np.testing.assert_array_equal(trim(drawn), draw(drawn))
    assert trim(drawn, min_share=0.06)[19].tolist() == [3, 0]


def test_trim_falls_back_to_the_batch_where_a_query_has_nobody_left() -> None:
    drawn = np.eye(3)[[0] * 60 + [1] * 30 + [2] * 4]
    after = trim(drawn)
    assert (after[-4:, 2] == 0).all()
    assert (after[-4:].sum(axis=1) == 3).all()


def test_trim_leaves_a_pool_alone_where_nobody_would_stay() -> None:
    drawn = np.full((4000, 30), 1 / 30)
    np.testing.assert_array_equal(trim(drawn), draw(drawn))


# --- the choice of an aggregator ----------------------------------------------------------------

ANSWERED = OutcomeTable(
    tuple(Query(f"question {i}", f"q{i}") for i in range(4)),
    IDS,
    np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, np.nan, np.nan]]),
)
TRANSCRIPTS: list[list[str | None]] = [
    ["<think>hm</think>right 0", "wrong 0b", "wrong 0c"],
    ["wrong 1a", None, "wrong 1c"],
    ["right 2a", "right 2b", "wrong 2c"],
    ["right 3", "not measured", "neither"],
]


def test_synthesis_mixes_one_right_and_two_wrong_responses() -> None:
    tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS)
    assert [task.query.id for task in tasks] == ["q0", "q2", "q3"]
    assert set(tasks[0].responses) == set(TRANSCRIPTS[0])
    assert sorted(tasks[1].responses)[:2] == ["", ""]
    assert sorted(tasks[1].responses)[2] in ("right 2a", "right 2b")
    assert sorted(tasks[2].responses) == ["", "", "right 3"]


def test_synthesis_keeps_unsolved_queries_only_when_asked() -> None:
    tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS, keep_unsolved=True)
    assert [task.is_solved for task in tasks] == [True, False, True, True]
    for seed in range(5):
        unsolved = synthesis_tasks(ANSWERED, TRANSCRIPTS, keep_unsolved=True, seed=seed)[1]
        assert sorted(unsolved.responses) == ["", "wrong 1a", "wrong 1c"]


def test_synthesis_is_shuffled_the_same_way_each_time() -> None:
    places = set()
    for seed in range(20):
        tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS, seed=seed)
        assert tasks == synthesis_tasks(ANSWERED, TRANSCRIPTS, seed=seed)
        places.add(tasks[0].responses.index(TRANSCRIPTS[0][0] or ""))
        alone = synthesis_tasks(ANSWERED.rows(np.array([0])), TRANSCRIPTS[:1], seed=seed)
        assert alone[0] == tasks[0]
    assert places == {0, 1, 2}


def test_synthesis_refuses_transcripts_that_do_not_fit() -> None:
    with pytest.raises(DatasetError, match="1 rows of transcripts for 4"):
        synthesis_tasks(ANSWERED, TRANSCRIPTS[:1])
    with pytest.raises(DatasetError, match="'q0' has 1 transcripts for 3"):
        synthesis_tasks(ANSWERED, [["x"], *TRANSCRIPTS[1:]])


def test_synthesis_prompt_removes_thinking_and_asks_in_the_task_format() -> None:
    prompt = synthesis_prompt("2 + 2?", ["<think>5? no</think> 4", "five"], NUMBER_FORMAT)
    assert "5? no" not in prompt
    assert "### Response 1\n4\n" in prompt
    assert "### Response 2\nfive\n" in prompt
    assert "2 + 2?" in prompt
    assert r"\boxed" in prompt
    assert "(X)" not in prompt


def test_selection_takes_the_best_candidate_and_counts_failures_apart() -> None:
    tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS)
    asked: list[str] = []

    def ask(expert_id: str, prompts: Sequence[str]) -> Sequence[str | None]:
        asked.append(expert_id)
        assert all(
            f"### Question\n{t.query.text}" in p for t, p in zip(tasks, prompts, strict=True)
        )
        completions: dict[str, list[str | None]] = {
            "a": ["4", "4", "x"],
            "b": ["4.0", "4", None],
            "c": [None] * 3,
        }
        return completions[expert_id]

    selected = select_aggregator(tasks, IDS, ask, lambda query, text: float(text in ("4", "4.0")))
    assert asked == list(IDS)
    assert selected.expert_id == "b"
    assert [(s.expert_id, s.n_graded, s.n_failed) for s in selected.scores] == [
        ("b", 2, 1),
        ("a", 3, 0),
        ("c", 0, 3),
    ]
    assert [s.accuracy for s in selected.scores[:2]] == [1.0, pytest.approx(2 / 3)]
    assert np.isnan(selected.scores[2].accuracy)


def test_selection_takes_the_earlier_of_equals() -> None:
    tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS)
    selected = select_aggregator(tasks, ("c", "a"), lambda _, p: ["x"] * len(p), lambda *_: 1.0)
    assert selected.expert_id == "c"


def test_selection_needs_tasks_candidates_and_answers() -> None:
    tasks = synthesis_tasks(ANSWERED, TRANSCRIPTS)
    for given, candidates in (((), IDS), (tasks, ())):
        with pytest.raises(DatasetError, match="at least one candidate"):
            select_aggregator(given, candidates, lambda _, p: p, lambda *_: 1.0)
    with pytest.raises(DatasetError, match="gave any completion"):
        select_aggregator(tasks, IDS, lambda _, p: [None] * len(p), lambda *_: 1.0)
    with pytest.raises(DatasetError, match="gave 0 completions"):
        select_aggregator(tasks, IDS, lambda *_: [], lambda *_: 1.0)
