from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.datasets import load_llmrouter_mix
from coe.eval.judging import judged_policy
from coe.eval.vectors import recorded_encoder
from coe.experts import Price
from coe.routers.policies import TopK

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three questions, the last two of one text, to a small model and a big one."""
    questions = {
        "query_id": [1, 2, 3],
        "task": ["gsm8k", "mmlu", "mmlu"],
        "query": ["one", "same", "same"],
        "split": ["train", "test", "test"],
    }
    models = {
        "model": ["big", "small"],
        "params_total_b": [70.0, 8.0],
        "params_active_b": [70.0, 8.0],
        "open_weights": [True, True],
        "usd_per_mtok_in": [0.9, 0.2],
        "usd_per_mtok_out": [0.9, 0.2],
    }
    outcomes = {
        "query_id": [1, 2, 3, 1, 2],
        "model": ["big", "big", "big", "small", "small"],
        "score": [1.0, 0.25, 0.5, 0.0, 1.0],
    }
    for name, columns in (("questions", questions), ("models", models), ("outcomes", outcomes)):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    vectors = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float16)
    np.save(tmp_path / "embeddings_minilm_query.npy", vectors)
    return tmp_path


def test_scores_become_a_table_of_tasks(folder: Path) -> None:
    benchmark = load_llmrouter_mix(folder, "test")
    table = benchmark.table
    assert [(q.id, q.text, q.category) for q in table.queries] == [
        ("2", "same", "mmlu"),
        ("3", "same", "mmlu"),
    ]
    np.testing.assert_array_equal(table.scores, [[0.25, 1.0], [0.5, np.nan]])
    assert (table.answers, table.cost_usd) == (None, None)
    assert benchmark.pool.expert("small").price == Price(0.2, 0.2)


@pytest.mark.parametrize(
    ("pool", "ids"), [("all", ("big", "small")), ("small", ("small",)), (["big"], ("big",))]
)
def test_pool_selects_experts(folder: Path, pool: str | list[str], ids: tuple[str, ...]) -> None:
    assert load_llmrouter_mix(folder, pool=pool).pool.ids == ids


def test_text_that_occurs_twice_has_one_vector(folder: Path) -> None:
    encoder = recorded_encoder(load_llmrouter_mix(folder).table)
    np.testing.assert_array_equal(encoder.encode(["same", "one"]), [[0, 1], [1, 0]])


def test_score_beyond_one_is_refused(folder: Path) -> None:
    wrong = {"query_id": [1], "model": ["big"], "score": [2.0]}
    parquet.write_table(pa.table(wrong), folder / "outcomes.parquet")
    with pytest.raises(DatasetError, match="a score is not between 0 and 1"):
        load_llmrouter_mix(folder)


def test_missing_file_says_where_the_data_is_from(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"models\.parquet: no such file; .*LLMRouter"):
        load_llmrouter_mix(tmp_path)


def test_several_experts_cannot_answer_together(folder: Path) -> None:
    benchmark = load_llmrouter_mix(folder, "train")
    scores = np.array([[0.9, 0.1]])
    judged = judged_policy(TopK(1), scores, benchmark.table, benchmark.pool)
    np.testing.assert_array_equal(judged.score, [1.0])
    with pytest.raises(DatasetError, match="only scores were recorded"):
        judged_policy(TopK(2), scores, benchmark.table, benchmark.pool)


def test_recorded_scores_give_the_known_figures(recorded_data: Path) -> None:
    folder = recorded_data / "llmrouter_mix"
    train, test = (load_llmrouter_mix(folder, split).table for split in ("train", "test"))
    assert (train.n_queries, test.n_queries, len(test.expert_ids)) == (2137, 3045, 9)
    assert train.best_single() == "llama-3.1-nemotron-51b-instruct"
    assert np.nanmax(test.means()) == pytest.approx(0.618, abs=5e-4)
    assert len(test.categories) == 14
    encoder = recorded_encoder(train, test)
    texts = [query.text for query in test.queries]
    assert len(set(texts)) < len(texts)
    assert test.vectors is not None
    np.testing.assert_allclose(encoder.encode(texts), test.vectors, atol=1e-4)
