from __future__ import annotations

import asyncio

from coe.engines.scripted import ScriptedEngine
from coe.errors import StartupError
from coe.eval.readiness import unready
from coe.experts import Expert, ExpertPool, ScriptedSpec

SUMS = Expert("sums", ScriptedSpec({"one": "two"}))


class Unstartable(ScriptedEngine):
    """Says at once that it never will be ready."""

    async def ensure_ready(self, timeout_s: float) -> None:
        raise StartupError(self.expert_id, "no such model")


async def test_experts_are_waited_for_together_and_those_not_ready_are_named() -> None:
    """Each of the two slow ones is ready only once the other was asked, too."""
    asked = asyncio.Event()

    class First(ScriptedEngine):
        async def ensure_ready(self, timeout_s: float) -> None:
            await asked.wait()

    class Second(ScriptedEngine):
        async def ensure_ready(self, timeout_s: float) -> None:
            asked.set()

    class Never(ScriptedEngine):
        async def ensure_ready(self, timeout_s: float) -> None:
            await asyncio.sleep(timeout_s)
            raise StartupError(self.expert_id, f"nothing listens, after {timeout_s:g} s")

    experts = [Expert(id_, ScriptedSpec()) for id_ in ("first", "second", "never", "broken")]
    kinds = (First, Second, Never, Unstartable)
    engines = {e.id: kind(e) for e, kind in zip(experts, kinds, strict=True)}
    left_out = await unready(engines, ExpertPool(tuple(experts)), 0.02, 600.0)
    assert {id_: str(error) for id_, error in left_out.items()} == {
        "never": "expert 'never': nothing listens, after 0.02 s",
        "broken": "expert 'broken': no such model",
    }


async def test_while_nobody_is_ready_the_wait_goes_on() -> None:
    class Slow(ScriptedEngine):
        tries = 0

        async def ensure_ready(self, timeout_s: float) -> None:
            self.tries += 1
            if self.tries < 3:
                await asyncio.sleep(timeout_s)
                raise StartupError(self.expert_id, "not yet")

    pool = ExpertPool((SUMS,))
    engine = Slow(SUMS)
    assert await unready({"sums": engine}, pool, 0.01, 600.0) == {}
    assert engine.tries == 3
    assert list(await unready({"sums": Slow(SUMS)}, pool, 0.01, 0.0)) == ["sums"]


async def test_without_any_time_each_expert_is_asked_once() -> None:
    """One that fails without waiting does not keep the loop from the others."""

    class Refusing(ScriptedEngine):
        tries = 0

        async def ensure_ready(self, timeout_s: float) -> None:
            self.tries += 1
            if self.tries > 3:
                raise AssertionError("asked again and again")
            raise StartupError(self.expert_id, "not ready")

    engines = {id_: Refusing(Expert(id_, ScriptedSpec())) for id_ in ("first", "second")}
    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in engines))
    assert set(await unready(engines, pool, 0.0, 600.0)) == {"first", "second"}
    assert [engine.tries for engine in engines.values()] == [1, 1]


async def test_expert_that_takes_its_time_without_waiting_leaves_the_loop_to_others() -> None:
    clock = asyncio.get_running_loop().time

    class Blocking(ScriptedEngine):
        tries = 0

        async def ensure_ready(self, timeout_s: float) -> None:
            self.tries += 1
            if self.tries > 50:
                raise AssertionError("the others were never asked")
            until = clock() + timeout_s
            while clock() < until:
                pass
            raise StartupError(self.expert_id, "not yet")

    expert = Expert("blocking", ScriptedSpec())
    engines = {"blocking": Blocking(expert), "sums": ScriptedEngine(SUMS)}
    left_out = await unready(engines, ExpertPool((expert, SUMS)), 0.002, 600.0)
    assert list(left_out) == ["blocking"]
