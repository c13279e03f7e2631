"""`coe ask`: one routed answer, streamed to the terminal."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from coe.types import SamplingParams


def ask(
    query: Annotated[str, typer.Argument(help="The question.")],
    config: ConfigOption = DEFAULT_CONFIG,
    expert: Annotated[str | None, typer.Option(help="Ask this expert; skip the router.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
) -> None:
    """Route a question, stream the answer, say who answered."""
    from coe.types import SamplingParams

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    asyncio.run(_ask(query, config, expert, params))


async def _ask(query: str, config: Path, expert: str | None, params: SamplingParams) -> None:
    from coe.assembly import load_composition
    from coe.types import GenerationRequest, Message, Usage

    composition = load_composition(config)
    request = GenerationRequest((Message("user", query),), params)
    try:
        decision = composition.decide(request, expert)
        usage: Usage | None = None
        async for delta in composition.stream(request, decision):
            sys.stdout.write(delta.text)
            sys.stdout.flush()
            usage = delta.usage or usage
    finally:
        await composition.stop()
    print()
    counts = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else ""
    print(f"— {', '.join(decision.experts)} ({decision.router}{counts})", file=sys.stderr)
