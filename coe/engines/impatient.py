"""An expert that is waited for only as long as there is time to ask another one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

from coe.engines.base import closing_stream, whole_of
from coe.engines.wrapping import WrappingEngine
from coe.errors import UpstreamTimeout
from coe.types import Delta, GenerationRequest


class ImpatientEngine(WrappingEngine):
    """Gives up after the request's `patience_s` without a first word, with `UpstreamTimeout`.

    Bytes that make no word do not count: a server that sends one now and then is as silent as one
    that hangs. Once the answer has begun it may take its time. Belongs within retries and a
    breaker, which are to hear of it, and not around an expert that has to be loaded first.
    """

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        deltas, patience_s = self.inner.stream(request), request.patience_s
        if patience_s is None or math.isinf(patience_s):
            return deltas
        return self._soon(deltas, patience_s)

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        patience_s = request.patience_s
        if patience_s is None or math.isinf(patience_s):
            return await whole_of(self.inner, request)
        try:
            async with asyncio.timeout(patience_s) as limit:
                return await whole_of(self.inner, request)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._too_late(patience_s) from None

    def _too_late(self, patience_s: float) -> UpstreamTimeout:
        return UpstreamTimeout(self.expert_id, patience_s, "first word")

    async def _soon(self, deltas: AsyncIterator[Delta], patience_s: float) -> AsyncIterator[Delta]:
        async with closing_stream(deltas):
            for delta in await self._beginning(deltas, patience_s):
                yield delta
            async for delta in deltas:
                yield delta

    async def _beginning(self, deltas: AsyncIterator[Delta], patience_s: float) -> list[Delta]:
        beginning: list[Delta] = []
        try:
            async with asyncio.timeout(patience_s) as limit:
                async for delta in deltas:
                    beginning.append(delta)
                    if delta.says_something or delta.finish_reason is not None:
                        break
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._too_late(patience_s) from None
        return beginning
