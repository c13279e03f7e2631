"""Plans a batch whose assignments are all known: what to load, serve and send away, in order.

1. `assignment` spreads every stage over the devices.
2. `carry_search` chooses who stays resident from stage to stage, device by device; devices
   that share an expert or a lock are one problem.
3. With several devices both are repeated, now that it is known who stays where.
4. `timeline` turns that into steps.

Bounds are of the relaxed problem in which all memory is one pool and loads run everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.scheduling.assignment import Assigner
from coe.scheduling.carry import Carry, CarryProblem, Mask, members
from coe.scheduling.carry_program import program_carry
from coe.scheduling.carry_search import best_carry
from coe.scheduling.copies import Copy, Fleet, Share
from coe.scheduling.plan import Action, Plan, Stage, Start, Step
from coe.scheduling.plan_bounds import plan_bounds
from coe.scheduling.sleepers import chosen_sleepers
from coe.scheduling.terms import Site
from coe.scheduling.timeline import Timeline

_REPEATS = 2


@dataclass(frozen=True, slots=True)
class PlanRules:
    """How far the planner goes."""

    split_ratio: float = 4.0
    """An expert is served on several devices at a time if its work on each is so many times its
    load; infinite never cuts."""
    exact_s: float = 0.0
    """Seconds that each integer program may take where the tables are too small; 0 needs no
    scipy."""


@dataclass(frozen=True, slots=True)
class _Draft:
    steps: tuple[Step, ...]
    carried: list[frozenset[Copy]]
    bound_s: float | None
    """Load seconds no plan can do with less than; None if other homes or sleepers could."""

    @property
    def seconds(self) -> float:
        return max((step.end_s for step in self.steps), default=0.0)


def plan(
    site: Site,
    stages: Sequence[Stage],
    start: Start | None = None,
    rules: PlanRules | None = None,
) -> Plan:
    """The plan of a batch.

    Raises `UnknownExpert` or `ConfigError` where stages or start do not match the site.
    """
    return _Planner(Fleet(site, start or Start()), stages, rules or PlanRules()).plan()


class _Planner:
    def __init__(self, fleet: Fleet, stages: Sequence[Stage], rules: PlanRules) -> None:
        self._fleet = fleet
        self._rules = rules
        self._works = [fleet.work(stage) for stage in stages]
        self._assigner = Assigner(fleet, stages, rules.split_ratio, rules.exact_s)

    def plan(self) -> Plan:
        best = self._draft(self._assigner.first_guess())
        if self._assigner.is_free and len(self._works) > 1:
            for _ in range(_REPEATS):
                for leads in (self._no_leads(), self._leads(best)):
                    draft = self._draft(self._rebalanced(best.carried, leads))
                    if draft.seconds < best.seconds - 1e-9:
                        best = draft
        return Plan(best.steps, plan_bounds(self._fleet, self._works, self._assigner, best.bound_s))

    def _no_leads(self) -> list[dict[str, float]]:
        return [{} for _ in self._works]

    def _leads(self, draft: _Draft) -> list[dict[str, float]]:
        """For each stage, what each device loads in the next one before it serves there.

        It can be done within the stage, if the device has less to do in it.
        """
        leads = self._no_leads()
        served: set[tuple[int, str]] = set()
        for step in draft.steps:
            for device in step.devices:
                if step.action is Action.SERVE:
                    served.add((step.stage, device))
                elif step.stage > 0 and (step.stage, device) not in served:
                    lead = leads[step.stage - 1]
                    lead[device] = lead.get(device, 0.0) + step.end_s - step.start_s
        return leads

    def _rebalanced(
        self, carried: Sequence[frozenset[Copy]], leads: Sequence[Mapping[str, float]]
    ) -> list[list[Share]]:
        def setup(stage: int, copy: Copy) -> float:
            if copy in carried[stage]:
                return 0.0
            if stage == 0:
                return self._fleet.first_s(copy)
            return self._fleet.tenants[copy.expert_id].costs.load_s

        return [
            self._assigner.balanced(stage, setup, leads[stage]) for stage in range(len(self._works))
        ]

    def _draft(self, stages: Sequence[Sequence[Share]]) -> _Draft:
        sleepers = chosen_sleepers(self._fleet, stages)
        copies = dict.fromkeys(share.copy for shares in stages for share in shares)
        moving = [c for c in copies if not self._fleet.tenants[c.expert_id].pinned]
        carried: list[frozenset[Copy]] = [frozenset() for _ in stages]
        bound_s = sum(self._fleet.first_s(c) for c in copies if c not in set(moving))
        for component in _connected(self._fleet, moving):
            problem = self._problem(component, stages, sleepers)
            found = self._carry(problem)
            bound_s += found.bound_s
            for stage, mask in enumerate(found.carried):
                carried[stage] |= {component[i] for i in members(mask)}
        steps = Timeline(self._fleet, stages, sleepers).steps(carried)
        return _Draft(steps, carried, bound_s if self._is_only_way(moving, sleepers) else None)

    def _is_only_way(self, copies: Sequence[Copy], sleepers: frozenset[Copy]) -> bool:
        """Whether neither other homes nor other sleepers could need fewer load seconds."""
        tenants = {copy: self._fleet.tenants[copy.expert_id] for copy in copies}
        return not self._assigner.is_free and all(
            tenant.asleep_gib is None
            if copy not in sleepers
            else tenant.residue_gib == 0.0 and tenant.costs.wake_s <= tenant.costs.load_s
            for copy, tenant in tenants.items()
        )

    def _carry(self, problem: CarryProblem) -> Carry:
        found = best_carry(problem)
        if self._rules.exact_s > 0.0 and not found.is_exact:
            programmed = program_carry(problem, self._rules.exact_s)
            if programmed is not None:
                bound_s = max(found.bound_s, programmed.bound_s)
                best = min(found, programmed, key=lambda carry: carry.cost_s)
                return Carry(best.carried, best.cost_s, bound_s)
        return found

    def _problem(
        self,
        copies: Sequence[Copy],
        stages: Sequence[Sequence[Share]],
        sleepers: frozenset[Copy],
    ) -> CarryProblem:
        """One device, or several that are linked, as a problem of what to carry.

        What sleepers leave behind on devices is taken off the room for the whole plan.
        """
        index = {copy: i for i, copy in enumerate(copies)}
        names = list(dict.fromkeys(name for c in copies for name in self._fleet.holds(c)))
        column = {name: i for i, name in enumerate(names)}
        room = self._fleet.room()
        gib = np.zeros((len(copies), len(names)))
        for copy, row in index.items():
            for name, amount in self._fleet.holds(copy).items():
                gib[row, column[name]] = amount
        for copy in sleepers:
            for device in copy.devices:
                residue_gib = self._fleet.tenants[copy.expert_id].residue_gib
                room[device] -= residue_gib
                if copy in index:
                    gib[index[copy], column[device]] -= residue_gib
        costs = [self._fleet.tenants[copy.expert_id].costs for copy in copies]
        return CarryProblem(
            tuple(_mask(index, (share.copy for share in shares)) for shares in stages),
            gib,
            np.array([room[name] for name in names]),
            [self._fleet.first_s(copy) for copy in copies],
            [
                c.wake_s if copy in sleepers else c.load_s
                for copy, c in zip(copies, costs, strict=True)
            ],
            _mask(index, self._fleet.awake),
        )


def _connected(fleet: Fleet, copies: Sequence[Copy]) -> list[list[Copy]]:
    """Copies that compete for something, directly or through others, put together."""
    groups: list[tuple[set[str], list[Copy]]] = []
    for copy in copies:
        names = set(fleet.holds(copy))
        joined: list[Copy] = []
        apart = []
        for held, members_ in groups:
            if held & names:
                names |= held
                joined += members_
            else:
                apart.append((held, members_))
        groups = [*apart, (names, [*joined, copy])]
    return [members_ for _, members_ in groups]


def _mask(index: Mapping[Copy, int], copies: Iterable[Copy]) -> Mask:
    mask = 0
    for copy in copies:
        if copy in index:
            mask |= 1 << index[copy]
    return mask
