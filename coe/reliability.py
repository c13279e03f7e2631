"""What is done about an expert that fails: rules as values, whoever acts on them.

`coe.engines.retrying` and `coe.engines.breaker` act on them; the file's section `reliability`
sets them, and wrong values are told there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often and how soon a failed request is tried again."""

    max_retries: int = 2
    """For one request."""
    first_pause_s: float = 0.25
    """Longest pause before the first retry; it doubles with each further one."""
    longest_pause_s: float = 10.0
    """An expert that asks to be left alone for longer, or was silent for longer, is not asked
    again."""
    budget_share: float = 0.1
    """Retries for each request, in the long run."""
    budget_reserve: float = 10.0
    """Retries that may be made at once after a calm."""
    failover_reserve: float = 200.0
    """Failovers that may be made at once besides: all that waited for one expert as it fell
    silent. In the long run they are within the share, together with retries."""

    def __post_init__(self) -> None:
        reserve = min(self.budget_reserve, self.failover_reserve)
        if self.max_retries < 0 or self.budget_share < 0 or reserve < 0:
            raise ConfigError("retries, their share and the reserves cannot be negative")
        if not 0 <= self.first_pause_s <= self.longest_pause_s:
            raise ConfigError("first_pause_s must be between 0 and longest_pause_s")


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """How much has to fail, and for how long an expert is left alone then."""

    failure_share: float = 0.5
    least_calls: int = 10
    """Of a share of fewer than these nothing is concluded."""
    in_a_row: int = 5
    """So many failures with no answer between them are enough, however good it was before."""
    window_s: float = 30.0
    open_s: float = 5.0
    longest_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.failure_share <= 1:
            raise ConfigError("failure_share must be above 0 and at most 1")
        if min(self.least_calls, self.in_a_row) < 1 or self.window_s <= 0:
            raise ConfigError("least_calls and in_a_row must be at least 1 and window_s above 0")
        if not 0 < self.open_s <= self.longest_s:
            raise ConfigError("open_s must be above 0 and at most longest_s")


@dataclass(frozen=True, slots=True)
class Reliability:
    """What stands between one expert and those who ask it. None: nothing does."""

    retries: RetryRules | None = field(default_factory=RetryRules)
    breaker: BreakerRules | None = field(default_factory=BreakerRules)


UNGUARDED = Reliability(None, None)
