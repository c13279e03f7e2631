"""Whole completions of real experts, and how the benchmark judges them: shared by the benches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from coe.aggregation import stated_answer
from coe.eval.choices import ChoiceQuestions, load_mmlu_pro_questions
from coe.outcomes import OutcomeTable
from coe.types import Completion, GenerationRequest, Message, Query


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """What every expert wrote on the questions of one split."""

    questions: ChoiceQuestions
    queries: tuple[Query, ...]
    expert_ids: tuple[str, ...]
    written: tuple[Mapping[str, str], ...]
    """Of each query: expert → text; an expert without a record is missing."""
    recorded: tuple[Mapping[str, str | None], ...]
    """The letter that the benchmark's own reader took from each."""

    @classmethod
    def load(cls, folder: Path, split: str) -> Texts:
        questions = load_mmlu_pro_questions(folder, split)
        rows = pq.read_table(folder / "transcripts.parquet").to_pylist()
        texts: dict[str, dict[str, str]] = {}
        letters: dict[str, dict[str, str | None]] = {}
        for row in rows:
            if row["split"] == split:
                texts.setdefault(str(row["question_id"]), {})[row["model"]] = row["output"]
                letters.setdefault(str(row["question_id"]), {})[row["model"]] = row["pred"]
        queries = tuple(query for query in questions.queries if query.id in texts)
        return cls(
            questions,
            queries,
            tuple(sorted({row["model"] for row in rows})),
            tuple(texts[query.id] for query in queries),
            tuple(letters[query.id] for query in queries),
        )

    def table(self) -> OutcomeTable:
        """Answers as the votes will read them, right or wrong by the letter."""
        answers = tuple(
            tuple(stated_answer(texts[id_]) if id_ in texts else None for id_ in self.expert_ids)
            for texts in self.written
        )
        gold = [self.questions.answers[query.id].casefold() for query in self.queries]
        scores = np.array(
            [
                [
                    float(answer == right) if id_ in texts else np.nan
                    for id_, answer in zip(self.expert_ids, row, strict=True)
                ]
                for row, right, texts in zip(answers, gold, self.written, strict=True)
            ]
        )
        return OutcomeTable(self.queries, self.expert_ids, scores, answers)

    def completions(self, row: int, expert_ids: Sequence[str]) -> list[tuple[str, Completion]]:
        texts = self.written[row]
        return [(id_, Completion(texts[id_], "stop", None)) for id_ in expert_ids if id_ in texts]

    def request(self, row: int) -> GenerationRequest:
        query = self.queries[row]
        return GenerationRequest((Message("user", query.text),), id=query.id)

    def grade(self, row: int, text: str) -> float:
        """By the benchmark's own reader."""
        return self.questions.grade(self.queries[row], text).score

    def first(self, n_queries: int) -> Texts:
        """The same of the first questions alone."""
        kept = slice(0, n_queries)
        return replace(
            self,
            queries=self.queries[kept],
            written=self.written[kept],
            recorded=self.recorded[kept],
        )
