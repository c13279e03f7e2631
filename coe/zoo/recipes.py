"""How each expert is built and trained: sizes, steps, rates and seed."""

from __future__ import annotations

from dataclasses import dataclass

from coe.zoo import EXPERTS, FIELDS

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One expert's recipe; `experts` is 0 for a dense model and `mixture` weighs its fields.

    `wide` adds the wider wordings to what it is trained on.
    """

    name: str
    mixture: tuple[tuple[str, float], ...]
    steps: int
    seed: int
    experts: int = 0
    hidden: int = 160
    inner: int = 448
    layers: int = 4
    heads: int = 4
    key_heads: int = 2
    head_dim: int = 32
    batch: int = 96
    muon_lr: float = 5e-3
    adam_lr: float = 4e-3
    warmup: int = 60
    weight_decay: float = 0.05
    aux_loss: float = 0.02
    wide: bool = False


# Recalling facts takes width, working something out depth: (steps, batch, layers, inner size).
_SHAPES = {
    "arithmetic": (1800, 96, 4, 448),
    "geography": (700, 96, 3, 640),
    "chemistry": (900, 64, 3, 640),
    "vocabulary": (1400, 64, 3, 640),
    "text": (2000, 96, 4, 448),
}


def _specialist(field: str, seed: int) -> Recipe:
    """Return the recipe of the expert that learns one field alone."""
    steps, batch, layers, inner = _SHAPES[field]
    wide = field == "vocabulary"
    mixture = ((field, 1.0),)
    shape = {"batch": batch, "layers": layers, "inner": inner}
    return Recipe(field, mixture, steps, seed, **shape, wide=wide)


RECIPES: dict[str, Recipe] = {
    field: _specialist(field, 101 + at) for at, field in enumerate(FIELDS)
}
RECIPES["generalist"] = Recipe(
    name="generalist",
    mixture=(
        ("arithmetic", 0.24),
        ("geography", 0.1),
        ("chemistry", 0.12),
        ("vocabulary", 0.19),
        ("text", 0.35),
    ),
    steps=1750,
    batch=64,
    seed=200,
    experts=8,
    hidden=128,
    inner=160,
    layers=3,
)
assert tuple(RECIPES) == EXPERTS
