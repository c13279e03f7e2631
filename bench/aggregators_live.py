"""The part of `bench.aggregators` that asks: an expert behind an endpoint reads the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bench.transcripts import Texts
from coe.aggregation import Chain, LLMAggregator
from coe.engines.base import collect
from coe.engines.openai import OpenAIEngine
from coe.errors import CoeError
from coe.experts import Expert, OpenAISpec
from coe.outcomes import FloatArray
from coe.routers.symbolic_aggregation import select_aggregator, synthesis_tasks
from coe.types import Completion, GenerationRequest, Message, Query, SamplingParams

_AT_ONCE = 16
_MAX_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Reader:
    """An expert behind an OpenAI-compatible endpoint that reads the others' answers."""

    base_url: str
    model: str
    api_key_env: str | None = None

    def engine(self) -> OpenAIEngine:
        spec = OpenAISpec(self.base_url, self.model, self.api_key_env)
        return OpenAIEngine(Expert(self.model, spec, max_tokens=_MAX_TOKENS))

    async def ask(self, requests: Sequence[GenerationRequest]) -> list[Completion | None]:
        """One completion each, in order; None where it failed to give one."""
        engine, free = self.engine(), asyncio.Semaphore(_AT_ONCE)

        async def one(request: GenerationRequest) -> Completion | None:
            async with free:
                try:
                    return await collect(self.model, engine.stream(request))
                except CoeError:
                    return None

        try:
            return list(await asyncio.gather(*map(one, requests)))
        finally:
            await engine.stop(5.0)


@dataclass(slots=True)
class AskedAggregators:
    """Grades by aggregator, and what it cost in failures."""

    grades: dict[str, FloatArray] = field(default_factory=dict)
    n_failed: int = 0
    """Calls that gave nothing: graded as wrong, not replaced by another expert's answer."""


def asked_aggregators(
    reader: Reader, texts: Texts, expert_ids: Sequence[str], limit: int
) -> AskedAggregators:
    """The reader as LLM aggregator, and as the second link of a chain after the best expert."""
    some = texts.first(limit)
    llm, chain = LLMAggregator(reader.engine()), Chain()
    requests: dict[str, list[GenerationRequest]] = {"llm": [], "chain": []}
    for row in range(len(some.queries)):
        request, completions = some.request(row), some.completions(row, expert_ids)
        requests["llm"].append(llm.request(request, completions))
        requests["chain"].append(chain.next_request(request, completions[:1]))
    found = AskedAggregators()
    for name, asked in requests.items():
        written = asyncio.run(reader.ask(asked))
        found.n_failed += sum(completion is None for completion in written)
        found.grades[name] = np.array(
            [0.0 if c is None else some.grade(row, c.text) for row, c in enumerate(written)]
        )
    return found


def selected_aggregator(readers: Sequence[Reader], texts: Texts) -> dict[str, Any]:
    """Symbolic-MoE's choice among the readers, on the synthetic task of these texts."""
    by_model = {reader.model: reader for reader in readers}
    transcripts = [[written.get(id_) for id_ in texts.expert_ids] for written in texts.written]
    tasks = synthesis_tasks(texts.table(), transcripts)

    def ask(expert_id: str, prompts: Sequence[str]) -> list[str | None]:
        params = SamplingParams(max_tokens=_MAX_TOKENS)
        requests = [GenerationRequest((Message("user", prompt),), params) for prompt in prompts]
        written = asyncio.run(by_model[expert_id].ask(requests))
        return [None if completion is None else completion.text for completion in written]

    def grade(query: Query, text: str) -> float:
        return texts.questions.grade(query, text).score

    selection = select_aggregator(tasks, list(by_model), ask, grade)
    return {**asdict(selection), "n_tasks": len(tasks)}
