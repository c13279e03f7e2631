"""An expert that is waited for only as long as there is time to ask another one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from coe.engines.base import closing_stream
from coe.engines.wrapping import WrappingEngine
from coe.errors import UpstreamTimeout
from coe.types import Delta, GenerationRequest


class ImpatientEngine(WrappingEngine):
    """Gives up after the request's `patience_s` without a first word, with `UpstreamTimeout`.

    Bytes that make no word do not count: a server that sends one now and then is as silent as one
    that hangs. Once the answer has begun it may take its time. Belongs within retries and a
    breaker, which are to hear of it, and not around an expert that has to be loaded first.
    """

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        patience_s = request.patience_s
        async with closing_stream(self.inner.stream(request)) as deltas:
            if patience_s is not None and not math.isinf(patience_s):
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
            raise UpstreamTimeout(self.expert_id, patience_s, "first word") from None
        return beginning
