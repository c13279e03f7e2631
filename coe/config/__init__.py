"""`experts.yaml` → frozen domain values. Nothing is built here, only read and checked.

The file's shape is a set of pydantic models (`schema`) that forbid unknown keys; what leaves
is plain dataclasses. Every complaint is a `ConfigError` that names the file and the key, and
for an unknown key the nearest known one. Relative paths are relative to the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from coe.config.addresses import checked_url
from coe.config.complaints import config_error
from coe.config.describing import ROUTED_MODEL as ROUTED_MODEL
from coe.config.describing import expert_of, resolved
from coe.config.guarding import pool_reliability
from coe.config.reading import read_yaml
from coe.config.schema import (
    AggregatorKind,
    AggregatorModel,
    EncoderKind,
    EncoderModel,
    FileModel,
    GatewayModel,
    RouterModel,
)
from coe.errors import ConfigError, UnknownExpert
from coe.experts import ExpertPool
from coe.reliability import Reliability

CPU = "cpu"
"""The device that `local` experts are on."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which encoder turns queries into vectors."""

    kind: EncoderKind = "static"
    model: str | None = None
    """A folder, a hub name or the endpoint's model; None is the shipped one."""
    base_url: str | None = None
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """How scores become experts."""

    kind: str = "top-1"
    k: int | None = None
    """None: the kind's usual number."""
    options: Mapping[str, object] = field(default_factory=dict)
    """What only this kind understands; checked where policies are known."""


@dataclass(frozen=True, slots=True)
class AggregatorConfig:
    """How several experts' answers become one."""

    kind: AggregatorKind = "majority"
    expert: str | None = None
    """The expert that writes the one answer, where an LLM does."""
    max_chars: int = 4000
    """Most characters of each answer that another expert is shown."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Which scorer routes, where its fitted arrays lie, and under which policy."""

    scorer: str
    artifact: Path
    policy: PolicyConfig
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    outcomes: Path | None = None
    """Recorded outcomes that `coe fit` fits on where the command names none."""
    failovers: int = 2
    """How many further experts are tried where the routed one fails before its first word."""
    first_word_share: float = 0.5
    """Of the time that a client gives, how much an expert has for its first word while another one
    could be asked."""
    switch_cost: float = 0.1
    """How much better an expert must be to take a conversation over, in units of score."""
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By category, the experts that alone its queries may be routed to."""
    feedback: Path | None = None
    """Where decisions and what clients thought of them are kept; None keeps none."""


@dataclass(frozen=True, slots=True)
class SchedulingConfig:
    """When experts that do not all fit change places; `coe.scheduling.SwapRules` has the rules."""

    max_wait_s: float = 300.0
    beta: float = 20.0
    quantum_s: float = 30.0
    max_queued: int = 100_000
    rebalance_s: float | None = None
    """How often experts are given other devices by what was asked for; None: never."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What `coe serve` keeps, and whom it lets in."""

    keys: bool = False
    """Whether every request needs a key of `coe keys`."""
    cache_s: float | None = None
    """How long an answer is told again for the same request; None keeps none."""
    similar_from: float | None = None
    """From which similarity on it is told again for another ask that differs in harmless words
    alone; None: for the same words only."""
    redis_url_env: str | None = None
    """The variable that says where replicas agree on keys, budgets and limits."""
    media_hosts: tuple[str, ...] | None = None
    """Where experts may be told to fetch images from; None: anywhere on the public internet."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one `experts.yaml` says."""

    file: Path
    pool: ExpertPool
    router: RouterConfig
    encoder: EncoderConfig
    local_memory_gib: float
    """Memory that `local` experts may occupy together."""
    local_threads: int
    """Threads that `local` experts compute with on a CPU."""
    startup_timeout_s: float
    devices: Mapping[str, float] = field(default_factory=dict)
    """GiB that experts hosted here may hold on each device, besides the CPU's."""
    host_memory_gib: float = 0.0
    """Host memory for experts that are asleep."""
    state_dir: Path = Path(".coe")
    """Logs, locks and records of the processes that experts run in; for one CoE alone."""
    scheduling: SchedulingConfig = field(default_factory=SchedulingConfig)
    reliability: Reliability = field(default_factory=Reliability)
    """What experts have that others host, and the budget of retries of all."""
    trace: Path | None = None
    """Where the gateway keeps who was asked and when, and nothing else; None keeps none."""
    gateway: GatewayConfig = field(default_factory=GatewayConfig)


