"""Recorded answers given to the same aggregators that live completions go through."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

from coe.aggregation import Aggregator
from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.types import Completion, GenerationRequest, Message, Query, Usage


async def recruited_scores(
    table: OutcomeTable, chosen: Sequence[Sequence[str]], aggregator: Aggregator
) -> list[float]:
    """The score of the answer the chosen experts give together, one number per query.

    One expert's score is its own. Of several, those that were not measured are left out as a
    failed expert is, and those whose answer could not be read have nothing to vote with; NaN if
    none was measured, the best measured expert's score if none could be read.
    """
    column = {expert_id: i for i, expert_id in enumerate(table.expert_ids)}
    return [
        await _score(table, row, [column[expert_id] for expert_id in experts], aggregator)
        for row, experts in enumerate(chosen)
    ]


async def _score(
    table: OutcomeTable, row: int, columns: Sequence[int], aggregator: Aggregator
) -> float:
    scores = table.scores[row]
    measured = [c for c in columns if not isnan(scores[c])]
    if not measured:
        return nan
    if len(columns) == 1:
        return float(scores[columns[0]])
    if table.answers is None:
        raise DatasetError(
            "only scores were recorded, so several experts cannot answer together; "
            "use a policy that chooses one, such as top-1"
        )
    answers = table.answers[row]
    completions = [
        (table.expert_ids[c], _completion(answer))
        for c in measured
        if (answer := answers[c]) is not None
    ]
    if not completions:
        return float(scores[measured[0]])
    answer = await aggregator.aggregate(_request(table.queries[row]), completions)
    everyone = [c for c in range(len(answers)) if c not in measured and not isnan(scores[c])]
    return float(scores[_author(answer, answers, [*measured, *everyone], aggregator)])


def _author(
    answer: str, answers: Sequence[str | None], columns: Sequence[int], aggregator: Aggregator
) -> int:
    """Whose recorded answer this is, so that it need not be judged again."""
    for same in (str.strip, _folded):
        for column in columns:
            recorded = answers[column]
            if recorded is not None and same(recorded) == same(answer):
                return column
    raise DatasetError(
        f"aggregator {aggregator.name!r} gave an answer that no expert gave, and recorded "
        "answers cannot judge it; run it live"
    )


def _folded(text: str) -> str:
    return text.strip().casefold()


def _completion(answer: str) -> Completion:
    return Completion(answer, "stop", Usage())


def _request(query: Query) -> GenerationRequest:
    return GenerationRequest((Message("user", query.text),), id=query.id)
