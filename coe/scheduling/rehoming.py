"""A new placement, thought of in a process of its own: nobody here waits for it meanwhile.

    python -m coe.scheduling.rehoming < question > answer

Both are JSON. A thread would not do: thinking is plain Python and holds the interpreter.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from coe.engines.process import child_environment
from coe.errors import CoeError
from coe.scheduling.observed import Asked, observed_demand
from coe.scheduling.placement import Home
from coe.scheduling.rebalancing import rehomed
from coe.scheduling.terms import Site, SwapCosts, Tenant

_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """What a new placement follows from."""

    site: Site
    homes: Mapping[str, Home]
    """Of those that have one so far."""
    asked: Asked
    now: float
    half_life_s: float
    horizon_s: float
    """So long demand is taken to stay as it is: a move has to gain within it what it costs."""

    def answer(self) -> dict[str, Home]:
        """The homes of all experts. Takes seconds where there are many of them."""
        known = {tenant.expert_id for tenant in self.site.tenants}
        asked = [one for one in self.asked if one[1] in known]
        demand = observed_demand(asked, self.now, self.half_life_s)
        homes = {id_: home for id_, home in self.homes.items() if id_ in known}
        return rehomed(self.site, homes, demand, self.horizon_s / 3600.0)


async def answered_elsewhere(question: Question) -> dict[str, Home]:
    """The answer, from a process of low priority that ends with this call.

    Raises `CoeError` if there is none.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        env=child_environment(os.environ, (), {"OMP_NUM_THREADS": "1"}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await process.communicate(_encoded(question))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise CoeError(f"no new placement was found: {last or 'its process was killed'}")
    return _homes(orjson.loads(said))


def _encoded(question: Question) -> bytes:
    return orjson.dumps(question, default=list)


def _decoded(raw: bytes) -> Question:
    values = orjson.loads(raw)
    asked = [(at_s, expert_id) for at_s, expert_id in values.pop("asked")]
    site, homes = _site(values.pop("site")), _homes(values.pop("homes"))
    return Question(site=site, homes=homes, asked=asked, **values)


def _site(values: dict[str, Any]) -> Site:
    tenants = tuple(_tenant(one) for one in values["tenants"])
    return Site(values["devices"], tenants, values["host_gib"])


def _tenant(values: dict[str, Any]) -> Tenant:
    shaped = {
        "placements": tuple(tuple(devices) for devices in values["placements"]),
        "costs": SwapCosts(**values["costs"]),
        "apart": frozenset(values["apart"]),
    }
    return Tenant(**{**values, **shaped})


def _homes(values: Mapping[str, Any]) -> dict[str, Home]:
    return {
        expert_id: Home(tuple(home["devices"]), home["is_kept"])
        for expert_id, home in values.items()
    }


def main() -> None:
    os.nice(_NICENESS)
    try:
        answer = _decoded(sys.stdin.buffer.read()).answer()
    except CoeError as error:
        sys.exit(str(error))
    told = {expert_id: dataclasses.asdict(home) for expert_id, home in answer.items()}
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    main()
