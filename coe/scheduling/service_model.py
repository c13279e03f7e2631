"""How long experts take in the simulator, and what happens when several requests share one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Speed of one expert as a function of how many requests run together."""

    max_batch: int = 8
    slope: float = 0.1
    """How much slower each further request makes all: 0 is free company, 1 a single server."""
    prefill_tokens_per_s: float = 5000.0
    decode_tokens_per_s: float = 50.0

    def speed(self, n_running: int) -> float:
        """Progress of each of so many requests, where alone is 1."""
        return 1.0 / (1.0 + self.slope * max(0, n_running - 1))

    @property
    def throughput(self) -> float:
        """Seconds of work done a second with a full batch."""
        return self.max_batch * self.speed(self.max_batch)

    def work_s(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Seconds of work in one request: what it takes alone."""
        prefill_s = prompt_tokens / self.prefill_tokens_per_s
        return prefill_s + completion_tokens / self.decode_tokens_per_s


class Batch:
    """The requests inside one expert: those that run together and those that wait for a place.

    Everyone who runs progresses alike, so one running total of progress per request tells when
    each is done: it ends when the total has grown by its work.
    """

    def __init__(self, model: ServiceModel) -> None:
        self._model = model
        self._running: list[tuple[float, int, str]] = []
        self._queued: deque[tuple[str, float]] = deque()
        self._progress_s = 0.0
        self._at_s = 0.0
        self._n_added = 0
        self.busy_s = 0.0
        """Time with somebody running."""

    def __len__(self) -> int:
        return len(self._running) + len(self._queued)

    def add(self, now: float, ticket_id: str, work_s: float) -> list[str]:
        """One more; the ids that begin to run by it."""
        self._advance(now)
        self._queued.append((ticket_id, work_s))
        return self._fill()

    def finish(self, now: float) -> tuple[str, list[str]]:
        """Takes out the one that is done now, and the ids that begin to run by it."""
        self._advance(now)
        done = heappop(self._running)[2]
        return done, self._fill()

    def clear(self, now: float) -> None:
        """Everybody is lost."""
        self._advance(now)
        self._running.clear()
        self._queued.clear()

    def next_end_s(self) -> float | None:
        """When the next one is done if nobody comes."""
        if not self._running:
            return None
        left_s = max(0.0, self._running[0][0] - self._progress_s)
        return self._at_s + left_s / self._model.speed(len(self._running))

    def _advance(self, now: float) -> None:
        if self._running:
            self._progress_s += (now - self._at_s) * self._model.speed(len(self._running))
            self.busy_s += now - self._at_s
        self._at_s = now

    def _fill(self) -> list[str]:
        begun: list[str] = []
        while self._queued and len(self._running) < self._model.max_batch:
            ticket_id, work_s = self._queued.popleft()
            self._n_added += 1
            heappush(self._running, (self._progress_s + work_s, self._n_added, ticket_id))
            begun.append(ticket_id)
        return begun
