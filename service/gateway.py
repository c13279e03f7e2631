"""What the gateway's routes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coe.composition import Composition
from coe.engines.limited import all_full
from coe.errors import QueueFull
from coe.feedback_log import FeedbackLog
from coe.scheduling.report import SiteReport
from coe.scheduling.trace_log import TraceLog
from coe.service.admission import AdmissionRules, Intake
from coe.service.metrics import OPERATIONS
from coe.service.request_log import RequestLog
from coe.service.settings import ServiceSettings
from coe.service.similar import Similar
from coe.service.tracing import Tracing
from coe.service.workers.seat import Seat
from coe.store import Store


@dataclass(slots=True, eq=False)
class Gateway:
    """What every route works with. The composition may be another one for the next request."""

    composition: Composition
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    feedback: FeedbackLog | None = None
    trace: TraceLog | None = None
    store: Store | None = None
    """None keeps nothing: no keys, no cache, no log of decisions."""
    similar: Similar | None = None
    """Answers asks that mean the same as others, where answers are kept at all."""
    site: Callable[[], SiteReport | None] | None = None
    """How those hosted here are doing, for whoever scrapes."""
    log: RequestLog | None = None
    tracing: Tracing | None = None
    seat: Seat | None = None
    """Of one of several processes; None: this is the only one."""
    intake: Intake = field(init=False)
    """Whom the process lets in."""

    def __post_init__(self) -> None:
        settings = self.settings
        rules = AdmissionRules(settings.max_in_flight, settings.longest_lag_s)
        self.intake = Intake(rules, self._full, OPERATIONS)

    def _full(self) -> QueueFull | None:
        """Why whoever comes would be turned away by every expert. A kept answer needs none."""
        if self.settings.caches:
            return None
        engines, ids = self.composition.engines, self.composition.pool.ids
        return all_full(engines[expert_id] for expert_id in ids)
