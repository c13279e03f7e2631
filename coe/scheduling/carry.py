"""What stays resident from stage to stage: the one choice that decides how much is loaded.

Within a stage the order is free, so those who are there at its beginning are served first and
leave one by one, those who are to be there at its end come last, and everyone else comes and
goes in between beside those who stay throughout. A stage therefore loads exactly those of its
experts that were not carried into it. Choosing the sets to carry is a path through the stages
with a knapsack at every boundary; for experts of one size and equal stages its solution is the
snake: each stage in the reverse order of the one before.

Whatever else only one expert may hold at a time is a device with room for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coe.outcomes import FloatArray

Mask = int
"""A set of experts: bit i is the expert of index i."""

EPSILON_GIB = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class CarryProblem:
    """Experts with fixed homes, the stages that need them, and the memory they share."""

    needs: tuple[Mask, ...]
    """Who is served in each stage."""
    gib: FloatArray
    """(n_experts, n_devices) what each holds where; nothing where it does not live."""
    room: FloatArray
    """(n_devices,) GiB."""
    first_s: Sequence[float]
    """Seconds to bring an expert that was not there at the start for the first time."""
    again_s: Sequence[float]
    """Seconds to bring it back once it has left."""
    start: Mask = 0
    """Who is resident before the first stage; they fit together."""
    _known: dict[Mask, bool] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_experts(self) -> int:
        return len(self.gib)

    def uses(self, expert: int) -> list[int]:
        """The stages that need it."""
        return [stage for stage, need in enumerate(self.needs) if need >> expert & 1]

    def coming_s(self, stage: int, expert: int) -> float:
        """Seconds if the expert is not carried into the stage, which needs it."""
        been = self.start >> expert & 1 or any(n >> expert & 1 for n in self.needs[:stage])
        return self.again_s[expert] if been else self.first_s[expert]

    def cost_s(self, carried: Sequence[Mask]) -> float:
        """Seconds of loading if these are carried into each stage."""
        return sum(
            self.coming_s(stage, expert)
            for stage, need in enumerate(self.needs)
            for expert in members(need & ~carried[stage])
        )

    def n_loads(self, carried: Sequence[Mask]) -> int:
        return sum(
            (need & ~here).bit_count() for need, here in zip(self.needs, carried, strict=True)
        )

    def fits(self, residents: Mask) -> bool:
        """Whether these can be resident at once."""
        known = self._known.get(residents)
        if known is None:
            held = self.gib[list(members(residents))].sum(axis=0)
            known = bool((held <= self.room + EPSILON_GIB).all())
            self._known[residents] = known
        return known

    def is_possible(self, stage: int, before: Mask, after: Mask) -> bool:
        """Whether a stage can begin with one set carried into it and end with another."""
        need = self.needs[stage]
        if after & ~(before | need) or not self.fits(after):
            return False
        held = before & after
        return all(self.fits(held | 1 << expert) for expert in members(need & ~(before | after)))


@dataclass(frozen=True, slots=True)
class Carry:
    """Who is carried into each stage, and what that costs."""

    carried: tuple[Mask, ...]
    cost_s: float
    bound_s: float
    """No choice costs less."""

    @property
    def is_exact(self) -> bool:
        return self.cost_s <= self.bound_s + 1e-9 * max(1.0, self.cost_s)


def members(mask: Mask) -> Iterator[int]:
    """The experts of a set, lowest index first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
