"""One answer as it begins, and several answers as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from coe.aggregation import Aggregator, Writes
from coe.errors import UpstreamError
from coe.telemetry import aggregation
from coe.types import Completion, Delta, FinishReason, GenerationRequest, Usage


async def head(expert_id: str, deltas: AsyncIterator[Delta]) -> list[Delta]:
    """The deltas up to the first word, or up to the end of an answer without words."""
    head: list[Delta] = []
    async for delta in deltas:
        head.append(delta)
        if delta.says_something or delta.finish_reason is not None:
            return head
    raise UpstreamError(expert_id, "the answer broke off before its first word")


async def joined(head: Sequence[Delta], rest: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    for delta in head:
        yield delta
    async for delta in rest:
        yield delta


async def aggregated(
    aggregator: Aggregator,
    request: GenerationRequest,
    completions: Sequence[tuple[str, Completion]],
) -> Completion:
    """One answer, with the usage of all that it took."""
    asked = [completion.usage for _, completion in completions]
    with aggregation([expert_id for expert_id, _ in completions]):
        if isinstance(aggregator, Writes):
            written = await aggregator.write(request, completions)
            return replace(written, usage=_total([*asked, written.usage]))
        text = await aggregator.aggregate(request, completions)
    return Completion(text, _reason(text, completions), _total(asked))


async def at_once(answer: Completion) -> AsyncIterator[Delta]:
    yield Delta(text=answer.text)
    yield Delta(finish_reason=answer.finish_reason, usage=answer.usage)


def _reason(text: str, completions: Sequence[tuple[str, Completion]]) -> FinishReason:
    """Why the completion that became the answer ended; "stop" for an answer nobody gave."""
    reasons = (c.finish_reason for _, c in completions if c.text == text)
    return next(reasons, "stop")


def _total(usages: Sequence[Usage | None]) -> Usage | None:
    """The sum; None if one was not counted."""
    total = Usage()
    for usage in usages:
        if usage is None:
            return None
        total += usage
    return total
