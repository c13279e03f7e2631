"""How a next token is picked from logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coe.types import SamplingParams

if TYPE_CHECKING:
    import torch

# Below this the softmax of logits / temperature overflows; vLLM draws the line here too.
_GREEDY_BELOW = 1e-5


def is_greedy(params: SamplingParams) -> bool:
    return params.temperature < _GREEDY_BELOW


def generator_for(params: SamplingParams) -> torch.Generator | None:
    """The row's own source of chance, on the CPU so that devices agree; None when greedy."""
    import torch

    if is_greedy(params):
        return None
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed % 2**63)
    return generator


def pick(
    logits: torch.Tensor,  # (n_rows, vocabulary)
    params: Sequence[SamplingParams],
    generators: Sequence[torch.Generator | None],
) -> list[int]:
    """The next token of each row."""
    picked: list[int] = logits.argmax(dim=-1).tolist()
    for row, (wanted, generator) in enumerate(zip(params, generators, strict=True)):
        if generator is not None:
            picked[row] = _draw(logits[row], wanted, generator)
    return picked


def _draw(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    import torch

    weights = torch.softmax(logits.double().cpu() / params.temperature, dim=-1)
    if params.top_p < 1:
        ordered, order = weights.sort(descending=True, stable=True)
        # The nucleus is the fewest tokens that reach top_p: those before which less is gathered.
        outside = ordered.cumsum(-1) - ordered >= params.top_p
        outside[0] = False
        weights[order[outside]] = 0
    return int(torch.multinomial(weights, 1, generator=generator))
