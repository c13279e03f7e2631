"""Requests as they come over the wire → the core's own words.

Strict where the answer depends on it. Fields that would change the answer and that no engine
honours yet are refused by name unless they say what holds anyway; what cannot change it
(`user`, `metadata`, `store` and whatever else is not named here) is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Invalid
from pydantic_core import PydanticCustomError

from coe.service.errors import InvalidRequest
from coe.types import GenerationRequest, Message, Role, SamplingParams

# Field → the values that change nothing. Null never does.
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    # What vLLM and its kin add to the protocol.
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (0,),
    "echo": (False,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
_UNSUPPORTED_IN_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
}
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


_Stops = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=4)]


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class _ChatRequest(_Wire):
    model: str = Field(min_length=1, max_length=_MAX_MODEL_CHARS)
    messages: list[_Message] = Field(min_length=1)
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

    def sampling(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )


def read_chat(body: bytes) -> ChatCall:
    """Raises `InvalidRequest`, which names the field that is wrong, and nothing else."""
    raw = _json_object(body)
    _refuse_unsupported(raw)
    try:
        request = _ChatRequest.model_validate(raw)
    except Invalid as error:
        raise _complaint(error) from None
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "stream_options is only allowed together with stream=true", param="stream_options"
        )
    options = request.stream_options or _StreamOptions()
    messages = tuple(Message(_role(said.role), said.content) for said in request.messages)
    return ChatCall(
        model=request.model,
        generation=GenerationRequest(
            messages, request.sampling(), session=request.prompt_cache_key
        ),
        is_streamed=bool(request.stream),
        wants_usage=bool(options.include_usage),
    )


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


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    _refuse(raw, _UNSUPPORTED, "")
    messages = raw.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _refuse(message, _UNSUPPORTED_IN_MESSAGE, f"messages[{index}].")


def _refuse(raw: Mapping[str, Any], refused: Mapping[str, tuple[object, ...]], place: str) -> None:
    for name in refused.keys() & raw.keys():
        neutral = refused[name]
        if raw[name] is None or raw[name] in neutral:
            continue
        instead = f"leave it out or send {_shown(neutral[0])}" if neutral else "leave it out"
        raise InvalidRequest(
            f"{place}{name} is not supported by this gateway as it is given; {instead}",
            param=f"{place}{name}",
            code="unsupported_parameter",
        )


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()


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
        known = ", ".join(_FeedbackRequest.model_fields)
        return InvalidRequest(f"{param} is not taken, only {known}", param=param, code=code)
    return InvalidRequest(f"{param}: {first['msg']}", param=param, code=code)


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
