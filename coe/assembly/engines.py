"""Engines and encoders from their configuration."""

from __future__ import annotations

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
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, LocalSpec, OpenAISpec, ReplaySpec
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


def engines_for(config: Config) -> dict[str, Engine]:
    """One engine for each expert, stopped. Local ones share the configured memory."""
    memory = LocalMemory(config.local_memory_gib, config.local_threads)
    patience_s = config.startup_timeout_s
    return {expert.id: engine_for(expert, memory, patience_s) for expert in config.pool}


def engine_for(expert: Expert, memory: LocalMemory, startup_timeout_s: float) -> Engine:
    spec = expert.engine
    if isinstance(spec, LocalSpec):
        return LocalEngine(expert, memory, startup_timeout_s)
    if isinstance(spec, OpenAISpec):
        return OpenAIEngine(expert)
    if isinstance(spec, ReplaySpec):
        return ReplayEngine(expert, startup_timeout_s)
    return ScriptedEngine(expert, startup_timeout_s=startup_timeout_s)
