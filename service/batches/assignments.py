"""Who is to answer each request of a batch: decided before the first is asked, kept small."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from coe.routing import RoutingDecision
from coe.service.batches.answering import Asker
from coe.service.batches.lines import BatchRequest


class Assignments:
    """The decisions by custom id: experts, and one number an expert of the pool."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._composition = asker.composition
        self._experts: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._scores: dict[str, array[float]] = {}
        self._errors: dict[str, Exception] = {}

    def __len__(self) -> int:
        return len(self._experts)

    def decide(self, requests: Iterable[BatchRequest]) -> None:
        """Blocks while the router thinks."""
        for request in requests:
            try:
                decision = self._asker.decide(request)
            except Exception as error:  # noqa: BLE001 - a defect, too, is a line of its request
                self._errors[request.custom_id] = error
                self._experts[request.custom_id] = ()
                continue
            experts = self._known.setdefault(decision.experts, decision.experts)
            self._experts[request.custom_id] = experts
            if not decision.is_pinned:
                pool = self._composition.router.pool.ids
                self._scores[request.custom_id] = array("d", [decision.scores[e] for e in pool])

    def grouped(self, first: Sequence[str]) -> list[str]:
        """All custom ids, those of the same experts together; experts named first come first."""
        rank = {expert_id: i for i, expert_id in enumerate(first)}

        def key(custom_id: str) -> tuple[tuple[int, str], ...]:
            return tuple((rank.get(e, len(rank)), e) for e in self._experts[custom_id])

        return sorted(self._experts, key=key)

    def decision(self, request: BatchRequest) -> RoutingDecision | Exception:
        """What was decided, or what was raised instead."""
        custom_id, query_id = request.custom_id, request.call.generation.id
        if custom_id in self._errors:
            return self._errors[custom_id]
        experts = self._experts[custom_id]
        if custom_id not in self._scores:
            return RoutingDecision.pinned(experts[0], query_id)
        router = self._composition.router
        return RoutingDecision(query_id, experts, self._by_expert(custom_id), router.name)

    def experts(self, custom_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Of each of these; nobody where deciding failed."""
        return (self._experts[custom_id] for custom_id in custom_ids)

    def _by_expert(self, custom_id: str) -> Mapping[str, float]:
        return dict(zip(self._composition.router.pool.ids, self._scores[custom_id], strict=True))
