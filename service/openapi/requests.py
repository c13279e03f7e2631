"""What the generating routes take: what the gateway checks, as it checks it.

Fields that it only passes on are typed as OpenAI has them: an expert's server refuses others.
"""

from __future__ import annotations

from collections.abc import Mapping

from coe.service.control import MOST_EXPERTS, MOST_URGENT
from coe.service.openapi.shapes import (
    ANY_TEXT,
    BOOLEAN,
    OBJECT,
    PASSED_ON,
    Schema,
    any_of,
    list_of,
    number,
    one_of,
    optional,
    passed_on,
    record,
    ref,
    text,
    told,
    whole,
)
from coe.service.request_limits import RequestLimits
from coe.service.settings import ServiceSettings
from coe.service.unsupported import UNSUPPORTED
from coe.service.upstream_fields import UPSTREAM_FIELDS

_NAME = text(1, 256)
_INT64 = 2**63
_PENALTY = number(-2, 2)


def request_schemas(settings: ServiceSettings) -> Mapping[str, Schema]:
    """The components, by name."""
    limits = settings.limits
    sampling = _sampling(limits)
    chat = with_rest({**_chat_fields(limits), **sampling})
    return {
        "Model": told(_NAME, "The model that routes, or an expert's id; GET /v1/models has all."),
        "FieldName": {"type": "string", "not": one_of(*sorted(UPSTREAM_FIELDS))},
        "Expert": told(ANY_TEXT, "An expert's id."),
        "Policy": told(_NAME, "In place of the pool's own, such as `top-3`."),
        "Control": _control(),
        "StreamOptions": told(
            record({"include_usage": optional(BOOLEAN)}), "Only together with `stream`."
        ),
        "TextPart": told(
            record({"type": one_of("text"), "text": ANY_TEXT}, ["type", "text"]),
            "What would have an expert fetch or load something is refused in here, too.",
        ),
        "ServerPart": {
            **record({"type": one_of("image_url", "input_audio", "file", "refusal")}, ["type"]),
            PASSED_ON: True,
        },
        "TextMessage": record(
            {
                "role": one_of("system", "developer", "user", "assistant"),
                "content": any_of(ANY_TEXT, list_of(ref("TextPart"), 1, limits.max_parts)),
            },
            ["role", "content"],
        ),
        "ServerMessage": {**_server_message(limits), PASSED_ON: True},
        "Message": any_of(ref("TextMessage"), ref("ServerMessage")),
        "Tool": record({"type": one_of("function"), "function": ref("Function")}, ["type"]),
        "Function": record({"name": ANY_TEXT, "parameters": OBJECT}, ["name"]),
        "ChatRequest": _streamable(record(chat, ["model", "messages"])),
        "RouteRequest": _streamable(
            record({**chat, "model": one_of(settings.model_name)}, ["messages"])
        ),
        "CompletionRequest": _streamable(
            record(with_rest({**_completion_fields(limits), **sampling}), ["model", "prompt"])
        ),
        "EmbeddingRequest": guarded(record(_embedding_fields(limits), ["model", "input"])),
        "FeedbackRequest": _feedback(),
    }


def _control() -> Schema:
    """What a client says of how its request is to be handled; closed, unlike the rest."""
    fields = {
        "priority": optional(whole(-MOST_URGENT, MOST_URGENT)),
        "timeout_s": told(
            optional({"type": "number", "exclusiveMinimum": 0}), "For the whole answer."
        ),
        "experts": told(
            optional(list_of(ref("Expert"), 1, MOST_EXPERTS)), "Only these may answer."
        ),
        "policy": optional(ref("Policy")),
        "affinity": told(optional(_NAME), "Requests of one name stay with one expert."),
        "cache": optional(one_of("use", "skip")),
        "progress": told(
            optional(BOOLEAN), "Comments in a stream tell what happens before its first word."
        ),
    }
    return record(fields, is_closed=True)


def with_rest(fields: Mapping[str, Schema]) -> Mapping[str, Schema]:
    """With the fields that are told apart by name only: whatever they hold is an expert's."""
    return {**{name: passed_on({}) for name in UNSUPPORTED}, **fields}


def guarded(schema: Schema) -> Schema:
    """Without the fields that would choose where a request goes."""
    return {**schema, "propertyNames": ref("FieldName")}


