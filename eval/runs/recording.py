"""What a finished run came to: one line for each answer, a table to fit on, and a summary.

`results.jsonl` holds only what is the same whenever the run is made again, so that two runs can be
compared byte by byte; times and energy are in the table and in the summary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from coe.eval.benchmarks.question import Benchmark, Question
from coe.eval.datasets import Grade, save_outcomes
from coe.eval.intervals import Interval, bootstrap_mean
from coe.eval.live import Failure
from coe.eval.live_cells import FURTHER, Cell
from coe.eval.runs.folder import RunFolder
from coe.eval.runs.journal import Journal, Record, Spot
from coe.eval.runs.running import Subject, turn_id
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routing import RoutingDecision

GradeOf = Callable[[Question, Subject, Record], Grade | None]
"""What a record of a question is worth, which a judge may have said; None: nobody was to say."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of a summary: an expert's own answers, or what came out of routing."""

    name: str
    n: int
    """Questions with an answer."""
    accuracy: float
    """Mean score of those; NaN without any."""
    low: float
    high: float
    by_rule: float | None
    """The same under the reader of the benchmark's authors; None where they have none."""
    n_unreadable: int
    """Answers that nothing could be read from, which count as wrong."""
    n_failed: int
    """Questions without an answer, which do not count."""
    prompt_tokens: int
    completion_tokens: int
    e2el_s: float
    """Mean seconds of an answer, with its wait for the expert; NaN where not known."""
    energy_j: float
    """Of all answers; NaN where the draw of the expert is not known."""
    cost_usd: float
    """Of all answers; NaN where a price is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A benchmark that was asked to its end."""

    benchmark: Benchmark
    pool: ExpertPool
    journal: Journal
    decisions: Sequence[RoutingDecision]
    """Empty where nothing was routed."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finished run."""

    table: OutcomeTable
    routed: tuple[float, ...]
    """Score of what came out of routing each question, NaN where nothing did; empty where none was
    routed."""
    failures: tuple[Failure, ...]
    standings: tuple[Standing, ...]
    """What came out of routing first, then the experts that answered, in the pool's order."""


def record_run(folder: RunFolder, run: Answered, grade: GradeOf, seed: int = 0) -> Recorded:
    """Writes results and table, each whole or not at all."""
    benchmark, pool, journal, decisions = run.benchmark, run.pool, run.journal, run.decisions
    asked = [(q, subject) for q in benchmark.questions for subject in _subjects(pool)]
    # A program that checks an answer is a process of its own, so several may run at a time.
    with ThreadPoolExecutor(os.cpu_count() if benchmark.scorer == "python" else 1) as threads:
        made = threads.map(lambda each: _graded(each[0], each[1], journal, grade), asked)
        graded = {(q.query.id, s): each for (q, s), each in zip(asked, made, strict=True)}
    by_id = {decision.query_id: decision.experts for decision in decisions}
    rows = (row for q in benchmark.questions for row in _rows(q, pool, graded, journal, by_id))
    folder.write_lines(folder.results, chain(rows, _opinions(journal)))
    cells = [
        [_cell(pool, graded[question.query.id, Subject(id_)], id_) for id_ in pool.ids]
        for question in benchmark.questions
    ]
    shape = (len(cells), len(pool))
    table = OutcomeTable(
        queries=benchmark.queries,
        expert_ids=pool.ids,
        scores=np.array([[c.score for c in row] for row in cells], float).reshape(shape),
        answers=tuple(tuple(c.answer for c in row) for row in cells),
        cost_usd=np.array([[c.cost_usd for c in row] for row in cells], float).reshape(shape),
    )
    further = {name: [[getattr(c, name) for c in row] for row in cells] for name in FURTHER}
    save_outcomes(table, folder.outcomes, benchmark.splits, further)
    standings = (
        _standing(subject, benchmark, graded, pool, np.random.default_rng(seed))
        for subject in _subjects(pool)
    )
    finals = [graded[id_, Subject()] for id_ in benchmark.by_id]
    return Recorded(
        table,
        tuple(np.nan if judged is None else judged.score for _, judged in finals)
        if decisions
        else (),
        tuple(
            Failure(id_, (subject.expert,) if subject.expert else tuple(by_id[id_]), record.error)
            for (id_, subject), (record, _) in graded.items()
            if record is not None and record.error is not None
        ),
        tuple(each for each in standings if each.n + each.n_failed),
    )


def _subjects(pool: ExpertPool) -> tuple[Subject, ...]:
    return (Subject(), *map(Subject, pool.ids))


