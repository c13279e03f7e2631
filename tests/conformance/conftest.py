"""Gateways to be asked as their description says, and as other people's clients ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from coe.composition import Composition
from coe.engines.base import Engine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.types import Query

Compose = Callable[..., Composition]
_ROOMY_TOKENS = 2**31


class NamedScorer:
    """An expert whose id occurs in the query scores 1, the others 0."""

    name = "named"

    def __init__(self, expert_ids: tuple[str, ...]) -> None:
        self.expert_ids = expert_ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [[float(id_ in query.text) for id_ in self.expert_ids] for query in queries]
        )


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Makes a composition of `sums` and `lands`, who have room for anything, and of engines given."""

    def build(*engines: Engine) -> Composition:
        scripts = {
            "sums": ScriptedSpec(answers={r"(\d+) \+ (\d+)": r"\1 plus \2 it is"}, default="a sum"),
            "lands": ScriptedSpec(default="Lima it is"),
        }
        experts = [
            Expert(expert_id, script, context_tokens=_ROOMY_TOKENS)
            for expert_id, script in scripts.items()
        ]
        running: dict[str, Engine] = {expert.id: ScriptedEngine(expert) for expert in experts}
        running |= {engine.expert_id: engine for engine in engines}
        experts += [Expert(engine.expert_id, ScriptedSpec()) for engine in engines]
        pool = ExpertPool(experts)
        return Composition(Router(NamedScorer(pool.ids), TopK(1), pool), running)

    return build
