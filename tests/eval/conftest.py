"""Small tables that the tests of evaluation share."""

from __future__ import annotations

import numpy as np
import pytest

from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.types import Query

NAN = float("nan")


@pytest.fixture
def pool() -> ExpertPool:
    """Experts a, b and c with 1, 2 and an unknown number of billions of parameters."""
    spec = ScriptedSpec()
    return ExpertPool(
        (
            Expert("a", spec, params_active_b=1.0, price=Price(1.0, 10.0)),
            Expert("b", spec, params_active_b=2.0, price=Price(1.0, 20.0)),
            Expert("c", spec),
        )
    )


@pytest.fixture
def table() -> OutcomeTable:
    """Four queries of two categories; c was not measured on the last, a and c have one price."""
    return OutcomeTable(
        queries=tuple(
            Query(f"question {i}", f"q{i}", category)
            for i, category in enumerate(("law", "law", "math", None))
        ),
        expert_ids=("a", "b", "c"),
        scores=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.5, NAN]]),
        answers=(("A", "B", "B"), ("A", "B", "b "), ("C", None, "D"), ("A", "B", None)),
        cost_usd=np.array([[1.0, 2.0, NAN], [3.0, 4.0, NAN], [5.0, 6.0, NAN], [NAN, 8.0, NAN]]),
    )
