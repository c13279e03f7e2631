"""A judge asked of all answers of a run, once each; what it says is kept with them.

A judge that is hosted here is loaded once for all of it. Where a baseline is given each answer
plays two games against it, standing first in the one and second in the other, because judges favour
a place; else each turn is graded from 1 to 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from coe.engines.base import Engine, collect
from coe.eval.asking import Progress, bounded
from coe.eval.benchmarks.question import Benchmark, Question
from coe.eval.datasets import Grade
from coe.eval.judges.opinions import Game, game_of, read_rating, read_verdict
from coe.eval.judges.prompts import comparing, grading
from coe.eval.judges.winrates import Compared, Style
from coe.eval.runs.hearing import Tape
from coe.eval.runs.journal import Journal, Spot
from coe.eval.runs.running import Subject, turn_id
from coe.scheduling.planned_pool import PlannedPool
from coe.types import Completion, GenerationRequest, Message, SamplingParams

_PLACES = ("first", "second")
_BEST = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """One question to the judge."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """What a judge needs to know of a run."""

    judge: str
    """The judge's id."""
    benchmark: Benchmark
    journal: Journal
    subjects: Sequence[Subject]
    baseline: Mapping[str, str] | None = None
    """Query id → the answer that others play against; None: answers are graded alone."""
    max_chars: int = 20_000
    """Of each answer that the judge reads; of a longer one the middle is left out."""

    def cases(self) -> list[Case]:
        """All that there is to ask, also what was asked already."""
        return [
            case
            for question in self.benchmark.questions
            for subject in self.subjects
            for case in self._cases(question, subject)
        ]

    def grade(self, question: Question, subject: Subject) -> Grade:
        """What the judge made of an answer; no answer and no score where it cannot be read."""
        if self.baseline is not None:
            score = self.compared(question, subject).score
            return Grade(score, None if np.isnan(score) else f"{score:.3g}", "games")
        ratings = [
            read_rating(said)
            for turn in range(len(question.turns) + 1)
            if (said := self._said(_case_id(question, subject, f"turn {turn + 1}"))) is not None
        ]
        known = [rating for rating in ratings if rating is not None]
        if not known or len(known) < len(question.turns) + 1:
            return Grade(np.nan, None, "none")
        mean = sum(known) / len(known)
        return Grade(mean / _BEST, f"{mean:.3g}", "rating")

    def compared(self, question: Question, subject: Subject) -> Compared:
        """Both games of one question; those that cannot be read are left out."""
        assert self.baseline is not None, "games are against a baseline"
        games: list[Game] = []
        for place in _PLACES:
            verdict = read_verdict(self._said(_case_id(question, subject, place)) or "")
            if verdict is not None:
                games.append(game_of(verdict, is_swapped=place == "second"))
        own = self._answers(question, subject)
        other = self.baseline.get(question.query.id, "")
        return Compared(
            subject.expert, tuple(games), Style.of(own[0] if own else ""), Style.of(other)
        )

    def _cases(self, question: Question, subject: Subject) -> Iterator[Case]:
        answers = self._answers(question, subject)
        if self.baseline is not None:
            other = self.baseline.get(question.query.id)
            if other is None or not answers:
                return
            text, most = question.query.text, self.max_chars
            for place, pair in zip(
                _PLACES, ((answers[0], other), (other, answers[0])), strict=True
            ):
                yield Case(_case_id(question, subject, place), comparing(text, *pair, most))
            return
        asked = (question.query.text, *question.turns)
        for turn in range(len(answers)):
            turns = list(zip(asked, answers, strict=False))[: turn + 1]
            reference = question.reference if turn == len(question.turns) else None
            messages = grading(turns, reference, self.max_chars)
            yield Case(_case_id(question, subject, f"turn {turn + 1}"), messages)

    def _answers(self, question: Question, subject: Subject) -> list[str]:
        """Of all turns, up to the first that there is no answer to."""
        answers: list[str] = []
        for turn in range(len(question.turns) + 1):
            id_ = turn_id(question.query.id, turn, is_routed=not subject.expert)
            record = self.journal.get(subject.spot(id_))
            if record is None or record.text is None:
                break
            answers.append(record.text)
        return answers

    def _said(self, case_id: str) -> str | None:
        record = self.journal.get(Spot("judge", case_id, self.judge))
        return record.text if record is not None else None


async def hear_judge(
    panel: Panel,
    engine: Engine,
    concurrency: int,
    planned: PlannedPool | None,
    progress: Progress,
    params: SamplingParams | None = None,
) -> None:
    """Asks what was not asked yet. A failure is kept, as an answer without a grade."""
    heard = panel.journal.spots
    left = [case for case in panel.cases() if Spot("judge", case.id, panel.judge) not in heard]
    tape = Tape(panel.journal, "judge", panel.judge)
    is_hosted = planned is not None and planned.hosts([panel.judge])
    if planned is not None and is_hosted:
        planned.expect([{panel.judge: len(left)}])

    async def ask(case: Case) -> Completion:
        request = GenerationRequest(case.messages, params or SamplingParams(), case.id)
        return await collect(panel.judge, tape.stream(request, engine.stream))

    at_once = max(1, len(left)) if is_hosted else concurrency
    await bounded([partial(ask, case) for case in left], at_once, progress)
    if planned is not None and is_hosted:
        planned.forget()


def _case_id(question: Question, subject: Subject, what: str) -> str:
    return f"{question.query.id}/{subject.expert or 'routed'}/{what}"
