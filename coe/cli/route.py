"""`coe route`: which experts a query would go to, and why. Starts nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, CategoryOption, ConfigOption, JsonOption


def route(
    query: Annotated[str, typer.Argument(help="The question.")],
    config: ConfigOption = DEFAULT_CONFIG,
    category: CategoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which experts a question would go to, and why (dry run)."""
    from coe.routing import Router
    from coe.types import Query

    decision = Router.load(config).route(Query(query, category=category))
    if as_json:
        print(json.dumps(asdict(decision), ensure_ascii=False))
        return
    print(f"experts  {', '.join(decision.experts)}")
    print(f"router   {decision.router}")
    for expert_id, score in sorted(decision.scores.items(), key=lambda item: -item[1]):
        mark = "*" if expert_id in decision.experts else " "
        print(f"  {mark} {expert_id:<24} {score:.3f}")
    for reason in decision.reasons:
        print(f"because  {reason}")
