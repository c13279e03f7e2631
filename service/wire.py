"""Requests as they come over the wire → the core's own words.

Strict where the answer depends on it. Fields that would change the answer and that no engine
honours yet are refused by name unless they say what holds anyway; what cannot change it
(`user`, `metadata`, `store` and whatever else is not named here) is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Invalid
from pydantic_core import PydanticCustomError

from coe.errors import nearest
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

    def control(self) -> Control:
        experts = None if self.experts is None else tuple(dict.fromkeys(self.experts))
        skips = None if self.cache is None else self.cache == "skip"
        return Control(self.priority, self.timeout_s, experts, self.policy, self.affinity, skips)


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
    call = read_fields(_json_object(body), control)
    if call.complaint is not None:
        raise call.complaint
    return call


def read_fields(raw: Mapping[str, Any], control: Control = UNSAID) -> ChatCall:
    """The same of a body, where only an expert's own server may be able to answer.

    The call says so by its complaint, and has no messages then. Raises `InvalidRequest`.
    """
    complaint = _unsupported(raw)
    request: _ChatRequest | _PlainRequest
    try:
        request = _PlainRequest.model_validate(raw)
    except Invalid as error:
        request = _validated(_ChatRequest, raw)
        complaint = complaint or _complaint(error)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "stream_options is only allowed together with stream=true", param="stream_options"
        )
    options = request.stream_options or _StreamOptions()
    if request.coe is not None:
        control = request.coe.control().over(control)
    messages: tuple[Message, ...] = ()
    if isinstance(request, _PlainRequest) and complaint is None:
        messages = tuple(Message(_role(said.role), said.content) for said in request.messages)
    session = control.affinity or request.prompt_cache_key
    return ChatCall(
        model=request.model,
        generation=GenerationRequest(
            messages, request.sampling(), session=session, priority=control.priority or 0
        ),
        is_streamed=bool(request.stream),
        wants_usage=bool(options.include_usage),
        control=control,
        complaint=complaint,
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
        raise _complaint(error) from None


@dataclass(frozen=True, slots=True)
class FeedbackCall:
    """What a client says of one answer, checked."""

    decision_id: str
    score: float
    """0 to 1."""
    expert_id: str | None


class _FeedbackRequest(BaseModel):
    # Unlike a chat request, nothing that is sent goes unread: a comment has no place in a fit.
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    decision_id: str = Field(min_length=1, max_length=_MAX_MODEL_CHARS)
    thumb: Literal["up", "down"] | None = None
    score: float | None = Field(None, ge=0, le=1)
    expert: str | None = Field(None, min_length=1, max_length=_MAX_MODEL_CHARS)


def read_feedback_call(body: bytes) -> FeedbackCall:
    """Raises `InvalidRequest`, which names the field that is wrong, and nothing else.

    The id of a chat completion does for the id of its decision.
    """
    try:
        request = _FeedbackRequest.model_validate(_json_object(body))
    except Invalid as error:
        raise _complaint(error) from None
    if (request.thumb is None) == (request.score is None):
        raise InvalidRequest(
            'give either "thumb" ("up" or "down") or "score" (0 to 1)', param="score"
        )
    score = float(request.thumb == "up") if request.score is None else float(request.score)
    decision_id = request.decision_id.removeprefix(COMPLETION_PREFIX)
    return FeedbackCall(decision_id, score, request.expert)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return raw


def _role(wire_role: Literal["system", "developer", "user", "assistant"]) -> Role:
    return "system" if wire_role == "developer" else wire_role


def _complaint(error: Invalid) -> InvalidRequest:
    """The first complaint, in the request's own terms."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = _path(first["loc"])
    kind = first["type"]
    if kind == "missing":
        return InvalidRequest(f"{param} is required", param=param, code="missing_parameter")
    code = "invalid_value"
    if kind.endswith("_type"):
        code = "invalid_type"
    elif kind == "unsupported_value":
        code = kind
    elif kind == "extra_forbidden":
        return InvalidRequest(_not_taken(first["loc"]), param=param, code=code)
    return InvalidRequest(f"{param}: {first['msg']}", param=param, code=code)


def _not_taken(location: tuple[int | str, ...]) -> str:
    """Of the two places where nothing may go unread."""
    is_ours = location[0] == "coe"
    known = (_Control if is_ours else _FeedbackRequest).model_fields
    guess = nearest(str(location[-1]), known) if is_ours else None
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"{_path(location)} is not taken, only {', '.join(known)}{hint}"


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
