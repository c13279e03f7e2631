"""What the gateway's routes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coe.composition import Composition
from coe.feedback_log import FeedbackLog
from coe.scheduling.report import SiteReport
from coe.scheduling.trace_log import TraceLog
from coe.service.request_log import RequestLog
from coe.service.settings import ServiceSettings
from coe.service.similar import Similar
from coe.service.tracing import Tracing
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
