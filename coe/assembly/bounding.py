"""Whom queries of each category may be routed to, read from a fitted artifact."""

from __future__ import annotations

from coe.assembly.engines import encoder_for
from coe.config import Config
from coe.errors import ConfigError
from coe.routers.artifacts import Artifact
from coe.routers.category import CategoryScorer
from coe.routers.category_bounds import CategoryBounds

CATEGORIES = "categories"
"""The part of an artifact that votes on the category of a query."""


def bounds_by_category(config: Config, artifact: Artifact | None) -> CategoryBounds | None:
    """None: everybody may be chosen. Raises `ConfigError` where categories are not fitted."""
    told = config.router.allowed
    if not told:
        return None
    if artifact is None or CATEGORIES not in artifact.parts:
        problem = "categories are not fitted yet; fit it again with `coe fit`"
        if artifact is None:
            problem = "`random` knows no categories; choose another scorer"
        raise ConfigError(problem, file=str(config.file), key="router.allowed")
    categories = CategoryScorer(artifact.parts[CATEGORIES], encoder_for(config.encoder))
    try:
        return CategoryBounds(categories, told, config.pool)
    except ConfigError as error:
        key = f"router.allowed.{error.key}"
        raise ConfigError(error.problem, file=str(config.file), key=key) from None
