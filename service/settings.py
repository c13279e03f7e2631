"""What an operator can set on the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from coe.service.batches.settings import BatchSettings
from coe.service.request_limits import RequestLimits


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Limits and names of the HTTP surface."""

    model_name: str = "coe"
    """The model that routes; every other name is an expert's id."""
    max_body_bytes: int = 8 * 1024 * 1024
    request_timeout_s: float = 600.0
    """Longest that one request may take in all: arriving, routing, loading and generating."""
    max_in_flight: int = 10_000
    """Requests that one gateway process has under way at once; others are refused unread."""
    longest_lag_s: float = 0.02
    """Work that may stand in line for the process before it refuses more, in seconds of its own
    processor time.
    """
    limits: RequestLimits = field(default_factory=RequestLimits)
    """How much one request may ask for."""
    needs_key: bool = False
    """Whether every request needs a key of the store's."""
    caches: bool = False
    """Whether an answer is kept and told again to the same tenant for the same request."""
    batches: BatchSettings = field(default_factory=BatchSettings)
    """How much of files and batches is taken on, where there is a store."""
