"""What an operator can set on the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field

from coe.service.request_limits import RequestLimits


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Limits and names of the HTTP surface."""

    model_name: str = "coe"
    """The model that routes; every other name is an expert's id."""
    max_body_bytes: int = 8 * 1024 * 1024
    request_timeout_s: float = 600.0
    """Longest that one request may take in all: arriving, routing, loading and generating."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    """How much one request may ask for."""
    needs_key: bool = False
    """Whether every request needs a key of the store's."""
    caches: bool = False
    """Whether an answer is kept and told again to the same tenant for the same request."""
