"""Requests as they come over the wire → the core's own words.

Strict where the answer depends on it. Fields that would change the answer and that no engine
honours yet are refused by name unless they say what holds anyway; what cannot change it
(`user`, `metadata`, `store` and whatever else is not named here) is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Invalid
from pydantic_core import PydanticCustomError

from coe.service.complaints import complaint, json_object
from coe.service.control import MOST_EXPERTS, MOST_URGENT, UNSAID, Control
from coe.service.errors import InvalidRequest
from coe.service.unsupported import refuse_unsupported
from coe.types import GenerationRequest, Message, Role, SamplingParams

_MAX_MODEL_CHARS = 256
_MAX_KEY_CHARS = 256
COMPLETION_PREFIX = "chatcmpl-"
"""A completion's id is its decision's, after this."""
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One chat request, checked."""

    model: str
    generation: GenerationRequest
    is_streamed: bool
    wants_usage: bool
    """Whether a stream ends with a chunk of token counts."""
    control: Control = UNSAID
    complaint: InvalidRequest | None = None
    """Why only an expert that passes bytes through can answer; None: everybody can."""

    @property
    def timeout_s(self) -> float | None:
        """Longest that the client waits for the whole answer, from the arrival of its request."""
        return self.control.timeout_s


def _joined(content: object) -> object:
    """Text parts become one text, put together without a separator."""
    if not isinstance(content, list):
        return content
    if not content:
        raise PydanticCustomError("invalid_value", "a list of parts needs at least one")
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise PydanticCustomError(
                "unsupported_value",
                "part {index} is not of type 'text'; experts read text only",
                {"index": index},
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError(
                "invalid_type", "part {index} needs a string as `text`", {"index": index}
            )
        texts.append(part["text"])
    return "".join(texts)


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Message(_Wire):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]


class _StreamOptions(_Wire):
    include_usage: bool | None = None


class _Control(BaseModel):
    # Ours and not the protocol's: whoever writes it means it, so that nothing in it goes unread.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    priority: int | None = Field(None, ge=-MOST_URGENT, le=MOST_URGENT)
    timeout_s: float | None = Field(None, gt=0)
    experts: list[str] | None = Field(None, min_length=1, max_length=MOST_EXPERTS)
    policy: str | None = Field(None, min_length=1, max_length=256)
    affinity: str | None = Field(None, min_length=1, max_length=_MAX_KEY_CHARS)
    cache: Literal["use", "skip"] | None = None
    progress: bool | None = None

    def control(self) -> Control:
        experts = None if self.experts is None else tuple(dict.fromkeys(self.experts))
        skips = None if self.cache is None else self.cache == "skip"
        return Control(
            self.priority,
            self.timeout_s,
            experts,
            self.policy,
            self.affinity,
            skips,
            self.progress,
        )


_Stops = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=4)]


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class _AnyMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None


class _Fields(_Wire):
    model: str = Field(min_length=1, max_length=_MAX_MODEL_CHARS)
    # An absent temperature is greedy, unlike OpenAI's 1: answers repeat unless asked not to.
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Annotated[_Stops | None, BeforeValidator(_as_list)] = None
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    prompt_cache_key: str | None = Field(None, min_length=1, max_length=_MAX_KEY_CHARS)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    coe: _Control | None = None

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )


class _ChatRequest(_Fields):
    messages: list[_AnyMessage] = Field(min_length=1)


class _PlainRequest(_Fields):
    messages: list[_Message] = Field(min_length=1)


def read_chat(body: bytes, control: Control = UNSAID) -> ChatCall:
    """A request that any expert can answer, in text alone.

    Raises `InvalidRequest`, which names the field that is wrong, and nothing else. `control`: what
    holds where the body does not say.
    """
    checked = checked_fields(json_object(body), control)
    if checked.complaint is not None:
        raise checked.complaint
    return checked.call(
        GenerationRequest(
            checked.messages, checked.params, session=checked.session, priority=checked.priority
        )
    )


@dataclass(frozen=True, slots=True)
class CheckedFields:
    """What a chat body says, as far as all experts take it alike."""

    model: str
    params: SamplingParams
    messages: tuple[Message, ...]
    """None where there is a complaint."""
    session: str | None
    """As the client names it."""
    control: Control
    complaint: InvalidRequest | None
    """Why only an expert's own server can answer."""
    is_streamed: bool
    wants_usage: bool

    @property
    def priority(self) -> int:
        return self.control.priority or 0

    def call(self, generation: GenerationRequest) -> ChatCall:
        return ChatCall(
            self.model,
            generation,
            self.is_streamed,
            self.wants_usage,
            self.control,
            self.complaint,
        )


def checked_fields(raw: Mapping[str, Any], control: Control = UNSAID) -> CheckedFields:
    """Raises `InvalidRequest` for what no expert could take."""
    reason = _unsupported(raw)
    request: _ChatRequest | _PlainRequest
    try:
        request = _PlainRequest.model_validate(raw)
    except Invalid as error:
        request = _validated(_ChatRequest, raw)
        reason = reason or complaint(error, _Control.model_fields)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "stream_options is only allowed together with stream=true", param="stream_options"
        )
    if request.coe is not None:
        control = request.coe.control().over(control)
    messages: tuple[Message, ...] = ()
    if isinstance(request, _PlainRequest) and reason is None:
        messages = tuple(Message(_role(said.role), said.content) for said in request.messages)
    return CheckedFields(
        request.model,
        request.sampling(),
        messages,
        control.affinity or request.prompt_cache_key,
        control,
        reason,
        bool(request.stream),
        request.stream_options is not None and bool(request.stream_options.include_usage),
    )


def _unsupported(raw: Mapping[str, Any]) -> InvalidRequest | None:
    try:
        refuse_unsupported(raw)
    except InvalidRequest as error:
        return error
    return None


_Read = TypeVar("_Read", bound=BaseModel)


def _validated(model: type[_Read], raw: Mapping[str, Any]) -> _Read:
    try:
        return model.model_validate(raw)
    except Invalid as error:
        raise complaint(error, _Control.model_fields) from None


def _role(wire_role: Literal["system", "developer", "user", "assistant"]) -> Role:
    return "system" if wire_role == "developer" else wire_role
