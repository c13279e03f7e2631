"""Who can be asked: experts made ready together, before anybody is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from coe.engines.base import Engine
from coe.errors import CoeError, StartupError
from coe.experts import ExpertPool

_GRACE_S = 1.0


async def unready(
    engines: Mapping[str, Engine], pool: ExpertPool, timeout_s: float, longest_s: float
) -> dict[str, CoeError]:
    """Experts that are not ready, and why. All are waited for at once, for `timeout_s`.

    While nobody is ready it may be this machine that is slow: then for up to `longest_s`. With
    no time at all each is asked once.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    ready: set[str] = set()

    async def why(expert_id: str) -> CoeError | None:
        while True:
            tried = clock()
            error = await _why_not_ready(engines[expert_id], timeout_s)
            if error is None:
                ready.add(expert_id)
                return None
            is_final = timeout_s <= 0 or clock() - tried < timeout_s  # it gave up before its time
            if is_final or ready or clock() - started >= longest_s:
                return error
            await asyncio.sleep(0)  # an engine that fails without waiting must not hold the others

    causes = await asyncio.gather(*(why(expert_id) for expert_id in pool.ids))
    told = zip(pool.ids, causes, strict=True)
    return {expert_id: error for expert_id, error in told if error is not None}


async def _why_not_ready(engine: Engine, timeout_s: float) -> CoeError | None:
    try:
        # An engine keeps its time itself and says what it waited for; none may hold up the run.
        async with asyncio.timeout(timeout_s + _GRACE_S):
            await engine.ensure_ready(timeout_s)
    except CoeError as error:
        return error
    except TimeoutError:
        return StartupError(engine.expert_id, f"not ready within {timeout_s:g} s")
    return None
