"""Who leaves so that another expert fits. Pure: asked speculatively, so nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Resident:
    """An expert that could leave, as the decision sees it."""

    expert_id: str
    frees: Mapping[str, float]
    """GiB on each device that its leaving frees."""
    next_use: float
    """0 if somebody waits for it or runs on it, infinite if nobody is known to."""
    cost: float
    """What losing it costs. Compared among those with the same next use."""


class EvictionPolicy(Protocol):
    """Pure: asked speculatively, so it must not log or remember."""

    def victims(
        self, needs: Mapping[str, float], residents: Sequence[Resident]
    ) -> tuple[str, ...] | None:
        """Who leaves so that so many GiB more are free on each device; None: cannot fit."""
        ...


class LookAhead:
    """Furthest known next use first, then the lowest cost per GiB that is of use.

    With the queue as the known future this is Belady's rule, refined by size and cost where the
    future says nothing; those who turn out not to be needed stay, dearest first.
    """

    def victims(
        self, needs: Mapping[str, float], residents: Sequence[Resident]
    ) -> tuple[str, ...] | None:
        short = {device: gib for device, gib in needs.items() if gib > 1e-9}
        chosen: list[Resident] = []
        left = list(residents)
        while short:
            useful = [one for one in left if _use(one, short) > 0.0]
            if not useful:
                return None
            best = min(useful, key=lambda one: (-one.next_use, one.cost / _use(one, short)))
            left.remove(best)
            chosen.append(best)
            short = _after(short, best)
        return tuple(one.expert_id for one in _pruned(needs, chosen))


def _use(resident: Resident, short: Mapping[str, float]) -> float:
    return sum(min(gib, resident.frees.get(device, 0.0)) for device, gib in short.items())


def _after(short: Mapping[str, float], leaver: Resident) -> dict[str, float]:
    rest = {device: gib - leaver.frees.get(device, 0.0) for device, gib in short.items()}
    return {device: gib for device, gib in rest.items() if gib > 1e-9}


def _pruned(needs: Mapping[str, float], chosen: Sequence[Resident]) -> list[Resident]:
    """Without those whose leaving the others make unnecessary."""
    kept = list(chosen)
    for one in sorted(chosen, key=lambda r: (r.next_use, -r.cost)):
        others = [other for other in kept if other is not one]
        if all(
            sum(other.frees.get(device, 0.0) for other in others) >= gib - 1e-9
            for device, gib in needs.items()
        ):
            kept = others
    return kept
