"""`coe ask`: one routed answer, streamed to the terminal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption

if TYPE_CHECKING:
    from coe.composition import Answering
    from coe.config import Config
    from coe.routing import RoutingDecision
    from coe.types import GenerationRequest, Usage

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
    show_experts: Annotated[
        bool,
        typer.Option("--show-experts", help="Tell which experts inside the model fired."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Route a question, stream the answer, say who answered."""
    from coe.config import load_config
    from coe.errors import ConfigError
    from coe.types import GenerationRequest, Message, SamplingParams

    if as_json and not show_experts:
        raise ConfigError("--json goes with --show-experts; an answer alone is streamed as text")
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    request = GenerationRequest((Message("user", query),), params)
    told = load_config(config)
    if show_experts:
        asyncio.run(_show_experts(told, expert, request, as_json))
    else:
        asyncio.run(_ask(told, expert, request))


async def _ask(config: Config, expert: str | None, request: GenerationRequest) -> None:
    answering = _routed(config, request) if expert is None else _pinned(config, expert, request)
    async with answering as answer:
        usage = await _print(answer)
        decision = answer.decision
    _say_who(decision, usage)


def _say_who(decision: RoutingDecision, usage: Usage | None) -> None:
    counts = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else ""
    print(f"— {', '.join(decision.experts)} ({decision.router}{counts})", file=sys.stderr)


async def _show_experts(
    config: Config, expert: str | None, request: GenerationRequest, in_json: bool
) -> None:
    """The answer comes whole: what fired is known once it has ended."""
    from coe.assembly import engines_for
    from coe.cli.inner_experts import as_json, table
    from coe.engines.tracing import trace

    decision = await _one_expert(config, expert, request)
    expert_id = decision.experts[0]
    engine = engines_for(config)[expert_id]
    try:
        traced = await trace(engine, request)
    finally:
        await engine.stop(_STOP_S)
    if in_json:
        print(as_json(expert_id, traced))
        return
    print(f"{traced.text}\n\n{table(expert_id, traced)}")
    _say_who(decision, traced.usage)


async def _one_expert(
    config: Config, expert: str | None, request: GenerationRequest
) -> RoutingDecision:
    from coe.assembly import load_router
    from coe.errors import ConfigError
    from coe.routing import RoutingDecision
    from coe.types import Query

    if expert is not None:
        return RoutingDecision.pinned(config.pool.expert(expert).id, request.id)
    router = load_router(config)
    # A router may have to ask an encoder of its own, which blocks.
    decision = await asyncio.to_thread(router.route, Query.of_messages(request.messages))
    if len(decision.experts) > 1:
        raise ConfigError(
            f"{decision.router} recruits {', '.join(decision.experts)}; --show-experts follows one "
            "answer: name its expert with --expert"
        )
    return decision


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
