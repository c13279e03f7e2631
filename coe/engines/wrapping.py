"""What every engine around an engine hands through as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, runtime_checkable

from coe.engines.base import Engine, EngineState, listed
from coe.types import Delta, GenerationRequest


@runtime_checkable
class Wrapped(Protocol):
    """An engine around another."""

    @property
    def inner(self) -> Engine: ...


def layers(engine: Engine) -> Iterator[Engine]:
    """The engine and all that is inside it, the innermost last."""
    yield engine
    while isinstance(engine, Wrapped):
        engine = engine.inner
        yield engine


def innermost(engine: Engine) -> Engine:
    """What is asked in the end, below all that is around it."""
    *_, last = layers(engine)
    return last


def passes_bytes(engine: Engine, route: str) -> bool:
    """Whether a raw request for this route may be handed to it.

    A wrapper that has to read answers says so by meeting `PassesBytes` without any route.
    """
    layer: object = engine
    while True:
        # Asked on every request; an instance check against a protocol costs ten times as much.
        routes = getattr(layer, "raw_routes", None)
        inner = getattr(layer, "inner", None)
        if routes is not None and route not in routes:
            return False
        if inner is None:
            return routes is not None
        layer = inner


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

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """What the wrapper is there for."""
        raise NotImplementedError

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        """As `coe.engines.base.whole_of` has it."""
        return await listed(self.stream(request))

    async def ensure_ready(self, timeout_s: float) -> None:
        await self.inner.ensure_ready(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        await self.inner.stop(timeout_s)
