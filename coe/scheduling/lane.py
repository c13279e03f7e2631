"""What a scheduler knows of one expert: its queue, where its weights are, what it costs."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from enum import Enum

from coe.errors import CoeError
from coe.scheduling.measures import Mean, Rate
from coe.scheduling.terms import Residency, Tenant, Ticket
from coe.scheduling.waiting import WaitingLine

BUSIEST = 0.95
"""No expert is taken to be busier than this, so that a busy period has an end."""


class Departure(Enum):
    """How an expert leaves at an operator's word."""

    SLEEP = "sleep"
    """To host memory where it can sleep, else to disk."""
    DISK = "disk"
    FOR_GOOD = "for good"
    """It refuses whoever asks, and is forgotten once it has left."""


@dataclass(slots=True)
class Moves:
    """What has happened to one expert, counted as `transitions.Counts` counts all."""

    loads: int = 0
    wakes: int = 0
    prefetches: int = 0
    sleeps: int = 0
    evictions: int = 0
    failures: int = 0


@dataclass(slots=True, eq=False)
class Lane:
    """One expert with weights of its own, and the adapters on it."""

    tenant: Tenant
    rate_window_s: InitVar[float]
    line: WaitingLine = field(default_factory=WaitingLine)
    granted: dict[str, float] = field(default_factory=dict)
    """Ticket id → when it was granted."""
    residency: Residency = Residency.DISK
    devices: tuple[str, ...] = ()
    """Where it is, moves to or sleeps; empty on disk."""
    held_gib: float = 0.0
    """What it holds of each of its devices now."""
    host_gib: float = 0.0
    """What it holds of the host's memory now."""
    is_leaving_for_disk: bool = False
    was_asleep: bool = False
    """The leave under way is out of host memory."""
    promised_to: Lane | None = None
    """The expert it makes room for. It serves its gate first and then nobody."""
    gate: int = 0
    """Tickets it may still grant before it has to leave for another expert."""
    departure: Departure | None = None
    """Sent away by an operator: it serves its gate and leaves; None once it has left."""
    is_kept_away: bool = False
    """An operator sent it away and nobody has asked for it since: not prefetched, not pinned."""
    moves: Moves = field(default_factory=Moves)
    opened_s: float = 0.0
    """When it became awake."""
    left_s: float = -math.inf
    """When it last left a device."""
    moved_at_s: float = 0.0
    """When the transition under way began."""
    woke: bool = False
    """The load under way, or the last one, came from host memory."""
    failures: int = 0
    """Since a request last ran to its end."""
    retry_at_s: float = 0.0
    last_error: CoeError | None = None
    """Why the last load failed; None once one has succeeded."""
    n_turned_away: int = 0
    """Refused for a full queue and not yet made good by a place that became free."""
    credit: float = 0.0
    """Greedy-dual-size credit: the lowest leaves first among idle experts."""
    load_s: Mean = field(init=False)
    wake_s: Mean = field(init=False)
    sleep_s: Mean = field(init=False)
    evict_s: Mean = field(init=False)
    service_s: Mean = field(init=False)
    rate: Rate = field(init=False)

    def __post_init__(self, rate_window_s: float) -> None:
        costs = self.tenant.costs
        self.load_s = Mean(costs.load_s)
        self.wake_s = Mean(costs.wake_s)
        self.sleep_s = Mean(costs.sleep_s)
        self.evict_s = Mean(costs.evict_s)
        self.service_s = Mean(self.tenant.service_s, share=0.1)
        self.rate = Rate(rate_window_s)

    @property
    def expert_id(self) -> str:
        return self.tenant.expert_id

    @property
    def in_flight(self) -> int:
        return len(self.granted)

    @property
    def is_busy(self) -> bool:
        return bool(self.granted)

    @property
    def is_idle(self) -> bool:
        """Awake, and nobody runs or waits."""
        return self.residency is Residency.AWAKE and not self.granted and not self.line

    @property
    def is_spare(self) -> bool:
        """Idle, or asleep with nobody waiting: its leaving disturbs nobody now."""
        is_asleep = self.residency is Residency.ASLEEP and not self.line
        return is_asleep or self.is_idle

    @property
    def is_on_device(self) -> bool:
        """Holds the memory of an awake expert, also on its way there or away."""
        if self.residency is Residency.LEAVING:
            return not self.was_asleep
        return self.residency in (Residency.LOADING, Residency.AWAKE)

    def may_grant(self, now: float, quantum_s: float) -> bool:
        """Whether the next ticket may run now."""
        if self.residency is not Residency.AWAKE or len(self.granted) >= self.tenant.max_in_flight:
            return False
        if self.departure is not None and self.gate <= 0:
            return False
        return self.promised_to is None or not self.is_gate_shut(now, quantum_s)

    def is_gate_shut(self, now: float, quantum_s: float) -> bool:
        """Those who waited when the visit began are served, or it has lasted long enough."""
        return self.gate <= 0 or now >= self.opened_s + quantum_s

    def take_next(self, now: float, overdue_before_s: float) -> Ticket:
        """The ticket to grant next, out of the line."""
        self.gate -= 1
        return self.line.pop(overdue_before_s).ticket

    @property
    def swap_s(self) -> float:
        """Seconds from the start of its load or wake until it is awake."""
        return self.wake_s.value if self.residency is Residency.ASLEEP else self.load_s.value

    @property
    def leave_s(self) -> float:
        """Seconds until its device is free once it is sent away."""
        return (self.evict_s if self.tenant.asleep_gib is None else self.sleep_s).value

    @property
    def return_s(self) -> float:
        """Seconds to bring it back once it has left."""
        can_sleep = self.tenant.asleep_gib is not None
        return self.wake_s.value if can_sleep else self.load_s.value

    @property
    def serving_s(self) -> float:
        """Seconds to serve all who wait, at full concurrency."""
        return self.service_s.value * max(1.0, len(self.line) / self.tenant.max_in_flight)

    def busy_share(self, now: float) -> float:
        """Arrivals times service: how much of the expert its own traffic takes."""
        load = self.rate.per_s(now) * self.service_s.value / self.tenant.max_in_flight
        return min(BUSIEST, load)
