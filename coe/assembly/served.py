"""A pool that serves, with what it was made of and what it can be changed with."""

from __future__ import annotations

from dataclasses import dataclass, field

from coe.assembly.engines import adapter_for, engine_for
from coe.assembly.guards import Guards
from coe.composition import Composition
from coe.config import Config
from coe.engines.base import Engine
from coe.engines.local_memory import LocalMemory
from coe.experts import Expert, VllmLoraSpec
from coe.scheduling.dispatcher import Dispatcher


@dataclass(slots=True, eq=False)
class Served:
    """Belongs to the event loop that serves it."""

    config: Config
    """As the file was read last."""
    composition: Composition
    dispatcher: Dispatcher
    """The composition's, whether it hosts anybody yet or not."""
    memory: LocalMemory
    guards: Guards
    is_alone: bool = True
    """Whether no other process serves the same pool behind the same port."""
    experts: dict[str, Expert] = field(init=False)
    """All there have been, by id."""

    def __post_init__(self) -> None:
        self.experts = {expert.id: expert for expert in self.composition.pool}

    def engine(self, expert: Expert, config: Config) -> Engine:
        """A new one, stopped, with nothing around it. Raises `ConfigError`."""
        if isinstance(expert.engine, VllmLoraSpec):
            return adapter_for(expert, expert.engine, self.dispatcher.engines, config)
        return engine_for(expert, self.memory, config)