def _streamable(schema: Schema) -> Schema:
    """`stream_options` only where there is a stream."""
    has_options = {"required": ["stream_options"], "properties": {"stream_options": OBJECT}}
    is_streamed = {"required": ["stream"], "properties": {"stream": one_of(True)}}
    return {**guarded(schema), "if": has_options, "then": is_streamed}


def _server_message(limits: RequestLimits) -> Schema:
    parts = list_of(any_of(ref("TextPart"), ref("ServerPart")), 1, limits.max_parts)
    fields = {
        "role": one_of("system", "developer", "user", "assistant", "tool", "function"),
        "content": any_of(ANY_TEXT, parts, {"type": "null"}),
        "tool_calls": list_of(OBJECT),
        "tool_call_id": ANY_TEXT,
    }
    return record(fields, ["role"])


def _sampling(limits: RequestLimits) -> Mapping[str, Schema]:
    """What chats and completions share."""
    stop = text(1, limits.max_stop_chars)
    tokens = optional(whole(1, limits.max_tokens))
    return {
        "model": ref("Model"),
        "temperature": told(
            optional(number(0, 2)), "Unsaid, a server goes by its own; others repeat their answers."
        ),
        "top_p": optional({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        "max_tokens": tokens,
        "stop": any_of(stop, list_of(stop, 0, 4), {"type": "null"}),
        "seed": optional(whole(-_INT64, _INT64 - 1)),
        "stream": optional(BOOLEAN),
        "stream_options": optional(ref("StreamOptions")),
        "coe": optional(ref("Control")),
        "n": passed_on(whole(1, limits.max_choices), "Choices; 1 everybody gives."),
        "presence_penalty": passed_on(_PENALTY),
        "frequency_penalty": passed_on(_PENALTY),
        "logit_bias": passed_on({"type": "object", "maxProperties": limits.max_token_ids}),
    }


def _chat_fields(limits: RequestLimits) -> Mapping[str, Schema]:
    named = record({"type": one_of("function"), "function": ref("Function")}, ["type", "function"])
    return {
        "messages": list_of(ref("Message"), 1, limits.max_messages),
        "max_completion_tokens": optional(whole(1, limits.max_tokens)),
        "prompt_cache_key": told(optional(_NAME), "Does for `coe.affinity`."),
        "tools": passed_on(list_of(ref("Tool"), 0, limits.max_tools)),
        "tool_choice": passed_on(any_of(one_of("none", "auto", "required"), named)),
        "response_format": passed_on(
            record({"type": one_of("text", "json_object", "json_schema")}, ["type"])
        ),
        "logprobs": passed_on(BOOLEAN),
        "top_logprobs": passed_on(whole(0, limits.max_logprobs)),
        "reasoning_effort": passed_on(ANY_TEXT),
    }


def _completion_fields(limits: RequestLimits) -> Mapping[str, Schema]:
    tokens = list_of({"type": "integer"}, 1)
    several = list_of(any_of(ANY_TEXT, tokens), 1, limits.max_inputs)
    return {
        "prompt": told(
            any_of(ANY_TEXT, {**any_of(several, tokens), PASSED_ON: True}),
            "Several prompts, and prompts of tokens, are for experts that are servers.",
        ),
        "echo": passed_on(BOOLEAN),
        "suffix": passed_on(ANY_TEXT),
        "logprobs": passed_on(whole(0, limits.max_logprobs)),
        "best_of": passed_on(whole(1, limits.max_choices)),
        "prompt_embeds": passed_on({}),
        "messages": passed_on({}, "Rather a field of /v1/chat/completions."),
    }


def _embedding_fields(limits: RequestLimits) -> Mapping[str, Schema]:
    tokens = list_of({"type": "integer"}, 1)
    several = list_of(any_of(ANY_TEXT, tokens), 1, limits.max_inputs)
    return {
        "model": told(ref("Model"), "An expert that has embeddings, or coe to have one chosen."),
        "input": any_of(text(1), several, tokens),
        "coe": optional(ref("Control")),
    }


def _feedback() -> Schema:
    fields = {
        "decision_id": told(_NAME, "Of the header x-coe-decision-id, or a chat completion's id."),
        "thumb": optional(one_of("up", "down")),
        "score": optional(number(0, 1)),
        "expert": told(optional(_NAME), "Where several answered."),
    }
    by_thumb = {"required": ["thumb"], "properties": {"thumb": one_of("up", "down")}}
    by_score = {"required": ["score"], "properties": {"score": number(0, 1)}}
    return {**record(fields, ["decision_id"], is_closed=True), "oneOf": [by_thumb, by_score]}
