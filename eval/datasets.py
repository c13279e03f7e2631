"""Benchmarks as values: recorded answers of real models, and the zoo's questions.

Readers return complete frozen values or raise `DatasetError` naming the file and where such
data comes from; docs/data.md describes the files. Nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.errors import DatasetError, nearest
from coe.eval.files import objects, read_parquet
from coe.eval.tables import load_outcomes, save_outcomes
from coe.experts import Expert, ExpertPool, Price, ReplaySpec
from coe.outcomes import BoolArray, FloatArray, OutcomeTable
from coe.types import Query

__all__ = [
    "MMLU_PRO_SOURCE",
    "Grade",
    "QuestionSet",
    "RecordedBenchmark",
    "load_mmlu_pro",
    "load_outcomes",
    "load_zoo",
    "save_outcomes",
]

MMLU_PRO_SOURCE = (
    "the answers are published in the GitHub repository TIGER-AI-Lab/MMLU-Pro (eval_results/); "
    "docs/data.md says how they are laid out here"
)
_QUESTION_COLUMNS = ("question_id", "category", "question", "split")
_MINILM = "recorded/all-MiniLM-L6-v2"
_NO_RECORD = "no_response"


@dataclass(frozen=True, slots=True)
class RecordedBenchmark:
    """What a pool answered on a benchmark: the table and the experts of its columns."""

    table: OutcomeTable
    pool: ExpertPool

    def digest(self) -> str:
        """A short name for this exact data."""
        return self.table.digest()


@dataclass(frozen=True, slots=True)
class Grade:
    """How one completion was judged."""

    score: float
    """0 to 1."""
    answer: str | None
    """What was read as the answer, for votes; None if nothing could be."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Queries to be really asked, with the answer that counts for each query id."""

    queries: tuple[Query, ...]
    answers: Mapping[str, str]
    splits: tuple[str, ...]
    """The split of each query."""

    def grade(self, query: Query, completion: str) -> Grade:
        """Exact match, as the zoo grades."""
        from coe.zoo.grading import is_correct

        correct = is_correct(self.answers[query.id], completion)
        return Grade(float(correct), completion.strip() or None)


def load_zoo(split: str | None = None) -> QuestionSet:
    """The zoo's questions of one split ("train", "test") or of both, field by field."""
    from coe.zoo.questions import zoo_questions

    try:
        questions = zoo_questions(split)
    except ValueError as error:
        raise DatasetError(f"zoo: {error}") from None
    return QuestionSet(
        queries=tuple(Query(q.text, q.id, q.field) for q in questions),
        answers={q.id: q.answer for q in questions},
        splits=tuple(q.split for q in questions),
    )


