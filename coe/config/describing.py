"""One expert: from what the file says to the domain's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from coe.config.addresses import checked_url
from coe.config.complaints import config_error
from coe.config.guarding import expert_reliability
from coe.config.schema import (
    EmbedderModel,
    EngineModel,
    ExpertModel,
    FileModel,
    HostingModel,
    LitellmModel,
    OpenAIModel,
    ReplayModel,
    ScriptedModel,
    VllmLoraModel,
    VllmModel,
)
from coe.errors import ConfigError
from coe.experts import (
    EmbedderSpec,
    EngineSpec,
    Expert,
    Footprint,
    Hosting,
    LitellmSpec,
    LocalSpec,
    OpenAISpec,
    Price,
    ReplaySpec,
    ScriptedSpec,
    VllmLoraSpec,
    VllmSpec,
)
from coe.reliability import Reliability

ROUTED_MODEL = "coe"
"""What a client asks for to be routed; no expert may be called so."""


_KINDS: Mapping[type[EngineSpec], str] = {
    EmbedderSpec: "embedder",
    LitellmSpec: "litellm",
    LocalSpec: "local",
    OpenAISpec: "openai",
    ReplaySpec: "replay",
    ScriptedSpec: "scripted",
    VllmLoraSpec: "vllm-lora",
    VllmSpec: "vllm",
}


def read_expert(given: Mapping[str, object], file: Path, guards: Reliability) -> Expert:
    """One expert as it would stand under `experts` in the file, for a pool that serves already.

    Raises `ConfigError`, which names the key within the expert alone.
    """
    try:
        parsed = FileModel.model_validate({"experts": [given]})
        return expert_of(parsed.experts[0], file, 0, guards)
    except ValidationError as error:
        complaint = config_error(error, file)
    except ConfigError as error:
        complaint = error
    key = (complaint.key or "").removeprefix("experts[0]").removeprefix(".")
    raise ConfigError(complaint.problem, key=key or None)


def kind_of(spec: EngineSpec) -> str:
    """The `kind` that a file names it by."""
    return _KINDS[type(spec)]


def expert_of(parsed: ExpertModel, file: Path, index: int, guards: Reliability) -> Expert:
    if parsed.id == ROUTED_MODEL:
        raise ConfigError(
            f"{ROUTED_MODEL!r} is the model name that routes; give the expert another id",
            file=str(file),
            key=f"experts[{index}].id",
        )
    if parsed.max_tokens >= parsed.context_tokens:
        raise ConfigError(
            f"{parsed.max_tokens} leaves no room for a prompt in a context of "
            f"{parsed.context_tokens} tokens",
            file=str(file),
            key=f"experts[{index}].max_tokens",
        )
    engine = _engine(parsed.engine, file, f"experts[{index}].engine")
    # One whose memory is counted here waits for its turn, whoever started it.
    is_remote = isinstance(engine, OpenAISpec | LitellmSpec) and not parsed.footprint.gib
    key = f"experts[{index}].reliability"
    return Expert(
        id=parsed.id,
        engine=engine,
        description=parsed.description,
        skills=tuple(parsed.skills),
        context_tokens=parsed.context_tokens,
        max_tokens=parsed.max_tokens,
        params_active_b=parsed.params_active_b,
        price=None if parsed.price is None else Price(**parsed.price.model_dump()),
        footprint=Footprint(**parsed.footprint.model_dump()),
        hosting=_hosting(parsed.hosting),
        reliability=expert_reliability(parsed.reliability, guards, is_remote, file, key),
    )


def _hosting(parsed: HostingModel) -> Hosting:
    places = tuple((p,) if isinstance(p, str) else tuple(p) for p in parsed.devices)
    told = parsed.model_dump(exclude={"devices", "apart"})
    return Hosting(devices=places, apart=tuple(parsed.apart), **told)


def _engine(parsed: EngineModel, file: Path, key: str) -> EngineSpec:
    values = parsed.model_dump(exclude={"kind"})
    if isinstance(parsed, VllmModel):
        # A folder if there is one of that name beside the file, else a name on the hub.
        here = resolved(parsed.model, file)
        told = {"command": tuple(parsed.command), "pass_env": tuple(parsed.pass_env)}
        return VllmSpec(**{**values, **told, "model": str(here) if here.exists() else parsed.model})
    if isinstance(parsed, OpenAIModel):
        checked_url(parsed.base_url, file, f"{key}.base_url")
        return OpenAISpec(**values)
    if isinstance(parsed, LitellmModel):
        return LitellmSpec(**values)
    if isinstance(parsed, ScriptedModel):
        return ScriptedSpec(**values)
    if parsed.path is None:
        return EmbedderSpec()
    path = resolved(parsed.path, file)
    if not path.exists():
        raise ConfigError(f"no such file or folder: {path}", file=str(file), key=f"{key}.path")
    if isinstance(parsed, ReplayModel):
        return ReplaySpec(str(path))
    if isinstance(parsed, EmbedderModel):
        return EmbedderSpec(str(path))
    if isinstance(parsed, VllmLoraModel):
        return VllmLoraSpec(parsed.base, str(path))
    return replace(LocalSpec(**values), path=str(path))


def resolved(path: str, file: Path) -> Path:
    try:
        return (file.parent / Path(path).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{path!r} is no usable path: {error}", file=str(file)) from None
