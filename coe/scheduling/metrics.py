"""What a simulation is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from coe.scheduling.simulator import Run


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures. Latency is arrival to end, age is arrival to the beginning of service;
    both of those that were served.
    """

    n_served: int
    n_refused: int
    loads: int
    mean_latency_s: float
    p50_latency_s: float
    p99_latency_s: float
    max_age_s: float
    makespan_s: float
    busy_share: float
    """Of all devices' time, spent with somebody running."""
    swap_share: float
    """Of all devices' time, spent loading and leaving."""

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


def summarize(run: Run, n_slots: int) -> Summary:
    """`n_slots`: how many experts can be resident together; shares are of their time."""
    served = [r for r in run.records if r.ended_s is not None]
    latencies = np.array([(r.ended_s or 0.0) - r.arrival.at_s for r in served] or [0.0])
    ages = [(r.started_s or 0.0) - r.arrival.at_s for r in served] or [0.0]
    slot_s = max(run.makespan_s * n_slots, 1e-9)
    p50, p99 = np.percentile(latencies, [50, 99])
    return Summary(
        n_served=len(served),
        n_refused=sum(r.refused is not None for r in run.records),
        loads=run.loads,
        mean_latency_s=float(latencies.mean()),
        p50_latency_s=float(p50),
        p99_latency_s=float(p99),
        max_age_s=float(max(ages)),
        makespan_s=run.makespan_s,
        busy_share=run.busy_s / slot_s,
        swap_share=run.swapping_s / slot_s,
    )