Graded = tuple[Record | None, Grade | None]
"""Of the last turn; the grade is of all turns. None: not asked, or no answer."""


def _graded(question: Question, subject: Subject, journal: Journal, grade: GradeOf) -> Graded:
    is_routed = not subject.expert
    last = turn_id(question.query.id, len(question.turns), is_routed)
    record = journal.get(subject.spot(last))
    if record is None or record.text is None:
        return record, None
    return record, grade(question, subject, record)


def _rows(
    question: Question,
    pool: ExpertPool,
    graded: Mapping[tuple[str, Subject], Graded],
    journal: Journal,
    chosen: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, Any]]:
    """Experts in the pool's order, who wrote, what came out."""
    id_ = question.query.id
    for expert_id in pool.ids:
        record, judged = graded[id_, Subject(expert_id)]
        if record is not None:
            yield _row(question, "answer", expert_id, (record, judged))
    for turn in range(len(question.turns) + 1):
        for expert_id in pool.ids:
            written = journal.get(Spot("write", turn_id(id_, turn), expert_id))
            if written is not None:
                yield _row(question, "write", expert_id, (written, None))
    record, judged = graded[id_, Subject()]
    if record is not None:
        row = _row(question, "final", None, (record, judged))
        yield {**row, "experts": list(chosen[id_])}


def _opinions(journal: Journal) -> Iterator[dict[str, Any]]:
    """What a judge said, by what it was asked of."""
    spots = sorted((s.query_id, s) for s in journal.spots if s.stage == "judge")
    for case_id, spot in spots:
        record = journal.get(spot)
        assert record is not None, "there is a record of every spot"
        yield {
            "case": case_id,
            "stage": "judge",
            "expert": spot.expert,
            "opinion": record.text,
            "error": record.error,
        }


def _row(question: Question, stage: str, expert_id: str | None, graded: Graded) -> dict[str, Any]:
    record, judged = graded
    assert record is not None, "there is a row only of what was asked"
    return {
        "query_id": question.query.id,
        "split": question.split,
        "category": question.query.category,
        "stage": stage,
        "expert": expert_id,
        "answer": judged.answer if judged else None,
        "level": judged.level if judged else None,
        "score": judged.score if judged else None,
        "by_rule": judged.by_rule if judged else None,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "finish_reason": record.finish_reason,
        "error": record.error,
    }


def _cell(pool: ExpertPool, graded: Graded, expert_id: str) -> Cell:
    record, judged = graded
    completion = record.completion if record is not None else None
    if record is None or completion is None or judged is None:
        return Cell(error=record.error if record is not None else None)
    return Cell.of_graded(pool.expert(expert_id), completion, judged, record.energy_j)


def _standing(
    subject: Subject,
    benchmark: Benchmark,
    graded: Mapping[tuple[str, Subject], Graded],
    pool: ExpertPool,
    rng: np.random.Generator,
) -> Standing:
    asked = [graded[question.query.id, subject] for question in benchmark.questions]
    heard = [(r, g) for r, g in asked if r is not None and g is not None]
    scores = np.array([g.score for _, g in heard], float)
    interval = bootstrap_mean(scores, rng) if heard else Interval(np.nan, np.nan, np.nan, 0, 0)
    by_rule = [g.by_rule for _, g in heard if g.by_rule is not None]
    times = [r.e2el_s for r, _ in heard if r.e2el_s is not None]
    joules = [r.energy_j for r, _ in heard]
    return Standing(
        name=subject.expert,
        n=len(heard),
        accuracy=interval.mean,
        low=interval.low,
        high=interval.high,
        by_rule=float(np.mean(by_rule)) if by_rule else None,
        n_unreadable=sum(g.answer is None for _, g in heard),
        n_failed=sum(r is not None and r.error is not None for r, _ in asked),
        prompt_tokens=sum(r.prompt_tokens or 0 for r, _ in heard),
        completion_tokens=sum(r.completion_tokens or 0 for r, _ in heard),
        e2el_s=float(np.mean(times)) if times else np.nan,
        energy_j=_sum(joules),
        cost_usd=_spent(subject, heard, pool),
    )


def _sum(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else np.nan


def _spent(subject: Subject, heard: Sequence[tuple[Record, Grade]], pool: ExpertPool) -> float:
    price = pool.expert(subject.expert).price if subject.expert else None
    if price is None:
        return np.nan
    return _sum(
        [
            None
            if r.prompt_tokens is None or r.completion_tokens is None
            else price.cost_usd(r.prompt_tokens, r.completion_tokens)
            for r, _ in heard
        ]
    )
