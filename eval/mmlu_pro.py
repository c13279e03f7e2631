"""Recorded answers of real models to MMLU-Pro; docs/data.md describes the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coe.errors import DatasetError
from coe.eval.files import objects, read_parquet
from coe.eval.recorded import (
    MINILM,
    Grid,
    RecordedBenchmark,
    RecordedExpert,
    chosen_pool,
    recorded_expert,
    recorded_vectors,
    split_rows,
)
from coe.experts import ExpertPool, ReplaySpec
from coe.outcomes import FloatArray, OutcomeTable
from coe.types import Query

MMLU_PRO_SOURCE = (
    "the answers are published in the GitHub repository TIGER-AI-Lab/MMLU-Pro (eval_results/); "
    "docs/data.md says how they are laid out here"
)
TEXTS: Mapping[str, str] = {
    "question": "embeddings_minilm_question.npy",
    "question-options": "embeddings_minilm_question_options.npy",
}
"""What a query's text may be, and where its vectors lie."""
_QUESTION_COLUMNS = ("question_id", "category", "question", "split")
_NO_RECORD = "no_response"


def load_mmlu_pro(
    folder: Path,
    split: str | None = None,
    pool: Sequence[str] | str = "all",
    text: str = "question",
) -> RecordedBenchmark:
    """Recorded answers to MMLU-Pro questions of one split, or of all.

    `pool` is a name of `coe.eval.recorded.POOLS` or a list of ids. `text` "question-options" puts
    the options behind the question, as those do who ask live: `question + " Options: " + "; "
    between the options`. Where an expert has no record its score is NaN; an answer that could not
    be read is None and scored 0. `cost_usd` is the price of the answer's tokens alone, since the
    prompts' were not recorded.
    """
    if text not in TEXTS:
        raise DatasetError(f"text {text!r} is none of {', '.join(map(repr, TEXTS))}")
    outcomes_file = folder / "outcomes.parquet"
    models_file, questions_file = folder / "models.parquet", folder / "questions.parquet"
    chosen = chosen_pool(_experts(models_file, outcomes_file), pool, models_file)
    needed = (*_QUESTION_COLUMNS, *(["options"] if text == "question-options" else []))
    questions = read_parquet(questions_file, needed, MMLU_PRO_SOURCE, ())
    kept = split_rows(questions["split"], split, questions_file)
    outcomes = read_parquet(
        outcomes_file,
        ("question_id", "model", "pred", "correct"),
        MMLU_PRO_SOURCE,
        optional=("extract", "output_tokens_est"),
    )
    grid = Grid.of(outcomes, "question_id", questions["question_id"], chosen.ids, outcomes_file)
    if "extract" in outcomes.column_names:
        grid = grid.where(objects(grid.rows["extract"]) != _NO_RECORD)
    vectors = recorded_vectors(folder / TEXTS[text], kept)
    table = OutcomeTable(
        queries=_queries(questions.filter(kept)),
        expert_ids=chosen.ids,
        scores=grid.numbers("correct")[kept],
        answers=tuple(map(tuple, grid.texts("pred")[kept].tolist())),
        cost_usd=_costs_usd(grid, chosen)[kept],
        vectors=vectors,
        vectors_name=None if vectors is None else MINILM,
    )
    return RecordedBenchmark(table, chosen)


def _costs_usd(grid: Grid, pool: ExpertPool) -> FloatArray:
    prices = [expert.price.usd_per_mtok_out if expert.price else np.nan for expert in pool]
    costs: FloatArray = grid.numbers("output_tokens_est") * np.array(prices) / 1_000_000
    return costs


def _queries(questions: Any) -> tuple[Query, ...]:
    texts = questions["question"].to_pylist()
    if "options" in questions.column_names:
        options = questions["options"].to_pylist()
        texts = [
            f"{text} Options: {'; '.join(each)}" for text, each in zip(texts, options, strict=True)
        ]
    columns = (questions[name].to_pylist() for name in ("question_id", "category"))
    rows = zip(texts, *columns, strict=True)
    return tuple(Query(text, str(id_), category) for text, id_, category in rows)


def _experts(file: Path, outcomes_file: Path) -> dict[str, RecordedExpert]:
    rows = read_parquet(file, ("model", "complete", "small_pool"), MMLU_PRO_SOURCE).to_pylist()
    spec = ReplaySpec(path=str(outcomes_file))
    return {
        row["model"]: RecordedExpert(recorded_expert(row, spec), row["complete"], row["small_pool"])
        for row in rows
    }