def load_config(path: str | Path) -> Config:
    """Reads and checks one file. Raises `ConfigError` and nothing else."""
    file = Path(path)
    try:
        parsed = FileModel.model_validate(read_yaml(file))
    except ValidationError as error:
        raise config_error(error, file) from None
    return _domain(parsed, file)


def _domain(parsed: FileModel, file: Path) -> Config:
    guards = pool_reliability(parsed.reliability, file)
    experts = tuple(expert_of(e, file, i, guards) for i, e in enumerate(parsed.experts))
    try:
        pool = ExpertPool(experts, parsed.fallback)
    except UnknownExpert as error:
        raise ConfigError(str(error), file=str(file), key="fallback") from None
    except ConfigError as error:
        raise ConfigError(error.problem, file=str(file), key=error.key) from None
    router = parsed.router
    return Config(
        file,
        pool,
        RouterConfig(
            scorer=router.scorer,
            artifact=resolved(router.artifact, file),
            policy=PolicyConfig(**router.policy.model_dump()),
            aggregator=_aggregator(router.aggregator, pool, file),
            outcomes=None if router.outcomes is None else resolved(router.outcomes, file),
            failovers=router.failovers,
            first_word_share=router.first_word_share,
            switch_cost=router.switch_cost,
            allowed=_allowed(router, pool, file),
            feedback=None if router.feedback is None else resolved(router.feedback, file),
        ),
        _encoder(parsed.encoder, file),
        parsed.local_memory_gib,
        parsed.local_threads,
        parsed.startup_timeout_s,
        _devices(parsed, file),
        parsed.host_memory_gib,
        resolved(parsed.state_dir, file),
        SchedulingConfig(**parsed.scheduling.model_dump()),
        guards,
        None if parsed.trace is None else resolved(parsed.trace, file),
        _gateway(parsed.gateway),
    )


def _aggregator(parsed: AggregatorModel, pool: ExpertPool, file: Path) -> AggregatorConfig:
    key = "router.aggregator.expert"
    if (parsed.kind == "llm") != (parsed.expert is not None):
        problem = (
            "kind 'llm' needs the id of the expert that writes the answer"
            if parsed.expert is None
            else f"only kind 'llm' is given an expert, not {parsed.kind!r}"
        )
        raise ConfigError(problem, file=str(file), key=key)
    if parsed.expert is not None:
        try:
            pool.expert(parsed.expert)
        except UnknownExpert as error:
            raise ConfigError(str(error), file=str(file), key=key) from None
    return AggregatorConfig(**parsed.model_dump())


def _allowed(parsed: RouterModel, pool: ExpertPool, file: Path) -> Mapping[str, tuple[str, ...]]:
    for category, expert_ids in parsed.allowed.items():
        try:
            pool.subset(expert_ids)
        except UnknownExpert as error:
            key = f"router.allowed.{category}"
            raise ConfigError(str(error), file=str(file), key=key) from None
    return {category: tuple(expert_ids) for category, expert_ids in parsed.allowed.items()}


def _encoder(parsed: EncoderModel, file: Path) -> EncoderConfig:
    if parsed.kind == "endpoint" and not (parsed.base_url and parsed.model):
        raise ConfigError(
            "kind 'endpoint' needs `base_url` and `model`", file=str(file), key="encoder"
        )
    if parsed.kind in ("onnx", "sentence-transformers") and parsed.model is None:
        raise ConfigError(f"kind {parsed.kind!r} needs `model`", file=str(file), key="encoder")
    if parsed.base_url is not None:
        checked_url(parsed.base_url, file, "encoder.base_url")
    model = parsed.model
    if model is not None and resolved(model, file).exists():
        model = str(resolved(model, file))
    return EncoderConfig(parsed.kind, model, parsed.base_url, parsed.api_key_env)


def _gateway(parsed: GatewayModel) -> GatewayConfig:
    hosts = parsed.media_hosts
    told = parsed.model_dump(exclude={"media_hosts"})
    return GatewayConfig(
        **told,
        media_hosts=None if hosts is None else tuple(host.strip("[]").lower() for host in hosts),
    )


def _devices(parsed: FileModel, file: Path) -> Mapping[str, float]:
    if CPU in parsed.devices:
        raise ConfigError(
            "the CPU's budget is `local_memory_gib`; leave it out here",
            file=str(file),
            key=f"devices.{CPU}",
        )
    return parsed.devices
