"""What can be made to go wrong with a fake vLLM."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from coe.errors import ConfigError, nearest

ALWAYS = -1


class Fault(Enum):
    """The first eleven are the field defects of sleep mode and kin to them."""

    PARTIAL_FREE = "partial-free"
    """A sleep frees a part of the memory only."""
    HELD = "held"
    """`/sleep` answers 200 and everything stays held."""
    SLEEP_LIES = "sleep-lies"
    """`/sleep` answers 200 and the server stays awake, as builds for CPUs do."""
    HOST_LEAK = "host-leak"
    """Waking does not release the host memory of the sleep."""
    WAKE_OOM = "wake-oom"
    """`/wake_up` runs out of memory and leaks what it had mapped."""
    WAKE_PARTIAL = "wake-partial"
    """`/wake_up` answers 200 and says that it still sleeps."""
    WRONG_WEIGHTS = "wrong-weights"
    """Weights come back as gibberish, until they are reloaded."""
    RELOAD_LIES = "reload-lies"
    """A reload answers 200 and does nothing."""
    RESET_LIES = "reset-lies"
    """A reset of the prefix cache answers 200 and does nothing."""
    RESET_REFUSED = "reset-refused"
    SLEEP_ERROR = "sleep-error"
    SLEEP_HANG = "sleep-hang"
    CRASH_AT_START = "crash-at-start"
    HANG_AT_START = "hang-at-start"
    CRASH_ON_SLEEP = "crash-on-sleep"
    CRASH_ON_WAKE = "crash-on-wake"
    HANG_ON_WAKE = "hang-on-wake"
    CRASH_MID_STREAM = "crash-mid-stream"
    HANG_MID_STREAM = "hang-mid-stream"
    SLOW_HEALTH = "slow-health"
    OVERLOAD = "overload"
    """Requests are answered with status 503."""


class Faults:
    """How often each is still to happen."""

    def __init__(self, times: Counter[Fault] | None = None) -> None:
        self._times: Counter[Fault] = times or Counter()

    def set(self, fault: Fault, times: int = 1) -> None:
        """`times` may be `ALWAYS`; 0 takes it away."""
        self._times[fault] = times

    def clear(self) -> None:
        self._times.clear()

    def take(self, fault: Fault) -> bool:
        """Whether it happens now."""
        times = self._times[fault]
        if times > 0:
            self._times[fault] -= 1
        return times != 0

    @classmethod
    def parse(cls, words: list[str]) -> Faults:
        """From `name`, `name:3` and `name:always`. Raises `ConfigError`."""
        faults = cls()
        for word in words:
            name, _, times = word.partition(":")
            try:
                faults.set(Fault(name), ALWAYS if times == "always" else int(times or 1))
            except ValueError:
                known = [fault.value for fault in Fault]
                guess = nearest(name, known)
                hint = f"; did you mean {guess!r}?" if guess and guess != name else ""
                raise ConfigError(
                    f"no fault {word!r}; give name, name:times or name:always{hint}"
                ) from None
        return faults
