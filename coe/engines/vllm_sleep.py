"""Putting a vLLM server to sleep and waking it, without believing what it says of itself.

Six defects of sleep mode are known from the field. What is done about each:

1. Gibberish after level 2, unless weights are woken, reloaded, and only then the KV cache:
   that is the order here, and a canary is asked before anybody else.
2. Wrong answers out of a prefix cache from before the sleep: it is reset, and the canary's
   prompt is one that would come from it.
3. Only a part of the memory is freed: it is measured. A part is reported as residue; less than
   half is a failed sleep.
4. Host memory that is not released after waking: measured at each sleep; a server whose host
   memory grows from sleep to sleep is not put to sleep again but ended.
5. A wake-up that runs out of memory and leaks what it had mapped: any failed wake ends the
   process, and it starts anew.
6. `/sleep` answers 200 and the memory stays held: measured, as in 3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coe.engines.vllm_control import Control
from coe.engines.vllm_memory import Held
from coe.errors import EngineError, UpstreamError

_LOG = logging.getLogger(__name__)

CANARY_PROMPT = (
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen,"
)
"""Longer than a block of the prefix cache in any tokenizer."""
MOST_LEFT = 0.5
"""A sleep that leaves more than this share of the memory held has failed."""
HOST_SLACK_GIB = 0.5
HOST_GROWTH = 1.25
"""Host memory while asleep may grow by so much over that of the first sleep."""

Measure = Callable[[], Awaitable[Held]]


@dataclass(slots=True)
class Canary:
    """A few greedy tokens that must come out of every wake as they did after the start."""

    n_tokens: int
    expected: str | None = None
    """None: there is nothing to compare with."""

    async def learn(self, control: Control, timeout_s: float) -> None:
        """Warms the server up. One that does not repeat itself, or completes no text, is only
        warmed up from then on. Raises what the server's failure raises.
        """
        self.expected = None
        if self.n_tokens < 1:
            return
        try:
            first = await control.generate(CANARY_PROMPT, self.n_tokens, timeout_s)
            if self.n_tokens > 1:
                second = await control.generate(CANARY_PROMPT, self.n_tokens, timeout_s)
                self.expected = first if first == second else None
        except UpstreamError as error:
            if error.status is None or not 400 <= error.status < 500:
                raise
            _LOG.warning("%s; it is not warmed up", error)
            self.n_tokens = 0

    async def sings(self, control: Control, timeout_s: float) -> bool:
        """Whether it says what it said before; True where there is nothing to compare."""
        if self.n_tokens < 1:
            return True
        text = await control.generate(CANARY_PROMPT, self.n_tokens, timeout_s)
        return self.expected is None or text == self.expected


class Bed:
    """The sleep of one running server. Every failure is an `EngineError`: end the server then."""

    def __init__(
        self, expert_id: str, control: Control, level: int, canary: Canary, measure: Measure
    ) -> None:
        self._expert_id = expert_id
        self._control = control
        self._level = level
        self._canary = canary
        self._measure = measure
        self._host_at_first_gib: float | None = None

    async def fall_asleep(self, timeout_s: float) -> float | None:
        """GiB still held on the fullest device; None where that is not measured."""
        before = await self._measure()
        await self._control.sleep(self._level, timeout_s)
        if not await self._control.is_sleeping():
            raise EngineError(self._expert_id, "its server says that it sleeps and does not")
        after = await self._measure()
        self._check_host(after)
        if before.device_gib and after.device_gib is not None:
            self._check_freed(before.device_gib, after.device_gib)
        return after.device_gib

    async def wake(self, timeout_s: float) -> None:
        """Returns once it answers as it did before it slept."""
        until_s = asyncio.get_running_loop().time() + timeout_s

        def left_s() -> float:
            return max(0.0, until_s - asyncio.get_running_loop().time())

        control = self._control
        await control.wake_up(["weights"], left_s())
        if self._level == 2:
            await control.reload_weights(left_s())
        is_awake = await control.wake_up(["kv_cache"], left_s())
        if not is_awake or await control.is_sleeping():
            raise EngineError(self._expert_id, "its server was woken and still sleeps")
        await self._forget_prefixes()
        if await self._canary.sings(control, left_s()):
            return
        _LOG.warning("expert %r answers wrongly after waking", self._expert_id)
        if self._level == 1:
            # After level 2 they were reloaded, and doing so now would be the wrong order.
            await control.reload_weights(left_s())
        await self._forget_prefixes()
        if not await self._canary.sings(control, left_s()):
            raise EngineError(self._expert_id, "its server answers wrongly after waking")

    async def _forget_prefixes(self) -> None:
        if not await self._control.reset_prefix_cache():
            raise EngineError(self._expert_id, "its server does not reset its prefix cache")

    def _check_freed(self, before_gib: float, after_gib: float) -> None:
        if after_gib > MOST_LEFT * before_gib:
            raise EngineError(
                self._expert_id,
                f"its server sleeps and still holds {after_gib:.1f} of {before_gib:.1f} GiB",
            )

    def _check_host(self, asleep: Held) -> None:
        if asleep.host_gib is None:
            return
        if self._host_at_first_gib is None:
            self._host_at_first_gib = asleep.host_gib
        elif asleep.host_gib > HOST_GROWTH * self._host_at_first_gib + HOST_SLACK_GIB:
            raise EngineError(
                self._expert_id,
                f"its server held {self._host_at_first_gib:.1f} GiB of host memory in its first "
                f"sleep and holds {asleep.host_gib:.1f} now",
            )
