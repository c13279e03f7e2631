"""What an offline planner is asked and what it answers: stages of groups, an ordered plan.

Values only. A stage begins when the one before it is over: an aggregator reads what experts
wrote. How the plan is found is decided in `planner`, how its seconds are counted in `timeline`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from coe.errors import ConfigError, UnknownExpert
from coe.scheduling.terms import Site


@dataclass(frozen=True, slots=True)
class Group:
    """All requests of one stage that go to one expert."""

    expert_id: str
    n_requests: int
    service_s: float
    """Seconds to serve all of them, submitted at once, on one placement that is awake."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Groups that may be served in any order, once the stage before is over."""

    groups: tuple[Group, ...]
    name: str = ""

    def __post_init__(self) -> None:
        ids = [group.expert_id for group in self.groups]
        if len(set(ids)) != len(ids):
            raise ConfigError(f"an expert has two groups in stage {self.name!r}; join them")
        for group in self.groups:
            if group.n_requests < 1 or not 0.0 <= group.service_s < float("inf"):
                raise ConfigError(
                    f"the group of expert {group.expert_id!r} needs at least one request and a "
                    f"finite service time"
                )


@dataclass(frozen=True, slots=True)
class Start:
    """Where experts are before the first step; on disk if they are not named."""

    awake: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Expert → the devices it is on."""
    asleep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Expert in host memory → the devices it wakes on."""


class Action(Enum):
    LOAD = "load"
    """Disk to devices."""
    WAKE = "wake"
    """Host memory to devices."""
    SLEEP = "sleep"
    """Devices to host memory."""
    EVICT = "evict"
    """Devices to disk."""
    SERVE = "serve"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done. Steps that share a device are done in the order of the plan."""

    action: Action
    expert_id: str
    devices: tuple[str, ...]
    stage: int
    start_s: float
    end_s: float
    requests: tuple[int, int] = (0, 0)
    """Served: from this request of the expert's group up to but without that one."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no plan can do with less than."""

    n_loads: int
    load_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order that every device follows, and how good they are."""

    steps: tuple[Step, ...]
    bounds: Bounds

    @property
    def seconds(self) -> float:
        """The end of the last step. Loads are not counted as hidden behind service."""
        return max((step.end_s for step in self.steps), default=0.0)

    @property
    def n_loads(self) -> int:
        """Loads and wakes."""
        return sum(step.action in (Action.LOAD, Action.WAKE) for step in self.steps)

    @property
    def load_s(self) -> float:
        """Seconds of loads and wakes, all devices together."""
        return sum(
            step.end_s - step.start_s
            for step in self.steps
            if step.action in (Action.LOAD, Action.WAKE)
        )

    @property
    def is_exact(self) -> bool:
        """Whether it is proven that no plan has fewer load seconds."""
        return self.load_gap < 1e-9

    @property
    def load_gap(self) -> float:
        """Load seconds over their bound, less one: 0 is proven best."""
        return _gap(self.load_s, self.bounds.load_s)

    @property
    def seconds_gap(self) -> float:
        """Seconds over their bound, less one: 0 is proven best."""
        return _gap(self.seconds, self.bounds.seconds)

    def rows(self) -> list[tuple[str, ...]]:
        """A table to print, its head first."""
        head = ("stage", "devices", "step", "expert", "requests", "start s", "end s")
        return [head, *(_row(step) for step in self.steps)]


def _row(step: Step) -> tuple[str, ...]:
    n_requests = step.requests[1] - step.requests[0]
    return (
        str(step.stage),
        "+".join(step.devices),
        step.action.value,
        step.expert_id,
        str(n_requests) if step.action is Action.SERVE else "",
        f"{step.start_s:.1f}",
        f"{step.end_s:.1f}",
    )


def _gap(value: float, bound: float) -> float:
    if value <= bound + 1e-9 * max(1.0, value):  # Sums of floats in another order.
        return 0.0
    return value / bound - 1.0 if bound > 0.0 else float("inf")


def stage_of(assignments: Iterable[Sequence[str]], site: Site, name: str = "") -> Stage:
    """The groups of one stage, given the experts of each query; an expert may occur twice.

    Service seconds are the tenants' own guesses, at full concurrency.
    """
    tenants = {tenant.expert_id: tenant for tenant in site.tenants}
    counts = Counter(expert_id for experts in assignments for expert_id in experts)
    groups = []
    for expert_id, n in counts.items():
        if expert_id not in tenants:
            raise UnknownExpert(expert_id, tenants)
        tenant = tenants[tenants[expert_id].base or expert_id]
        rounds = max(1.0, n / tenant.max_in_flight)
        groups.append(Group(expert_id, n, tenant.service_s * rounds))
    return Stage(tuple(groups), name)
