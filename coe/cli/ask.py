"""`coe ask`: one routed answer, streamed to the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.composition import Answering
    from coe.config import Config
    from coe.types import GenerationRequest, SamplingParams, Usage

_STOP_S = 10.0


def ask(
    query: Annotated[str, typer.Argument(help="The question.")],
    config: ConfigOption = DEFAULT_CONFIG,
    expert: Annotated[
        str | None, typer.Option(help="Ask this expert; no router is needed then.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
) -> None:
    """Route a question, stream the answer, say who answered."""
    from coe.types import SamplingParams

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    asyncio.run(_ask(query, config, expert, params))


async def _ask(query: str, file: Path, expert: str | None, params: SamplingParams) -> None:
    from coe.config import load_config
    from coe.types import GenerationRequest, Message

    config = load_config(file)
    request = GenerationRequest((Message("user", query),), params)
    answering = _routed(config, request) if expert is None else _pinned(config, expert, request)
    async with answering as answer:
        usage = await _print(answer)
        decision = answer.decision
    counts = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else ""
    print(f"— {', '.join(decision.experts)} ({decision.router}{counts})", file=sys.stderr)


@asynccontextmanager
async def _routed(config: Config, request: GenerationRequest) -> AsyncIterator[Answering]:
    from coe.assembly import load_composition

    composition = load_composition(config)
    try:
        if composition.decides_slowly:
            decision = await asyncio.to_thread(composition.decide, request)
        else:
            decision = composition.decide(request)
        async with composition.answering(request, decision) as answer:
            yield answer
    finally:
        await composition.stop(_STOP_S)


@asynccontextmanager
async def _pinned(
    config: Config, expert_id: str, request: GenerationRequest
) -> AsyncIterator[Answering]:
    """A named expert's answer, for which nothing has to be fitted."""
    from coe.assembly import engines_for
    from coe.composition import Answering
    from coe.engines.base import closing_stream
    from coe.routing import RoutingDecision

    decision = RoutingDecision.pinned(config.pool.expert(expert_id).id, request.id)
    engine = engines_for(config)[expert_id]
    try:
        async with closing_stream(engine.stream(request)) as deltas:
            yield Answering(decision, deltas)
    finally:
        await engine.stop(_STOP_S)


async def _print(answer: Answering) -> Usage | None:
    """Prints an answer as it comes; its line ends whatever happens to it."""
    usage: Usage | None = None
    is_open = False
    try:
        async for delta in answer.deltas:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
            is_open = is_open or bool(delta.text)
            usage = delta.usage or usage
    except BaseException:
        if is_open:
            print(flush=True)  # what failed is told on a line of its own
        raise
    print()
    return usage
