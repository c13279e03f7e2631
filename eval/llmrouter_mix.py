"""Recorded scores of nine models on fourteen tasks; docs/data.md describes the files.

Only scores were published, so no two experts can answer a query of it together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coe.errors import DatasetError
from coe.eval.files import read_parquet
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
from coe.experts import ReplaySpec
from coe.outcomes import OutcomeTable
from coe.types import Query

LLMROUTER_MIX_SOURCE = (
    "the scores are published in the GitHub repository ulab-uiuc/LLMRouter (data/); "
    "docs/data.md says how they are laid out here"
)
_SMALL_B = 10.0


def load_llmrouter_mix(
    folder: Path, split: str | None = None, pool: Sequence[str] | str = "all"
) -> RecordedBenchmark:
    """Recorded scores, 0 to 1, of one split or of all; the task is the query's category.

    `pool` as for `load_mmlu_pro`. The table has no answers and no costs: neither was recorded.
    """
    outcomes_file = folder / "outcomes.parquet"
    models_file, questions_file = folder / "models.parquet", folder / "questions.parquet"
    chosen = chosen_pool(_experts(models_file, outcomes_file), pool, models_file)
    columns = ("query_id", "task", "query", "split")
    questions = read_parquet(questions_file, columns, LLMROUTER_MIX_SOURCE, ())
    kept = split_rows(questions["split"], split, questions_file)
    outcomes = read_parquet(
        outcomes_file, ("query_id", "model", "score"), LLMROUTER_MIX_SOURCE, optional=()
    )
    grid = Grid.of(outcomes, "query_id", questions["query_id"], chosen.ids, outcomes_file)
    scores = grid.numbers("score")[kept]
    if ((scores < 0) | (scores > 1)).any():
        raise DatasetError(f"{outcomes_file}: a score is not between 0 and 1")
    vectors = recorded_vectors(folder / "embeddings_minilm_query.npy", kept)
    asked = questions.filter(kept)
    rows = zip(*(asked[name].to_pylist() for name in ("query", "query_id", "task")), strict=True)
    table = OutcomeTable(
        queries=tuple(Query(text, str(id_), task) for text, id_, task in rows),
        expert_ids=chosen.ids,
        scores=scores,
        vectors=vectors,
        vectors_name=None if vectors is None else MINILM,
    )
    return RecordedBenchmark(table, chosen)


def _experts(file: Path, outcomes_file: Path) -> dict[str, RecordedExpert]:
    rows = read_parquet(file, ("model",), LLMROUTER_MIX_SOURCE).to_pylist()
    spec = ReplaySpec(path=str(outcomes_file))
    return {
        row["model"]: RecordedExpert(
            recorded_expert(row, spec), is_complete=True, is_small=_is_small(row)
        )
        for row in rows
    }


def _is_small(row: Mapping[str, Any]) -> bool:
    total_b = row.get("params_total_b")
    return bool(row.get("open_weights")) and total_b is not None and total_b <= _SMALL_B
