"""What every engine around an engine hands through as it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coe.engines.base import Engine, EngineState, PassesBytes


@runtime_checkable
class Wrapped(Protocol):
    """An engine around another."""

    @property
    def inner(self) -> Engine: ...


def innermost(engine: Engine) -> Engine:
    """What is asked in the end, below all that is around it."""
    while isinstance(engine, Wrapped):
        engine = engine.inner
    return engine


def passes_bytes(engine: Engine, route: str) -> bool:
    """Whether a raw request for this route may be handed to it."""
    inner = innermost(engine)
    return isinstance(inner, PassesBytes) and route in inner.raw_routes


class WrappingEngine:
    """The part of a wrapper that is the inner engine's own: all but how it is asked.

    What only some engines can do (sleep, tell of a death, be placed on a device) is not handed
    through: a dispatcher wants the inner engine, and a wrapper goes around what it hosts.
    """

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    @property
    def expert_id(self) -> str:
        return self.inner.expert_id

    @property
    def state(self) -> EngineState:
        return self.inner.state

    async def ensure_ready(self, timeout_s: float) -> None:
        await self.inner.ensure_ready(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        await self.inner.stop(timeout_s)
