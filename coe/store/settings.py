"""What an operator can set on the gateway's state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coe.errors import ConfigError

FOLDER = "store"
"""Within the `state_dir` of a configuration."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where state is kept, and how much of it."""

    path: Path | None = None
    """A folder for this gateway alone; None: a temporary one, gone when the store is closed."""
    redis_url: str | None = None
    """Where replicas agree: `redis://`, `rediss://` or `unix://`. None: this is the only one."""
    redis_prefix: str = "coe:"
    redis_timeout_s: float = 0.05
    """Longest that a request waits for Redis, which is then left alone for `redis_retry_s`."""
    redis_retry_s: float = 1.0
    reservation_s: float = 900.0
    """When a reservation that was never settled is let go; longer than any request takes."""
    cache_bytes: int = 64 * MIB
    """In the memory of this process. Redis bounds its own by its `maxmemory`."""
    cache_entry_bytes: int = 4 * MIB
    """Larger responses are not cached."""
    cache_ttl_s: float = 3600.0
    decisions_rows: int = 1_000_000
    decisions_age_s: float = 30 * 86400.0
    keeps_text: bool = False
    """Whether the log of decisions keeps what was asked."""
    worker: int | None = None
    """Its place among the processes of a gateway that holds the folder for all of them, as
    `held_store` does; None: it is the only one."""

    def __post_init__(self) -> None:
        for name in (
            "redis_timeout_s",
            "redis_retry_s",
            "reservation_s",
            "cache_ttl_s",
            "decisions_rows",
            "decisions_age_s",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"must be more than 0, not {getattr(self, name)}", key=name)
        for name in ("cache_bytes", "cache_entry_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"must not be negative, not {getattr(self, name)}", key=name)


@dataclass(frozen=True, slots=True)
class SemanticSettings:
    """When a response may answer another text than the one it was given to."""

    threshold: float = 0.95
    """Least inner product of the unit vectors of both texts."""
    is_strict: bool = True
    """Whether words that only one of the texts has must be harmless, as "please" is."""
    ttl_s: float = 3600.0
    max_entries: int = 2000
    """Of each tenant."""
    max_tenants: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            problem = f"must be more than 0 and at most 1, not {self.threshold}"
            raise ConfigError(problem, key="threshold")
        for name in ("ttl_s", "max_entries", "max_tenants"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"must be more than 0, not {getattr(self, name)}", key=name)
