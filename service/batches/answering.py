"""One request of a batch: whom it is put to, and the line that comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coe.composition import Answering, Composition
from coe.engines.base import collect
from coe.errors import UpstreamError
from coe.routing import RoutingDecision
from coe.service.batches.lines import BatchRequest, check_able
from coe.service.batches.written import answer_line
from coe.service.visit import Receipt
from coe.types import Completion, Delta


class Asker:
    """Puts requests to the experts of a composition."""

    def __init__(self, composition: Composition, routed_model: str) -> None:
        self.composition = composition
        self.routed_model = routed_model

    def decide(self, request: BatchRequest) -> RoutingDecision:
        """Blocks while the router thinks. Raises what the gateway would answer with."""
        call = request.call
        check_able(call, self.routed_model, self.composition.passing)
        pinned = None if call.model == self.routed_model else call.model
        return self.composition.decide(call.generation, pinned, request.wish)

    async def line(
        self, request: BatchRequest, decision: RoutingDecision, receipt: Receipt | None = None
    ) -> bytes:
        """The answer's line. Raises what `Composition.answering` raises.

        `receipt` is told what came of it, as far as it has come.
        """
        receipt = receipt or Receipt()
        receipt.experts, receipt.router = decision.experts, decision.router
        generation = request.call.generation
        async with self.composition.answering(generation, decision, request.wish) as answer:
            experts = receipt.experts = answer.decision.experts
            receipt.has_begun, receipt.shares = True, answer.shares
            whole = await _whole(answer, receipt)
        model = experts[0] if len(experts) == 1 else self.routed_model
        body = request.telling.whole(whole, request.request_id, model)
        told = {"experts": experts, "router": answer.decision.router}
        try:
            return answer_line(request, body, told)
        except ValueError:
            raise UpstreamError(experts[0], "its answer is not a JSON object") from None


async def _whole(answer: Answering, receipt: Receipt) -> bytes | Completion:
    """The expert's own response where it is passed on, else what was said."""
    deltas = answer.deltas
    first = await anext(deltas)
    if not first.raw:
        said = await collect(answer.decision.experts[0], _after(first, deltas))
        receipt.usage = said.usage
        return said
    async for delta in deltas:
        receipt.usage = delta.usage or receipt.usage
    return first.raw


async def _after(first: Delta, deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in deltas:
        yield delta
