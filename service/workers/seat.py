"""The place of one process among those behind a port."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coe.service.metrics import Collector
from coe.service.worker_metrics import WorkerMetrics


@dataclass(slots=True, eq=False)
class Seat:
    """Which of the processes this is."""

    index: int
    n: int
    folder: Path
    """Where they leave their numbers for each other."""
    metrics: WorkerMetrics | None = field(default=None, init=False)

    def told(self, own: Collector) -> Collector:
        """The numbers of all, for who scrapes this one."""
        self.metrics = WorkerMetrics(own, self.folder, self.index)
        return self.metrics
