from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.assembly import fit_scorer
from coe.errors import DatasetError
from coe.eval.datasets import load_mmlu_pro, load_zoo
from coe.eval.harness import Judged, evaluate
from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.eval.judging import judged_policy
from coe.eval.metrics import oracle_scores
from coe.eval.vectors import recorded_encoder
from coe.experts import Price, ReplaySpec
from coe.routers.policies import TopK

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

_OUTCOMES: dict[str, list[Any]] = {
    "question_id": [1, 2, 3, 1, 2, 3, 1],
    "model": ["big", "big", "big", "small", "small", "small", "partial"],
    "pred": ["A", "C", None, "B", None, "A", "A"],
    "correct": [True, True, False, False, False, True, True],
    "extract": ["l1", "l2", "no_response", "l1", "none", "l1", "l1"],
    "output_tokens_est": [100, 200, 0, 10, 20, 30, 5],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions = {
        "question_id": [1, 2, 3],
        "category": ["law", "math", "math"],
        "question": ["one", "two", "three"],
        "options": [["x", "y"], ["z"], ["u", "v"]],
        "split": ["train", "test", "test"],
    }
    models = {
        "model": ["big", "small", "partial"],
        "complete": [True, True, False],
        "small_pool": [False, True, True],
        "params_active_b": [70.0, 8.0, None],
        "context_tokens": [8192, None, None],
        "usd_per_mtok_in": [1.0, None, None],
        "usd_per_mtok_out": [2.0, None, None],
    }
    for name, columns in (("questions", questions), ("models", models), ("outcomes", _OUTCOMES)):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    np.save(tmp_path / "embeddings_minilm_question.npy", np.eye(3, dtype=np.float16))
    return tmp_path


def test_outcomes_become_a_table(folder: Path) -> None:
    table = load_mmlu_pro(folder).table
    assert [(q.id, q.text, q.category) for q in table.queries] == [
        ("1", "one", "law"),
        ("2", "two", "math"),
        ("3", "three", "math"),
    ]
    assert table.expert_ids == ("big", "small")
    np.testing.assert_array_equal(table.scores, [[1, 0], [1, 0], [np.nan, 1]])
    assert table.answers == (("A", "B"), ("C", None), (None, "A"))
    assert table.cost_usd is not None
    np.testing.assert_allclose(
        table.cost_usd, np.array([[2e-4, np.nan], [4e-4, np.nan], [np.nan, np.nan]])
    )


def test_split_selects_questions_and_their_vectors(folder: Path) -> None:
    table = load_mmlu_pro(folder, "test").table
    assert [query.id for query in table.queries] == ["2", "3"]
    assert table.answers == (("C", None), (None, "A"))
    np.testing.assert_array_equal(table.vectors, np.eye(3)[1:])


@pytest.mark.parametrize(
    ("pool", "ids"),
    [
        ("all", ("big", "small")),
        ("small", ("small",)),
        ("open", ("big", "small")),
        ("priced", ("big",)),
        (["partial", "big"], ("partial", "big")),
    ],
)
def test_pool_selects_experts(folder: Path, pool: str | list[str], ids: tuple[str, ...]) -> None:
    benchmark = load_mmlu_pro(folder, pool=pool)
    assert benchmark.pool.ids == benchmark.table.expert_ids == ids


def test_expert_without_a_record_is_not_measured(folder: Path) -> None:
    table = load_mmlu_pro(folder, pool=["partial"]).table
    np.testing.assert_array_equal(table.scores, [[1], [np.nan], [np.nan]])


def test_experts_carry_what_is_known_of_them(folder: Path) -> None:
    pool = load_mmlu_pro(folder).pool
    big, small = pool.expert("big"), pool.expert("small")
    assert (big.params_active_b, big.context_tokens) == (70.0, 8192)
    assert big.price == Price(1.0, 2.0)
    assert big.engine == ReplaySpec(path=str(folder / "outcomes.parquet"))
    assert (small.context_tokens, small.price) == (4096, None)


def test_unknown_expert_names_the_nearest(folder: Path) -> None:
    with pytest.raises(DatasetError, match="no expert 'smal'; did you mean 'small'"):
        load_mmlu_pro(folder, pool=["smal"])


def test_unknown_pool_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match="pool 'tiny'"):
        load_mmlu_pro(folder, pool="tiny")


def test_unknown_split_names_those_there_are(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"no split 'dev' \(it has test, train\)"):
        load_mmlu_pro(folder, "dev")


def test_missing_file_says_where_the_data_is_from(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"models\.parquet: no such file; .*MMLU-Pro"):
        load_mmlu_pro(tmp_path)


def test_vectors_of_other_questions_are_refused(folder: Path) -> None:
    np.save(folder / "embeddings_minilm_question.npy", np.eye(2, dtype=np.float16))
    with pytest.raises(DatasetError, match="2 vectors for 3 questions"):
        load_mmlu_pro(folder)


def test_text_may_hold_the_options_as_live_clients_send_them(folder: Path) -> None:
    np.save(folder / "embeddings_minilm_question_options.npy", 2 * np.eye(3, dtype=np.float16))
    table = load_mmlu_pro(folder, "test", text="question-options").table
    assert [query.text for query in table.queries] == ["two Options: z", "three Options: u; v"]
    np.testing.assert_array_equal(table.vectors, 2 * np.eye(3)[1:])
    with pytest.raises(DatasetError, match="text 'options' is none of 'question'"):
        load_mmlu_pro(folder, text="options")


def test_vectors_may_be_absent(folder: Path) -> None:
    (folder / "embeddings_minilm_question.npy").unlink()
    table = load_mmlu_pro(folder).table
    assert (table.vectors, table.vectors_name) == (None, None)


