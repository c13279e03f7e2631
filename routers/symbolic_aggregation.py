"""Which expert reads the others' answers best: Symbolic-MoE's choice of one aggregator a task.

The recorded answers of the fitted queries make a synthetic task (arXiv 2503.05641, section 3.4,
and the authors' `bench_aggr.py`): one right and two wrong answers to a query, shuffled, from
which a candidate is to find the right one. Three defects of the released code are mended here:

1. queries that nobody solved stay in and cap every candidate's score: left out, unless
   `keep_unsolved` asks for the published figure;
2. the aggregate is judged by equality of strings, where equivalence is used elsewhere: the caller
   passes the grader used everywhere else (or an exact one for the published figure);
3. a letter in brackets is asked for even where the answer is a number: the caller says in
   `answer_format` how the task's answers are given.

Besides, the code asks in another prompt when it selects than when it serves, and removes
`<think>` text only when it serves: `synthesis_prompt` is for both, and always removes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.types import Query

LETTER_FORMAT = 'End with "The answer is (X)", X being the letter of the right option.'
NUMBER_FORMAT = r'End with "The answer is \boxed{X}", X being the final answer.'
_N_WRONG = 2
_THINKING = re.compile(r"^.*</think>\s*", re.DOTALL)

Transcripts = Sequence[Sequence[str | None]]
"""(n_queries, n_experts) whole completions; None where none was kept."""

Ask = Callable[[str, Sequence[str]], Sequence[str | None]]
"""Expert id and prompts → one completion each, in order; None where it failed to give one."""

Grade = Callable[[Query, str], float]
"""How right a completion is, 0 to 1."""


@dataclass(frozen=True, slots=True)
class SynthesisTask:
    """One query of the synthetic task."""

    query: Query
    responses: tuple[str, ...]
    """One right and two wrong, in random order; empty strings where there were none."""
    is_solved: bool
    """Whether a right response is among them."""


@dataclass(frozen=True, slots=True)
class AggregatorScore:
    """How one candidate did on the synthetic task."""

    expert_id: str
    accuracy: float
    """Mean grade of the tasks it answered; NaN if it answered none."""
    n_graded: int
    n_failed: int
    """Tasks it gave no completion for, left out of the mean."""


@dataclass(frozen=True, slots=True)
class AggregatorSelection:
    """The candidate that won, and all of them, best first."""

    expert_id: str
    scores: tuple[AggregatorScore, ...]


def synthesis_tasks(
    table: OutcomeTable, transcripts: Transcripts, keep_unsolved: bool = False, seed: int = 0
) -> tuple[SynthesisTask, ...]:
    """The synthetic task, in the table's order and the same for the same seed.

    Right means a score above one half. One wrong response is never used alone: a query with fewer
    than two has two empty ones, as published. Adding queries does not change the others' tasks.
    """
    if len(transcripts) != table.n_queries:
        raise DatasetError(f"{len(transcripts)} rows of transcripts for {table.n_queries} queries")
    tasks = []
    for query, scores, texts in zip(table.queries, table.scores, transcripts, strict=True):
        if len(texts) != len(scores):
            raise DatasetError(
                f"query {query.id!r} has {len(texts)} transcripts for {len(scores)} experts"
            )
        known = [
            (bool(s > 0.5), t)
            for s, t in zip(scores.tolist(), texts, strict=True)
            if t is not None and not isnan(s)
        ]
        right = [text for is_right, text in known if is_right]
        wrong = [text for is_right, text in known if not is_right]
        if known and (right or keep_unsolved):
            responses = _mixed(right, wrong, _rng(query, seed))
            tasks.append(SynthesisTask(query, responses, bool(right)))
    return tuple(tasks)


def synthesis_prompt(
    question: str, responses: Sequence[str], answer_format: str = LETTER_FORMAT
) -> str:
    """Asks one expert to answer from several responses, any of which may be wrong."""
    numbered = (
        f"### Response {i}\n{without_thinking(response)}"
        for i, response in enumerate(responses, start=1)
    )
    return "\n\n".join(
        (
            "Several models answered the question below. Judge their responses critically, for "
            "some or all of them may be wrong or biased, and reason step by step to one correct, "
            "complete and well-ordered answer of your own instead of repeating theirs.",
            *numbered,
            f"### Question\n{question}",
            answer_format,
        )
    )


def without_thinking(response: str) -> str:
    """The response after its last `</think>`; all of it where there is none."""
    return _THINKING.sub("", response).strip()


def select_aggregator(
    tasks: Sequence[SynthesisTask],
    candidates: Sequence[str],
    ask: Ask,
    grade: Grade,
    answer_format: str = LETTER_FORMAT,
) -> AggregatorSelection:
    """The candidate with the best mean grade, the earliest of equals.

    Candidates are asked one after the other, each everything at once, so that each is loaded
    once. Raises `DatasetError` if there is no task, no candidate, or nobody answered.
    """
    if not tasks or not candidates:
        raise DatasetError(
            "an aggregator is chosen among at least one candidate on at least one query that "
            "somebody solved; record more transcripts"
        )
    prompts = [synthesis_prompt(t.query.text, t.responses, answer_format) for t in tasks]
    scores = [_score(id_, tasks, ask(id_, prompts), grade) for id_ in candidates]
    best_first = tuple(sorted(scores, key=lambda s: (isnan(s.accuracy), -s.accuracy)))
    if isnan(best_first[0].accuracy):
        raise DatasetError(f"none of {', '.join(candidates)} gave any completion")
    return AggregatorSelection(best_first[0].expert_id, best_first)


def _rng(query: Query, seed: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}\x1f{query.id}\x1f{query.text}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:8], "big"))


def _mixed(right: Sequence[str], wrong: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    chosen = [right[int(rng.integers(len(right)))] if right else ""]
    if len(wrong) >= _N_WRONG:
        chosen += [wrong[i] for i in rng.choice(len(wrong), _N_WRONG, replace=False)]
    else:
        chosen += [""] * _N_WRONG
    return tuple(chosen[i] for i in rng.permutation(len(chosen)))


def _score(
    expert_id: str,
    tasks: Sequence[SynthesisTask],
    completions: Sequence[str | None],
    grade: Grade,
) -> AggregatorScore:
    if len(completions) != len(tasks):
        raise DatasetError(
            f"candidate {expert_id!r} was asked {len(tasks)} prompts and gave {len(completions)} "
            "completions; give one for each, None where it failed"
        )
    pairs: Mapping[int, str] = {i: text for i, text in enumerate(completions) if text is not None}
    grades = [grade(tasks[i].query, text) for i, text in pairs.items()]
    mean = float(np.mean(grades)) if grades else nan
    return AggregatorScore(expert_id, mean, len(grades), len(tasks) - len(grades))
