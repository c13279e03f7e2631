"""The shape of `experts.yaml`: pydantic models that forbid unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

AggregatorKind = Literal["majority", "weighted", "learned", "first", "chain", "llm"]
EncoderKind = Literal["static", "onnx", "sentence-transformers", "endpoint"]

_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class PriceModel(Strict):
    usd_per_mtok_in: float = Field(0.0, ge=0)
    usd_per_mtok_out: float = Field(0.0, ge=0)


class FootprintModel(Strict):
    gib: float = Field(0.0, ge=0)
    load_s: float = Field(0.0, ge=0)
    watts: float = Field(0.0, ge=0)
    asleep_gib: float | None = Field(None, ge=0)
    residue_gib: float = Field(0.0, ge=0)
    wake_s: float = Field(0.3, ge=0)
    sleep_s: float = Field(0.3, ge=0)
    service_s: float = Field(1.0, gt=0)


class HostingModel(Strict):
    devices: list[str | Annotated[list[str], Field(min_length=1)]] = Field(default_factory=list)
    pinned: bool = False
    apart: list[str] = Field(default_factory=list)
    max_in_flight: int | None = Field(None, ge=1)
    max_queued: int = Field(10_000, ge=1)


class SchedulingModel(Strict):
    max_wait_s: float = Field(300.0, gt=0)
    beta: float = Field(20.0, ge=0)
    quantum_s: float = Field(30.0, gt=0)
    max_queued: int = Field(100_000, ge=1)
    rebalance_s: float | None = Field(None, ge=1)


class RetriesModel(Strict):
    max_retries: int = Field(2, ge=0)
    first_pause_s: float = Field(0.25, ge=0)
    longest_pause_s: float = Field(10.0, ge=0)
    budget_share: float = Field(0.1, ge=0)
    budget_reserve: float = Field(10.0, ge=0)
    failover_reserve: float = Field(200.0, ge=0)


class BreakerModel(Strict):
    failure_share: float = Field(0.5, gt=0, le=1)
    least_calls: int = Field(10, ge=1)
    in_a_row: int = Field(5, ge=1)
    window_s: float = Field(30.0, gt=0)
    open_s: float = Field(5.0, gt=0)
    longest_s: float = Field(60.0, gt=0)


class ReliabilityModel(Strict):
    retries: RetriesModel | None = None
    breaker: BreakerModel | None = None

    @field_validator("retries", "breaker", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """`false` turns it off. Nothing after the colon is more likely a slip."""
        if value is None:
            raise ValueError("name its keys, or write false to turn it off")
        return None if value is False else value


class GatewayModel(Strict):
    keys: bool = False
    cache_s: float | None = Field(None, gt=0)
    similar_from: float | None = Field(None, gt=0, le=1)
    redis_url_env: str | None = Field(None, min_length=1)
    media_hosts: list[str] | None = None


class EmbedderModel(Strict):
    kind: Literal["embedder"]
    path: str | None = Field(None, min_length=1)


class LocalModel(Strict):
    kind: Literal["local"]
    path: str = Field(min_length=1)
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    max_batch: int = Field(16, ge=1, le=1024)
    batch_wait_s: float = Field(0.002, ge=0, le=1)


class OpenAIModel(Strict):
    kind: Literal["openai"]
    base_url: str = Field(pattern=r"^https?://")
    model: str | None = None
    api_key_env: str | None = None
    timeout_s: float = Field(120.0, gt=0)
    connect_timeout_s: float = Field(5.0, gt=0)


class ReplayModel(Strict):
    kind: Literal["replay"]
    path: str = Field(min_length=1)


class ScriptedModel(Strict):
    kind: Literal["scripted"]
    answers: dict[str, str] = Field(default_factory=dict)
    default: str = ""
    tokens_per_s: float = Field(0.0, ge=0)
    load_s: float = Field(0.0, ge=0)
    fail_after_tokens: int | None = Field(None, ge=0)


class VllmModel(Strict):
    kind: Literal["vllm"]
    model: str = Field(min_length=1)
    command: list[str] = Field(default_factory=lambda: ["vllm", "serve"], min_length=1)
    flags: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: list[str] = Field(default_factory=list)
    sleep_level: Literal[0, 1, 2] = 0
    port: int = Field(0, ge=0, le=65535)
    uds: bool = False
    timeout_s: float = Field(120.0, gt=0)
    drain_s: float = Field(10.0, ge=0)
    canary_tokens: int = Field(4, ge=0)


class VllmLoraModel(Strict):
    kind: Literal["vllm-lora"]
    base: str
    path: str = Field(min_length=1)


class LitellmModel(Strict):
    kind: Literal["litellm"]
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    params: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    timeout_s: float = Field(120.0, gt=0)


EngineModel = Annotated[
    EmbedderModel
    | LitellmModel
    | LocalModel
    | OpenAIModel
    | ReplayModel
    | ScriptedModel
    | VllmModel
    | VllmLoraModel,
    Field(discriminator="kind"),
]


class ExpertModel(Strict):
    id: _Id
    engine: EngineModel
    description: str = ""
    skills: list[str] = Field(default_factory=list)
    context_tokens: int = Field(4096, ge=8)
    max_tokens: int = Field(1024, ge=1)
    params_active_b: float | None = Field(None, gt=0)
    price: PriceModel | None = None
    footprint: FootprintModel = Field(default_factory=lambda: FootprintModel())
    hosting: HostingModel = Field(default_factory=lambda: HostingModel())
    reliability: ReliabilityModel = Field(default_factory=lambda: ReliabilityModel())


class EncoderModel(Strict):
    kind: EncoderKind = "static"
    model: str | None = None
    base_url: str | None = Field(None, pattern=r"^https?://")
    api_key_env: str | None = None


class PolicyModel(Strict):
    kind: str = "top-1"
    k: int | None = Field(None, ge=1)
    options: dict[str, str | int | float | bool | dict[str, str]] = Field(default_factory=dict)


class AggregatorModel(Strict):
    kind: AggregatorKind = "majority"
    expert: str | None = None
    max_chars: int = Field(4000, ge=1)


class RouterModel(Strict):
    scorer: str = "knn"
    artifact: str = "router"
    outcomes: str | None = None
    policy: PolicyModel = Field(default_factory=lambda: PolicyModel())
    aggregator: AggregatorModel = Field(default_factory=lambda: AggregatorModel())
    failovers: int = Field(2, ge=0)
    first_word_share: float = Field(0.5, gt=0, le=1)
    switch_cost: float = Field(0.1, ge=0)
    allowed: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    feedback: str | None = None

    @field_validator("aggregator", mode="before")
    @classmethod
    def _kind_alone(cls, value: object) -> object:
        """`aggregator: majority` is short for `aggregator: {kind: majority}`."""
        return {"kind": value} if isinstance(value, str) else value


class FileModel(Strict):
    experts: list[ExpertModel] = Field(min_length=1)
    fallback: str | None = None
    router: RouterModel = Field(default_factory=lambda: RouterModel())
    encoder: EncoderModel = Field(default_factory=lambda: EncoderModel())
    local_memory_gib: float = Field(2.0, gt=0)
    local_threads: int = Field(1, ge=1, le=1024)
    startup_timeout_s: float = Field(300.0, gt=0)
    devices: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    host_memory_gib: float = Field(0.0, ge=0)
    state_dir: str = ".coe"
    scheduling: SchedulingModel = Field(default_factory=lambda: SchedulingModel())
    reliability: ReliabilityModel = Field(default_factory=lambda: ReliabilityModel())
    trace: str | None = Field(None, min_length=1)
    gateway: GatewayModel = Field(default_factory=lambda: GatewayModel())


ENGINES: Mapping[str, type[Strict]] = {
    "embedder": EmbedderModel,
    "litellm": LitellmModel,
    "local": LocalModel,
    "openai": OpenAIModel,
    "replay": ReplayModel,
    "scripted": ScriptedModel,
    "vllm": VllmModel,
    "vllm-lora": VllmLoraModel,
}
PLACES: Mapping[str, type[Strict]] = {
    "experts": ExpertModel,
    "price": PriceModel,
    "footprint": FootprintModel,
    "hosting": HostingModel,
    "scheduling": SchedulingModel,
    "gateway": GatewayModel,
    "reliability": ReliabilityModel,
    "retries": RetriesModel,
    "breaker": BreakerModel,
    "router": RouterModel,
    "policy": PolicyModel,
    "aggregator": AggregatorModel,
    "encoder": EncoderModel,
}
