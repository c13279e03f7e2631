"""Experts and pools: what is known of a model before it is asked anything.

Values only. How an engine is built from its spec is decided in `coe.assembly`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from coe.errors import ConfigError, UnknownExpert
from coe.reliability import UNGUARDED, Reliability


@dataclass(frozen=True, slots=True)
class Price:
    """What one expert charges, in US dollars per million tokens."""

    usd_per_mtok_in: float = 0.0
    usd_per_mtok_out: float = 0.0

    def cost_usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        per_mtok = prompt_tokens * self.usd_per_mtok_in + completion_tokens * self.usd_per_mtok_out
        return per_mtok / 1_000_000


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one expert occupies while it is resident."""

    gib: float = 0.0
    """Memory on its device, GiB; on each of them where it spans several."""
    load_s: float = 0.0
    """Seconds from asked for to ready, when cold."""
    watts: float = 0.0
    """Draw while generating; 0 means not known."""
    asleep_gib: float | None = None
    """Host memory it takes while asleep; None means that it cannot sleep."""
    residue_gib: float = 0.0
    """What stays on each device while it is asleep."""
    wake_s: float = 0.3
    """Seconds from asleep to ready."""
    sleep_s: float = 0.3
    """Seconds to fall asleep."""
    service_s: float = 1.0
    """Seconds of one request, until it is measured."""


@dataclass(frozen=True, slots=True)
class Hosting:
    """How an expert shares the memory of this machine with others."""

    devices: tuple[tuple[str, ...], ...] = ()
    """Where it may be, best first; it spans a place of several devices. Empty: any single one."""
    pinned: bool = False
    """Loaded when serving starts and never taken off its device."""
    apart: tuple[str, ...] = ()
    """Groups it belongs to; two of one group are never on devices together."""
    max_in_flight: int | None = None
    """Requests it answers at once; None: as many as its engine likes."""
    max_queued: int = 10_000
    """Requests that may wait for it; more are refused."""


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """A Hugging Face model directory, run in this process by transformers."""

    path: str
    device: str = "cpu"
    dtype: str = "float32"
    max_batch: int = 16
    """Most requests that generate together."""
    batch_wait_s: float = 0.002
    """How long a first request waits for company."""


@dataclass(frozen=True, slots=True)
class OpenAISpec:
    """Any OpenAI-compatible endpoint."""

    base_url: str
    """Up to and including `/v1`."""
    model: str | None = None
    """The name the endpoint knows it by; None means the expert's id."""
    api_key_env: str | None = None
    """Environment variable that holds the key. Keys are never written in the file."""
    timeout_s: float = 120.0
    """Longest silence between two bytes of an answer."""
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ReplaySpec:
    """Recorded answers: a JSON-lines file of `{"id" or "prompt", "completion", …}`."""

    path: str


@dataclass(frozen=True, slots=True)
class ScriptedSpec:
    """The shipped fake: answers from a table of regular expressions, for tests and demos."""

    answers: Mapping[str, str] = field(default_factory=dict)
    """Pattern searched in the last message → answer, `\\1` and so on filled in; first hit wins."""
    default: str = ""
    """The answer where no pattern is found."""
    tokens_per_s: float = 0.0
    """Speed of the fake; 0 is instant."""
    load_s: float = 0.0
    fail_after_tokens: int | None = None
    """Die mid-stream after so many tokens; None never does."""


FlagValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class VllmSpec:
    """A vLLM server that CoE starts, puts to sleep and stops itself."""

    model: str
    """A model directory, or the name of one on the hub."""
    command: tuple[str, ...] = ("vllm", "serve")
    """What starts the server, as it would be typed; never read by a shell."""
    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    """vLLM's own options without their dashes. True is a switch, False its `--no-` form; None
    leaves the option out."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the server, beside those it inherits."""
    pass_env: tuple[str, ...] = ()
    """Variables that look like secrets and are handed on all the same, such as HF_TOKEN."""
    sleep_level: int = 0
    """1 keeps the weights in host memory while asleep, 2 reads them anew; 0: it is stopped and
    started instead, which is all there is on a CPU."""
    port: int = 0
    """On loopback; 0 takes any that is free."""
    uds: bool = False
    """Talk over a Unix socket in the state folder instead of a port."""
    timeout_s: float = 120.0
    """Longest silence between two bytes of an answer."""
    drain_s: float = 10.0
    """How long a stop waits for the answers under way before it cuts them off."""
    canary_tokens: int = 4
    """Tokens generated after every start and wake, and compared with those of the first start;
    1 only warms up, 0 does nothing."""


