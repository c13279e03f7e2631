"""Muon: momentum whose matrix updates are made orthogonal, for the models' inner matrices."""

from collections.abc import Iterable

import torch

__all__ = ["Muon", "orthogonal"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(grads: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Push the singular values of a stack of matrices towards one, by Newton-Schulz rounds."""
    a, b, c = _COEFFICIENTS
    wide = grads.shape[-2] <= grads.shape[-1]
    x: torch.Tensor = grads if wide else grads.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon:
    """Updates matrices (or stacks of them), all those of one shape in one batched product."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        groups: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for parameter in parameters:
            groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self._groups = [(group, torch.zeros_like(torch.stack(group))) for group in groups.values()]
        self._decay = decay

    @torch.no_grad()
    def step(self, rate: float, momentum: float = 0.95) -> None:
        """Apply one update and drop the gradients."""
        for group, velocity in self._groups:
            grads = torch.stack([_gradient(parameter) for parameter in group])
            velocity.lerp_(grads, 1 - momentum)
            update = orthogonal(grads.lerp_(velocity, momentum))
            # Scaled so that an entry moves about as far as under AdamW at the same rate.
            scale = 0.2 * max(update.shape[-2:]) ** 0.5
            for parameter, delta in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self._decay).add_(delta, alpha=-rate * scale)
                parameter.grad = None


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter's gradient, zero where the last pass did not touch it."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
