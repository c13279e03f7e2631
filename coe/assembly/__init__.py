"""The one place that turns a `Config` into objects: it alone names concrete classes together.

`scorers` knows every scorer, `engines` every engine, `serving` puts together what answers
requests, and `fitting` makes what serving reads.
"""

from __future__ import annotations

from coe.assembly.engines import encoder_for, engines_for
from coe.assembly.fitting import Fitting, fit_artifact, fit_router
from coe.assembly.scorers import (
    ROUTERS,
    SCORERS,
    ScorerKind,
    configured_kind,
    fit_scorer,
    scorer_kind,
)
from coe.assembly.serving import (
    aggregator_for,
    load_composition,
    load_operated,
    load_planned,
    load_router,
    planned_engines,
    spec_for,
)

__all__ = [
    "ROUTERS",
    "SCORERS",
    "Fitting",
    "ScorerKind",
    "aggregator_for",
    "configured_kind",
    "encoder_for",
    "engines_for",
    "fit_artifact",
    "fit_router",
    "fit_scorer",
    "load_composition",
    "load_operated",
    "load_planned",
    "load_router",
    "planned_engines",
    "scorer_kind",
    "spec_for",
]
