"""A local expert's answer together with the inner experts that produced it.

The request goes through a `Batch` of its own on the engine's thread, in turns with the streams
under way, so that its text is what the engine streams. What the model's routers saw is kept at
every pass, and the inner experts are the best k of it, as the model itself takes them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from coe.engines.generation import Batch, Emission, Row
from coe.engines.local import LocalEngine
from coe.engines.routed_experts import RoutedExperts, Traced
from coe.errors import CoeError, ConfigError, UpstreamError
from coe.types import Delta, GenerationRequest, Usage

_CORRECTIONS = ("e_score_correction_bias", "expert_bias")
"""Where these are, the best k of the logits are not what the model takes."""


async def trace(engine: LocalEngine, request: GenerationRequest) -> Traced:
    """Greedy unless the request says otherwise. Raises what a stream would raise, and
    `ConfigError` for a model without inner experts.
    """
    async with engine.running() as (model, worker):
        network = _Recording(model.network, engine.expert_id)
        batch = Batch(replace(model, network=network))
        joining = [Row(request)]
        texts: list[str] = []
        usage: Usage | None = None
        while usage is None:
            for delta in _deltas(await _stepped(worker, batch, joining, engine.expert_id)):
                texts.append(delta.text)
                usage = delta.usage or usage
            joining = []
        return Traced("".join(texts), usage, network.routed_experts(), network.n_experts)


async def _stepped(
    worker: Executor, batch: Batch, joining: list[Row], expert_id: str
) -> list[Emission]:
    try:
        return await asyncio.get_running_loop().run_in_executor(worker, batch.step, joining)
    except CoeError:
        raise
    except Exception as error:
        # torch raises what it likes.
        raise UpstreamError(expert_id, f"generation failed: {error}") from error


def _deltas(emissions: list[Emission]) -> list[Delta]:
    deltas: list[Delta] = []
    for _, item in emissions:
        if isinstance(item, CoeError):
            raise item
        if item is not None:
            deltas.append(item)
    return deltas


class _Recording:
    """A network, as `PaddedCache` calls it, that keeps what its routers chose."""

    def __init__(self, network: Any, expert_id: str) -> None:
        """Raises `ConfigError` where there is nothing to choose, or it cannot be told what."""
        self.config = network.config
        self.device = network.device
        self.n_experts = 0
        self._network = network
        self._expert_id = expert_id
        self._passes: list[npt.NDArray[np.int64]] = []
        self._top_k = _top_k(network, expert_id)

    def __call__(self, **inputs: Any) -> Any:
        import torch

        output = self._network(**inputs, output_router_logits=True)
        if not getattr(output, "router_logits", None):
            raise _unreadable(self._expert_id, self.config.model_type)
        layers = []
        for logits in output.router_logits:
            flat = logits.reshape(-1, logits.shape[-1])
            # In the models' own precision, so that equals are told apart as they tell them.
            shares = torch.softmax(flat, dim=-1, dtype=torch.float32)
            layers.append(shares.topk(self._top_k, dim=-1).indices.cpu())
            self.n_experts = flat.shape[-1]
        self._passes.append(torch.stack(layers, dim=1).numpy())
        return output

    def routed_experts(self) -> RoutedExperts:
        return RoutedExperts(np.concatenate(self._passes))


def _top_k(network: Any, expert_id: str) -> int:
    config = network.config.get_text_config()
    top_k = getattr(config, "num_experts_per_tok", None)
    if not isinstance(top_k, int):
        raise ConfigError(
            f"expert {expert_id!r} has no inner experts: its model ({config.model_type}) is dense; "
            "trace an expert that is a sparse mixture, as the zoo's generalist is"
        )
    tensors = [*network.named_buffers(), *network.named_parameters()]
    if getattr(config, "topk_group", None) or any(n.endswith(_CORRECTIONS) for n, _ in tensors):
        raise _unreadable(expert_id, config.model_type)
    return top_k


def _unreadable(expert_id: str, model_type: str) -> ConfigError:
    return ConfigError(
        f"expert {expert_id!r} cannot be traced here: what its model ({model_type}) chooses among "
        "inner experts cannot be read from router logits; serve it as an expert of kind 'vllm'"
    )
