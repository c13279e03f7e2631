"""An expert that does not answer twice what several were asked before a batch was cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, cast

from coe.engines.base import Engine, closing_stream
from coe.engines.wrapping import WrappingEngine
from coe.service.batches.journal import Journal
from coe.types import Delta, FinishReason, GenerationRequest, Usage


class RememberingEngine(WrappingEngine):
    """Answers from the journal's parts what is there, and adds what is not.

    It is the request's id that counts: each expert is asked once for it.
    """

    def __init__(self, inner: Engine, journal: Journal, request_ids: Collection[str]) -> None:
        """`request_ids`: those that several experts answer; looked at with each request."""
        super().__init__(inner)
        self._journal = journal
        self._request_ids = request_ids

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        is_part = request.id in self._request_ids
        known = self._journal.part(request.id, self.expert_id) if is_part else None
        if known is not None:
            for delta in _played(known):
                yield delta
            return
        texts: list[str] = []
        async with closing_stream(self.inner.stream(request)) as deltas:
            async for delta in deltas:
                if is_part:
                    texts.append(delta.text)
                    if delta.finish_reason is not None:
                        part = _part("".join(texts), delta.finish_reason, delta.usage)
                        self._journal.add_part(request.id, self.expert_id, part)
                yield delta


def _part(text: str, reason: FinishReason, usage: Usage | None) -> Mapping[str, object]:
    tokens = None if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return {"text": text, "finish_reason": reason, "tokens": tokens}


def _played(part: Mapping[str, Any]) -> list[Delta]:
    usage = None if part["tokens"] is None else Usage(*part["tokens"])
    reason = cast(FinishReason, part["finish_reason"])
    return [Delta(text=part["text"]), Delta(finish_reason=reason, usage=usage)]