@dataclass(frozen=True, slots=True)
class VllmLoraSpec:
    """A LoRA adapter on an expert of kind `vllm`: it takes no memory of its own."""

    base: str
    """The expert it is an adapter on, of kind `vllm` and with `enable-lora` among its flags."""
    path: str
    """The adapter's folder."""


@dataclass(frozen=True, slots=True)
class LitellmSpec:
    """An expert of any hosted provider that litellm knows."""

    model: str
    """As litellm names it: `provider/name`."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None leaves it to litellm to know the
    provider's usual one. Keys are never written in the file."""
    params: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """What else `litellm.acompletion` is given, such as `api_base` or `drop_params`."""
    timeout_s: float = 120.0
    """Longest silence between two pieces of an answer."""


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """An encoder of this process that answers `/v1/embeddings`, for queries of one domain."""

    path: str | None = None
    """The folder of its adapter on the pool's encoder; None is that encoder as it is."""


EngineSpec = (
    EmbedderSpec
    | LitellmSpec
    | LocalSpec
    | OpenAISpec
    | ReplaySpec
    | ScriptedSpec
    | VllmSpec
    | VllmLoraSpec
)


@dataclass(frozen=True, slots=True)
class Expert:
    """A model with its engine, limits and price."""

    id: str
    engine: EngineSpec
    description: str = ""
    skills: tuple[str, ...] = ()
    context_tokens: int = 4096
    """Prompt and answer together."""
    max_tokens: int = 1024
    """Most tokens generated where the request names no number."""
    params_active_b: float | None = None
    """Parameters used per token, in billions; None means not known."""
    price: Price | None = None
    """None means not known, which is not the same as free."""
    footprint: Footprint = field(default_factory=Footprint)
    hosting: Hosting = field(default_factory=Hosting)
    reliability: Reliability = UNGUARDED


@dataclass(frozen=True, slots=True)
class ExpertPool:
    """The ordered set a router chooses from. Ids are unique and it is never empty."""

    experts: tuple[Expert, ...]
    fallback_id: str | None = None
    """The expert for queries no router is sure of; None means the pool has none."""
    ids: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(expert.id for expert in self.experts))
        if not self.experts:
            raise ConfigError("a pool needs at least one expert", key="experts")
        seen: set[str] = set()
        for expert in self.experts:
            if expert.id in seen:
                raise ConfigError(
                    f"duplicate expert id {expert.id!r}; ids must be unique", key="experts"
                )
            seen.add(expert.id)
        if self.fallback_id is not None and self.fallback_id not in seen:
            raise UnknownExpert(self.fallback_id, self.ids)

    @property
    def embedders(self) -> tuple[str, ...]:
        """Those that turn text into vectors and write none."""
        return tuple(e.id for e in self.experts if isinstance(e.engine, EmbedderSpec))

    def expert(self, expert_id: str) -> Expert:
        """The expert of that id; raises `UnknownExpert` naming the nearest one."""
        for expert in self.experts:
            if expert.id == expert_id:
                return expert
        raise UnknownExpert(expert_id, self.ids)

    def subset(self, expert_ids: Sequence[str]) -> ExpertPool:
        """The named experts, in this pool's order."""
        wanted = {self.expert(expert_id).id for expert_id in expert_ids}
        kept = tuple(expert for expert in self.experts if expert.id in wanted)
        return ExpertPool(kept, self.fallback_id if self.fallback_id in wanted else None)

    def __len__(self) -> int:
        return len(self.experts)

    def __iter__(self) -> Iterator[Expert]:
        return iter(self.experts)
