"""The Responses API: its request, its items, and the response."""

from __future__ import annotations

from collections.abc import Mapping

from coe.service.openapi.requests import guarded, with_rest
from coe.service.openapi.shapes import (
    ANY_TEXT,
    BOOLEAN,
    COUNT,
    NULL,
    OBJECT,
    PASSED_ON,
    Schema,
    answer,
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
from coe.service.responses.request import MISNAMED

_PART_KINDS = ("input_text", "output_text", "text")


def responses_schemas(limits: RequestLimits) -> Mapping[str, Schema]:
    """The components, by name."""
    return {
        "ResponseRequest": guarded(record(_request_fields(limits), ["model", "input"])),
        "ResponseTextPart": record(
            {"type": one_of(*_PART_KINDS), "text": ANY_TEXT}, ["type", "text"]
        ),
        "ResponseImagePart": {
            **record({"type": one_of("input_image"), "image_url": ANY_TEXT}, ["type", "image_url"]),
            PASSED_ON: True,
        },
        "ResponseMessage": _message(limits),
        "ResponseCall": {
            **record(
                {
                    "type": one_of("function_call"),
                    **dict.fromkeys(("name", "arguments", "call_id"), ANY_TEXT),
                },
                ["type", "name", "arguments", "call_id"],
            ),
            PASSED_ON: True,
        },
        "ResponseCallOutput": {
            **record(
                {"type": one_of("function_call_output"), "call_id": ANY_TEXT, "output": _output()},
                ["type", "call_id", "output"],
            ),
            PASSED_ON: True,
        },
        "ResponseReasoning": {
            **record({"type": one_of("reasoning")}, ["type"]),
            PASSED_ON: True,
        },
        "ResponseTool": record(
            {"type": one_of("function"), "name": ANY_TEXT, "parameters": optional(OBJECT)},
            ["type", "name"],
        ),
        "Response": _response(),
        "ResponseEvent": answer({"type": ANY_TEXT, "sequence_number": COUNT}),
        "DeletedResponse": answer(
            {"id": ANY_TEXT, "object": one_of("response"), "deleted": one_of(True)}
        ),
    }


def _message(limits: RequestLimits) -> Schema:
    parts = any_of(ref("ResponseTextPart"), ref("ResponseImagePart"))
    return record(
        {
            "type": one_of("message"),
            "role": one_of("user", "assistant", "system", "developer"),
            "content": any_of(ANY_TEXT, list_of(parts, 1, limits.max_parts)),
        },
        ["role", "content"],
    )


def _output() -> Schema:
    return any_of(ANY_TEXT, list_of(ref("ResponseTextPart"), 1))


def _request_fields(limits: RequestLimits) -> Mapping[str, Schema]:
    kinds = ("Message", "Call", "CallOutput", "Reasoning")
    items = any_of(*(ref(f"Response{kind}") for kind in kinds))
    misnamed = {name: told(NULL, f"Send {said} here.") for name, said in MISNAMED.items()}
    fields = {
        "model": ref("Model"),
        "input": any_of(ANY_TEXT, list_of(items, 1, limits.max_inputs)),
        "instructions": optional(ANY_TEXT),
        "max_output_tokens": optional(whole(1, limits.max_tokens)),
        "max_tool_calls": optional({"type": "integer"}),
        "metadata": optional(
            {
                "type": "object",
                "maxProperties": 16,
                "propertyNames": {"maxLength": 64},
                "additionalProperties": text(0, 512),
            }
        ),
        "temperature": optional(number(0, 2)),
        "top_p": optional({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        "store": optional(BOOLEAN),
        "stream": optional(BOOLEAN),
        "parallel_tool_calls": optional(BOOLEAN),
        "prompt_cache_key": told(optional(text(1, 256)), "Does for `coe.affinity`."),
        "truncation": optional(one_of("disabled")),
        "background": optional(one_of(False)),
        "coe": optional(ref("Control")),
        "previous_response_id": {
            **told(optional(ANY_TEXT), "Of a response that is kept here."),
            PASSED_ON: True,
        },
        "include": passed_on(
            list_of(one_of("message.output_text.logprobs", "reasoning.encrypted_content"))
        ),
        "top_logprobs": passed_on(whole(0, limits.max_logprobs)),
        "reasoning": passed_on(record({"effort": optional(ANY_TEXT)})),
        "text": passed_on(record({"verbosity": optional(ANY_TEXT), "format": optional(_format())})),
        "tools": passed_on(list_of(ref("ResponseTool"), 0, limits.max_tools)),
        "tool_choice": passed_on(
            any_of(one_of("none", "auto", "required"), record({"type": ANY_TEXT}, ["type"]))
        ),
        "conversation": NULL,
        "prompt": NULL,
        "moderation": NULL,
        "context_management": optional(list_of({}, 0, 0)),
        "n": optional(one_of(1)),
        "best_of": optional(one_of(1)),
        "user": optional(ANY_TEXT),
        "safety_identifier": optional(ANY_TEXT),
    }
    return with_rest({**misnamed, **fields})


def _format() -> Schema:
    schema = record(
        {"type": one_of("json_schema"), "name": ANY_TEXT, "schema": OBJECT},
        ["type", "name", "schema"],
    )
    return any_of(record({"type": one_of("text", "json_object")}, ["type"]), schema)


def _response() -> Schema:
    usage = answer(dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), COUNT))
    return answer(
        {
            "id": ANY_TEXT,
            "object": one_of("response"),
            "created_at": COUNT,
            "completed_at": optional(COUNT),
            "status": one_of("in_progress", "completed", "incomplete", "failed"),
            "model": ANY_TEXT,
            "output": list_of(answer({"id": ANY_TEXT, "type": ANY_TEXT, "status": ANY_TEXT})),
            "usage": optional(usage),
            "error": optional(OBJECT),
            "incomplete_details": optional(OBJECT),
            "instructions": optional(ANY_TEXT),
            "max_output_tokens": optional(COUNT),
            "max_tool_calls": optional({"type": "integer"}),
            "metadata": {"type": "object", "additionalProperties": ANY_TEXT},
            "parallel_tool_calls": BOOLEAN,
            "previous_response_id": optional(ANY_TEXT),
            "store": BOOLEAN,
            "temperature": optional({"type": "number"}),
            "top_p": optional({"type": "number"}),
            "tool_choice": any_of(ANY_TEXT, OBJECT),
            "tools": list_of(OBJECT),
            "truncation": ANY_TEXT,
        }
    )
