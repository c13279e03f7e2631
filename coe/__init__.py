"""CoE: a compound-AI router over multiple expert LLMs.

    from coe import Router
    decision = Router.load("experts.yaml").route("What is the capital of Peru?")

Importing this package loads neither numpy nor torch: names arrive when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coe.errors import CoeError, ConfigError
    from coe.experts import Expert, ExpertPool
    from coe.outcomes import OutcomeTable
    from coe.routing import Router, RoutingDecision
    from coe.types import Completion, Delta, Message, Query, SamplingParams

__version__ = "0.1.0"

_HOME = {
    "CoeError": "coe.errors",
    "ConfigError": "coe.errors",
    "Completion": "coe.types",
    "Delta": "coe.types",
    "Expert": "coe.experts",
    "ExpertPool": "coe.experts",
    "Message": "coe.types",
    "OutcomeTable": "coe.outcomes",
    "Query": "coe.types",
    "Router": "coe.routing",
    "RoutingDecision": "coe.routing",
    "SamplingParams": "coe.types",
}

__all__ = [
    "CoeError",
    "Completion",
    "ConfigError",
    "Delta",
    "Expert",
    "ExpertPool",
    "Message",
    "OutcomeTable",
    "Query",
    "Router",
    "RoutingDecision",
    "SamplingParams",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'coe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
