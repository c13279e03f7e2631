"""What the gateway answers. An expert's own response goes through as it is, with all it has."""

from __future__ import annotations

from collections.abc import Mapping

from coe.service.openapi.shapes import (
    ANY_TEXT,
    BOOLEAN,
    COUNT,
    OBJECT,
    Schema,
    answer,
    any_of,
    list_of,
    number,
    one_of,
    optional,
    record,
    ref,
)

_SHARED: Mapping[str, Schema] = {"id": ANY_TEXT, "created": COUNT, "model": ANY_TEXT}
_SCORES: Schema = {"type": "object", "additionalProperties": {"type": "number"}}


def answer_schemas() -> Mapping[str, Schema]:
    """The components, by name."""
    return {**_generated(), **_decided(), **_listed()}


def _generated() -> Mapping[str, Schema]:
    return {
        "Error": answer({"error": ref("ErrorDetail")}),
        "ErrorDetail": answer(
            {
                "message": ANY_TEXT,
                "type": ANY_TEXT,
                "param": optional(ANY_TEXT),
                "code": optional(ANY_TEXT),
            }
        ),
        "Usage": answer({f"{kind}_tokens": COUNT for kind in ("prompt", "completion", "total")}),
        "ChatCompletion": _completion("chat.completion", {"message": ref("ChatMessage")}),
        "ChatMessage": record(
            {
                "role": one_of("assistant"),
                "content": optional(ANY_TEXT),
                "refusal": optional(ANY_TEXT),
                "tool_calls": optional(list_of(OBJECT)),
            },
            ["role"],
        ),
        "ChatCompletionChunk": _completion("chat.completion.chunk", {"delta": OBJECT}),
        "TextCompletion": _completion("text_completion", {"text": ANY_TEXT}),
        "TextCompletionChunk": _completion("text_completion", {"text": ANY_TEXT}),
        "EmbeddingList": answer({"object": one_of("list"), "data": list_of(ref("Embedding"))}),
        "Embedding": answer(
            {
                "object": one_of("embedding"),
                "index": COUNT,
                "embedding": any_of(list_of({"type": "number"}), ANY_TEXT),
            }
        ),
    }


def _decided() -> Mapping[str, Schema]:
    return {
        "Decision": answer(
            {
                "object": one_of("routing_decision"),
                "experts": list_of(ANY_TEXT, 1),
                "scores": _SCORES,
                "router": ANY_TEXT,
                "reasons": list_of(ANY_TEXT),
                "ask": optional(ANY_TEXT),
            }
        ),
        "Feedback": answer(
            {
                "object": one_of("feedback"),
                "decision_id": ANY_TEXT,
                "expert": ANY_TEXT,
                "score": number(0, 1),
                "replaced": BOOLEAN,
            }
        ),
    }


def _listed() -> Mapping[str, Schema]:
    return {
        "ModelList": answer({"object": one_of("list"), "data": list_of(ref("ListedModel"), 1)}),
        "ListedModel": answer(
            {
                "id": ANY_TEXT,
                "object": one_of("model"),
                "created": COUNT,
                "owned_by": ANY_TEXT,
                "coe": answer({"kind": one_of("router", "expert")}),
            }
        ),
        "Liveness": answer({"status": one_of("ok")}),
        "Readiness": answer(
            {
                "status": one_of("ready", "not ready"),
                "router": ANY_TEXT,
                "experts": {"type": "object", "additionalProperties": ANY_TEXT},
            }
        ),
    }


def _completion(name: str, said: Mapping[str, Schema]) -> Schema:
    choice = answer({"index": COUNT, **said, "finish_reason": optional(ANY_TEXT)})
    whole = {**_SHARED, "object": one_of(name), "choices": list_of(choice)}
    return record({**whole, "usage": optional(ref("Usage"))}, tuple(whole))