def load_mmlu_pro(
    folder: Path, split: str | None = None, pool: Sequence[str] | str = "all"
) -> RecordedBenchmark:
    """Recorded answers to MMLU-Pro questions of one split, or of all.

    `pool` is "all" (every expert with complete records), "small" (open weights, at most 10 B
    parameters), or a list of ids. Where an expert has no record its score is NaN; an answer
    that could not be read is None and scored 0. `cost_usd` is the price of the answer's tokens
    alone, since the prompts' were not recorded.
    """
    outcomes_file = folder / "outcomes.parquet"
    experts = _experts(folder / "models.parquet", outcomes_file)
    chosen = _chosen(experts, pool, folder)
    questions = read_parquet(folder / "questions.parquet", _QUESTION_COLUMNS, MMLU_PRO_SOURCE, ())
    kept = _split_rows(questions["split"], split, folder)
    outcomes = read_parquet(
        outcomes_file,
        ("question_id", "model", "pred", "correct"),
        MMLU_PRO_SOURCE,
        optional=("extract", "output_tokens_est"),
    )
    cells = _Cells.of(outcomes, questions["question_id"], chosen.ids, outcomes_file)
    vectors = _vectors(folder / "embeddings_minilm_question.npy", kept)
    table = OutcomeTable(
        queries=_queries(questions.filter(kept)),
        expert_ids=chosen.ids,
        scores=cells.scores[kept],
        answers=tuple(map(tuple, cells.answers[kept].tolist())),
        cost_usd=cells.costs_usd(chosen)[kept],
        vectors=vectors,
        vectors_name=None if vectors is None else _MINILM,
    )
    return RecordedBenchmark(table, chosen)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The long outcomes as arrays of (n_questions, n_experts)."""

    scores: FloatArray
    answers: Any
    tokens: FloatArray

    @classmethod
    def of(cls, outcomes: Any, question_ids: Any, expert_ids: Sequence[str], file: Path) -> _Cells:
        import pyarrow as pa
        import pyarrow.compute as pc

        names = pa.array(expert_ids, pa.string())
        models = outcomes["model"].cast(pa.string())
        outcomes = outcomes.filter(pc.is_in(models, value_set=names))
        rows = pc.index_in(
            outcomes["question_id"], value_set=question_ids.cast(outcomes["question_id"].type)
        )
        if rows.null_count:
            raise DatasetError(
                f"{file}: {rows.null_count} answers to questions that questions.parquet lacks; "
                f"both must be of one making: {MMLU_PRO_SOURCE}"
            )
        columns = pc.index_in(outcomes["model"].cast(pa.string()), value_set=names)
        at = rows.to_numpy().astype(int) * len(expert_ids) + columns.to_numpy()
        if (np.bincount(at) > 1).any():
            raise DatasetError(f"{file}: an expert answers a question twice; keep one answer")
        shape = (len(question_ids), len(expert_ids))
        recorded = np.ones(len(at), bool)
        if "extract" in outcomes.column_names:
            recorded = pc.not_equal(outcomes["extract"].cast(pa.string()), _NO_RECORD).to_numpy()
        at, outcomes = at[recorded], outcomes.filter(recorded)
        answers = np.full(shape[0] * shape[1], None, dtype=object)
        answers[at] = objects(outcomes["pred"])
        return cls(
            scores=_placed(outcomes["correct"], at, shape),
            answers=answers.reshape(shape),
            tokens=_placed(outcomes["output_tokens_est"], at, shape)
            if "output_tokens_est" in outcomes.column_names
            else np.full(shape, np.nan),
        )

    def costs_usd(self, pool: ExpertPool) -> FloatArray:
        prices = [expert.price.usd_per_mtok_out if expert.price else np.nan for expert in pool]
        costs: FloatArray = self.tokens * np.array(prices) / 1_000_000
        return costs


def _placed(column: Any, at: Any, shape: tuple[int, int]) -> FloatArray:
    placed = np.full(shape[0] * shape[1], np.nan)
    placed[at] = column.to_numpy()
    return placed.reshape(shape)


def _queries(questions: Any) -> tuple[Query, ...]:
    columns = (questions[name].to_pylist() for name in ("question", "question_id", "category"))
    return tuple(Query(text, str(id_), about) for text, id_, about in zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class _Recorded:
    expert: Expert
    is_complete: bool
    is_small: bool


def _experts(file: Path, outcomes_file: Path) -> dict[str, _Recorded]:
    rows = read_parquet(file, ("model", "complete", "small_pool"), MMLU_PRO_SOURCE).to_pylist()
    spec = ReplaySpec(path=str(outcomes_file))
    return {
        row["model"]: _Recorded(_expert(row, spec), row["complete"], row["small_pool"])
        for row in rows
    }


def _expert(row: Mapping[str, Any], spec: ReplaySpec) -> Expert:
    return Expert(
        id=row["model"],
        engine=spec,
        description=row.get("hub_id") or "",
        context_tokens=row.get("context_tokens") or 4096,
        params_active_b=row.get("params_active_b"),
        price=_price(row.get("usd_per_mtok_in"), row.get("usd_per_mtok_out")),
    )


def _price(usd_per_mtok_in: float | None, usd_per_mtok_out: float | None) -> Price | None:
    if usd_per_mtok_in is None or usd_per_mtok_out is None:
        return None
    return Price(usd_per_mtok_in, usd_per_mtok_out)


def _chosen(
    experts: Mapping[str, _Recorded], pool: Sequence[str] | str, folder: Path
) -> ExpertPool:
    if isinstance(pool, str):
        if pool not in ("all", "small"):
            raise DatasetError(f"pool {pool!r} is neither 'all', 'small' nor a list of experts")
        ids = [id_ for id_, e in experts.items() if e.is_complete and (pool == "all" or e.is_small)]
        if not ids:
            raise DatasetError(f"{folder / 'models.parquet'}: the pool {pool!r} has no expert")
    else:
        ids = list(pool)
    for id_ in ids:
        if id_ not in experts:
            guess = nearest(id_, experts)
            hint = f"; did you mean {guess!r}?" if guess else f" (it has {', '.join(experts)})"
            raise DatasetError(f"{folder / 'models.parquet'}: no expert {id_!r}{hint}")
    return ExpertPool(tuple(experts[id_].expert for id_ in ids))


def _split_rows(splits: Any, split: str | None, folder: Path) -> BoolArray:
    """Mask of the wanted questions."""
    names = objects(splits)
    if split is None:
        return np.ones(len(names), bool)
    kept: BoolArray = names == split
    if not kept.any():
        known = ", ".join(sorted({str(name) for name in names}))
        raise DatasetError(f"{folder / 'questions.parquet'}: no split {split!r} (it has {known})")
    return kept


def _vectors(file: Path, kept: BoolArray) -> FloatArray | None:
    if not file.is_file():
        return None
    stored = np.load(file, mmap_mode="r")
    if len(stored) != len(kept):
        raise DatasetError(
            f"{file}: {len(stored)} vectors for {len(kept)} questions; make it again from "
            "questions.parquet, one row each, or remove it"
        )
    vectors: FloatArray = stored[kept].astype(np.float32)
    return vectors
