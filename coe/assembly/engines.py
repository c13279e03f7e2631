"""Engines and encoders from their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coe.config import Config, EncoderConfig
from coe.encoders import (
    EndpointEncoder,
    OnnxEncoder,
    SentenceTransformerEncoder,
    default_encoder,
)
from coe.encoders.static import StaticEncoder
from coe.engines.base import Engine
from coe.engines.embedder import EmbedderEngine
from coe.engines.litellm import LitellmEngine
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_lora import VllmLoraEngine
from coe.errors import ConfigError
from coe.experts import (
    EmbedderSpec,
    Expert,
    LitellmSpec,
    LocalSpec,
    OpenAISpec,
    ReplaySpec,
    VllmLoraSpec,
    VllmSpec,
)
from coe.retrieval.adapter import AdaptedEncoder, LinearAdapter
from coe.routing import Encoder


def encoder_for(config: EncoderConfig) -> Encoder:
    """The encoder a configuration names; the shipped table where it names none."""
    if config.kind == "static":
        return default_encoder() if config.model is None else StaticEncoder(Path(config.model))
    if config.kind == "endpoint":
        return EndpointEncoder(config.base_url or "", config.model or "", config.api_key_env)
    # That these kinds name a model was checked when the file was read.
    model = config.model or ""
    return OnnxEncoder(Path(model)) if config.kind == "onnx" else SentenceTransformerEncoder(model)


def engines_for(config: Config, memory: LocalMemory | None = None) -> dict[str, Engine]:
    """One engine for each expert, stopped. Local ones share the memory; None: as configured."""
    memory = memory or local_memory(config)
    engines: dict[str, Engine] = {
        expert.id: engine_for(expert, memory, config)
        for expert in config.pool
        if not isinstance(expert.engine, VllmLoraSpec)
    }
    adapters = {
        expert.id: adapter_for(expert, expert.engine, engines, config)
        for expert in config.pool
        if isinstance(expert.engine, VllmLoraSpec)
    }
    every = {**engines, **adapters}
    return {expert_id: every[expert_id] for expert_id in config.pool.ids}


def local_memory(config: Config) -> LocalMemory:
    return LocalMemory(config.local_memory_gib, config.local_threads)


def adapter_for(
    expert: Expert, spec: VllmLoraSpec, engines: Mapping[str, Engine], config: Config
) -> Engine:
    """The engine of an adapter, whose base is among the engines."""
    base = engines.get(spec.base)
    if not isinstance(base, VllmEngine):
        problem = f"{spec.base!r} is no expert of kind 'vllm', which an adapter needs as its base"
        raise _of_expert(expert, config, ConfigError(problem))
    try:
        return VllmLoraEngine(expert, base, Path(spec.path))
    except ConfigError as error:
        raise _of_expert(expert, config, error) from None


def engine_for(expert: Expert, memory: LocalMemory, config: Config) -> Engine:
    """The engine of an expert that stands alone, which an adapter does not."""
    spec, patience_s = expert.engine, config.startup_timeout_s
    if isinstance(spec, LocalSpec):
        return LocalEngine(expert, memory, patience_s)
    if isinstance(spec, OpenAISpec):
        return OpenAIEngine(expert)
    if isinstance(spec, ReplaySpec):
        return ReplayEngine(expert, patience_s)
    if isinstance(spec, EmbedderSpec):
        return EmbedderEngine(expert, lambda: embedder_for(spec, config.encoder), patience_s)
    try:
        if isinstance(spec, VllmSpec):
            return VllmEngine(expert, config.state_dir, patience_s)
        if isinstance(spec, LitellmSpec):
            return LitellmEngine(expert, startup_timeout_s=patience_s)
    except ConfigError as error:
        raise _of_expert(expert, config, error) from None
    return ScriptedEngine(expert, startup_timeout_s=patience_s)


def embedder_for(spec: EmbedderSpec, config: EncoderConfig) -> Encoder:
    """The pool's encoder, with the expert's adapter where it has one."""
    base = encoder_for(config)
    if spec.path is None:
        return base
    return AdaptedEncoder(base, LinearAdapter.load(Path(spec.path)))


def _of_expert(expert: Expert, config: Config, error: ConfigError) -> ConfigError:
    at = config.pool.ids.index(expert.id)
    return ConfigError(error.problem, file=str(config.file), key=f"experts[{at}].engine")