@pytest.mark.parametrize(
    ("question_id", "problem"), [(9, "questions.parquet lacks"), (2, "answers a question twice")]
)
def test_outcomes_that_do_not_fit_are_refused(folder: Path, question_id: int, problem: str) -> None:
    wrong = {**_OUTCOMES, "question_id": [question_id, *_OUTCOMES["question_id"][1:]]}
    parquet.write_table(pa.table(wrong), folder / "outcomes.parquet")
    with pytest.raises(DatasetError, match=problem):
        load_mmlu_pro(folder)


def test_digest_changes_with_the_data(folder: Path) -> None:
    before = load_mmlu_pro(folder).digest()
    assert load_mmlu_pro(folder).digest() == before
    wrong = {**_OUTCOMES, "correct": [False, *_OUTCOMES["correct"][1:]]}
    parquet.write_table(pa.table(wrong), folder / "outcomes.parquet")
    assert load_mmlu_pro(folder).digest() != before


def test_recorded_vectors_are_looked_up_by_text(folder: Path) -> None:
    encoder = recorded_encoder(load_mmlu_pro(folder, "train").table, load_mmlu_pro(folder).table)
    assert (encoder.name, encoder.dim) == ("recorded/all-MiniLM-L6-v2", 3)
    vectors = encoder.encode(["three", "one"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[0, 0, 1], [1, 0, 0]])
    with pytest.raises(DatasetError, match="no recorded embedding of 'four'"):
        encoder.encode(["four"])


def test_recorded_vectors_need_vectors(folder: Path) -> None:
    (folder / "embeddings_minilm_question.npy").unlink()
    with pytest.raises(DatasetError, match="no vectors were recorded"):
        recorded_encoder(load_mmlu_pro(folder).table)


def test_recorded_vectors_of_two_encoders_are_not_mixed(folder: Path) -> None:
    table = load_mmlu_pro(folder).table
    with pytest.raises(DatasetError, match="several encoders cannot be mixed: other, recorded/"):
        recorded_encoder(table, replace(table, vectors_name="other"))


def test_zoo_questions_are_queries_with_one_right_answer() -> None:
    questions = load_zoo("test")
    query = questions.queries[0]
    assert query.category is not None
    assert set(questions.splits) == {"test"}
    right = questions.answers[query.id]
    assert questions.grade(query, f" {right}\n").score == 1.0
    assert questions.grade(query, f" {right}\n").answer == right
    assert questions.grade(query, f"{right}!").score == 0.0
    assert questions.grade(query, " ").answer is None


def test_zoo_of_both_splits_is_the_two_together() -> None:
    both = load_zoo()
    assert both.queries == load_zoo("train").queries + load_zoo("test").queries
    with pytest.raises(DatasetError, match="unknown split 'dev'"):
        load_zoo("dev")


@pytest.mark.parametrize(
    ("pool", "n_experts", "best", "accuracies"),
    [
        ("all", 28, "gemini-1.5-pro-002", (70.2, 94.3, 71.8, 1.6)),
        ("small", 14, "Meta-Llama-3_1-8B-Instruct", (44.3, 82.0, 46.0, 1.6)),
    ],
)
def test_recorded_answers_give_the_known_figures(
    recorded_data: Path,
    pool: str,
    n_experts: int,
    best: str,
    accuracies: tuple[float, ...],
) -> None:
    folder = recorded_data / "mmlu_pro"
    test = load_mmlu_pro(folder, "test", pool).table
    train = load_mmlu_pro(folder, "train", pool).table
    assert (train.n_queries, test.n_queries, len(test.expert_ids)) == (3603, 6609, n_experts)
    assert train.best_single() == best
    by_category = {
        category: train.rows(np.array([q.category == category for q in train.queries]))
        for category in train.categories
    }
    leaders = {
        category: test.expert_ids.index(part.best_single())
        for category, part in by_category.items()
    }
    routed = np.array(
        [test.scores[i, leaders[q.category or ""]] for i, q in enumerate(test.queries)]
    )
    single = test.column(best)
    rng = np.random.default_rng(0)
    figures = (
        bootstrap_mean(single, rng),
        bootstrap_mean(oracle_scores(test), rng),
        bootstrap_mean(routed, rng),
        bootstrap_difference(routed, single, rng),
    )
    assert tuple(round(100 * figure.mean, 1) for figure in figures) == accuracies
    assert 0.020 < figures[0].high - figures[0].low < 0.026


@pytest.mark.parametrize(
    ("pool", "figures"),
    [
        ("all", {"best-single": 70.2, "category": 71.8, "knn": 71.3, "oracle": 94.3}),
        ("small", {"best-single": 44.3, "category": 46.0, "knn": 45.8, "oracle": 82.0}),
    ],
)
def test_the_real_routers_give_the_known_figures(
    recorded_data: Path, pool: str, figures: dict[str, float]
) -> None:
    """Fitted and judged by the product's own parts, within half a point of independent figures."""
    judged = load_mmlu_pro(recorded_data / "mmlu_pro", "test", pool)
    fitted_on = load_mmlu_pro(recorded_data / "mmlu_pro", "train", pool).table
    encoder = recorded_encoder(fitted_on, judged.table)
    routers = [
        Judged(name, "top-1", judged_policy(TopK(1), scores, judged.table, judged.pool))
        for name in ("category", "knn")
        for scores in [fit_scorer(name, fitted_on, encoder).score(judged.table.queries)]
    ]
    rows = evaluate(judged, routers, fitted_on, pool)
    measured = {row.router: 100 * row.accuracy for row in rows}
    for name, figure in figures.items():
        assert measured[name] == pytest.approx(figure, abs=0.5)
